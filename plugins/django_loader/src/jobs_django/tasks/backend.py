"""Enqueue Django's tasks as jobs: `TASKS = {"default": {"BACKEND": "jobs_django.TasksBackend"}}`."""

from __future__ import annotations

import dataclasses
import sys
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from django.tasks import Task, TaskResult, TaskResultStatus
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django.utils.timezone import get_current_timezone, is_naive, make_aware

from jobs_core import JobHandle, NotSupported, current_app
from jobs_core.backends.base import JobRecord, State

from ..discovery import discover
from ..settings import application
from .definition import JobsTask, adopt, job_of, task_at, ten_steps
from .record import HEADER, Header, Stored, done, waiting


class TasksBackend(BaseTaskBackend):
    """Enqueues tasks as jobs; queues are topics. OPTIONS may set retries, timeout, backoff, expires, unique and on_commit."""

    task_class = JobsTask
    supports_async_task = True

    @cached_property
    def _features(self) -> frozenset[str]:
        return application().new_backend().features  # Django reads it while it imports modules, before there is a `current_app`

    @property
    def supports_defer(self) -> bool:
        return "delay" in self._features

    @property
    def supports_get_result(self) -> bool:
        return self._features >= {"lookup", "results"}

    @property
    def supports_priority(self) -> bool:
        return "priority" in self._features

    def enqueue(self, task: Task, args: Any, kwargs: Any) -> TaskResult:
        """Store a task durably; raise the errors of `JobFunction.enqueue`, and InvalidTask."""
        self.validate_task(task)
        now = datetime.now(timezone.utc)
        run_after = None if task.run_after is None else task.run_after.isoformat()
        head = Header(now.timestamp(), self.alias, task.queue_name, task.priority, run_after)
        made = TaskResult(
            task=task,
            id="",
            status=TaskResultStatus.READY,
            enqueued_at=head.enqueued_at(),
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=list(args),
            kwargs=dict(kwargs),
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        handle = self._send(task, made, head, now)
        if not handle.created:  # a task with the same unique key exists: its result is returned
            return self.get_result(handle.id)
        made = dataclasses.replace(made, id=handle.id)
        task_enqueued.send(type(self), task_result=made)
        return made

    def _send(self, task: Task, made: TaskResult, head: Header, now: datetime) -> JobHandle[Any]:
        chosen = job_of(task).using(
            topic=task.queue_name,
            priority=ten_steps(task.priority),
            delay=None if task.run_after is None else max(0.0, (_aware(task.run_after) - now).total_seconds()),
            store_result=True,
            headers={HEADER: head.values()},
        )
        return chosen.enqueue(*made.args, **made.kwargs)

    def validate_task(self, task: Task) -> None:
        super().validate_task(task)
        for reason in [] if task.queue_name.replace("-", "").replace("_", "").replace(".", "").isalnum() else [task.queue_name]:
            raise InvalidTask(f"invalid topic name {reason!r}: use letters, digits, _, - and .")

    def get_result(self, result_id: str) -> TaskResult:
        """Return the result of a task; raise TaskResultDoesNotExist if it was cancelled or its result has expired."""
        try:
            record = current_app().find(str(result_id))
        except NotSupported as error:
            raise NotImplementedError(str(error)) from None  # as Django's interface requires of a backend without results
        if record is None or record.state in (State.CANCELLED, State.UNKNOWN):
            raise TaskResultDoesNotExist(result_id)
        if record.state is State.DONE:
            stored = _stored(record)
            return done(_task(stored.path, result_id), record, stored)
        message = current_app().read(record)
        return waiting(_task(message.job or "", result_id), message, record)


def _stored(record: JobRecord) -> Stored:
    value = current_app().stored_result(record.id, record.result or b"{}").get("value")
    if not isinstance(value, dict) or value.keys() != {field.name for field in dataclasses.fields(Stored)}:
        raise TaskResultDoesNotExist(record.id)  # the id is of a job that is not a task
    return Stored(**value)


def _task(path: str, result_id: str) -> Task:
    """Return the task with this path; if it is unknown, import the apps' task modules first."""
    task = task_at(path)
    if task is None:
        for module in discover():
            adopt(sys.modules[module])
        task = task_at(path)
    if task is None:
        raise TaskResultDoesNotExist(result_id)
    return task


def _aware(moment: datetime) -> datetime:
    return make_aware(moment, get_current_timezone()) if is_naive(moment) else moment
