"""Run a task in a worker, with its context and signals, and record the run as its result."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import datetime, timezone
from inspect import iscoroutinefunction
from traceback import format_exception
from typing import Any

from django.tasks import Task, TaskContext, TaskResult, TaskResultStatus
from django.tasks.base import TaskError
from django.tasks.signals import task_finished, task_started
from django.utils.json import normalize_json

from jobs_core import JobContext, current_job

from .record import Stored, described, header


def worker_id() -> str:
    """Return the name of this process in the history of a job."""
    return f"{socket.gethostname()}-{os.getpid()}"


def runner(task: Task) -> Callable[..., Any]:
    """Return the function of the job behind a task. Its arguments stay plain JSON, as in Django's own backends."""
    run = _coroutine(task) if iscoroutinefunction(task.func) else _plain(task)
    run.__module__, run.__name__, run.__qualname__ = task.func.__module__, task.func.__name__, task.func.__qualname__
    return run


def _plain(task: Task) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        running = Running(task, args, kwargs)
        task_started.send(running.sender, task_result=running.result)
        try:
            value = normalize_json(task.func(*running.context, *args, **kwargs))
        except BaseException as error:
            if running.failed(error):
                task_finished.send(running.sender, task_result=running.result)
            raise
        stored = running.succeeded(value)
        task_finished.send(running.sender, task_result=running.result)
        return stored

    return run


def _coroutine(task: Task) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> Any:
        running = Running(task, args, kwargs)
        await task_started.asend(running.sender, task_result=running.result)
        try:
            value = normalize_json(await task.func(*running.context, *args, **kwargs))
        except BaseException as error:
            if running.failed(error):
                await task_finished.asend(running.sender, task_result=running.result)
            raise
        stored = running.succeeded(value)
        await task_finished.asend(running.sender, task_result=running.result)
        return stored

    return run


class Running:
    """One run of a task: the values for its context and signals, and at its end the stored result."""

    def __init__(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        job: JobContext = current_job()
        head = header(job.message)
        self._job = job
        self._head = head
        self._started = datetime.now(timezone.utc)
        self.result = TaskResult(
            task=described(task, head),
            id=job.id,
            status=TaskResultStatus.RUNNING,
            enqueued_at=head.enqueued_at(),
            started_at=self._started,
            finished_at=None,
            last_attempted_at=self._started,
            args=list(args),
            kwargs=kwargs,
            backend=head.backend,
            errors=[],
            worker_ids=["an earlier attempt"] * (job.attempt - 1) + [worker_id()],
        )
        self.sender = type(self.result.task.get_backend())
        self.context = (TaskContext(task_result=self.result),) if task.takes_context else ()

    def succeeded(self, value: Any) -> dict[str, Any]:
        """Record a success; return the result to store."""
        now = datetime.now(timezone.utc)
        self._end(TaskResultStatus.SUCCESSFUL, now, _return_value=value)
        return Stored(
            value=value,
            path=self.result.task.module_path,
            header=self._head.values(),
            args=self.result.args,
            kwargs=self.result.kwargs,
            started_at=self._started.timestamp(),
            finished_at=now.timestamp(),
            workers=self.result.worker_ids,
        ).values()

    def failed(self, error: BaseException) -> bool:
        """Record a failure if it ends the task; return whether it does. A task that will be retried has not finished."""
        if not self._job.is_final(error):
            return False
        kind = type(error)
        entry = TaskError(
            exception_class_path=f"{kind.__module__}.{kind.__qualname__}", traceback="".join(format_exception(error))
        )
        self.result.errors.append(entry)
        self._end(TaskResultStatus.FAILED, datetime.now(timezone.utc))
        return True

    def _end(self, status: TaskResultStatus, at: datetime, **more: Any) -> None:
        for name, value in {"status": status, "finished_at": at, **more}.items():
            object.__setattr__(self.result, name, value)  # the result is frozen; Django's own backends change it like this, too
