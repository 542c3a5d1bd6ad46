"""Convert a job's record to Django's TaskResult, from the header in its envelope, its history and its result."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from django.conf import settings
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, Task, TaskResult, TaskResultStatus
from django.tasks.base import DEFAULT_TASK_PRIORITY, TaskError
from django.utils.timezone import get_current_timezone, make_naive

from jobs_core import Message
from jobs_core.backends.base import JobRecord, State

HEADER = "django"
"""The envelope's header for values that Django needs and that are not stored elsewhere."""

STATUS = {
    State.READY: TaskResultStatus.READY,
    State.LIMITED: TaskResultStatus.READY,
    State.WAITING: TaskResultStatus.READY,
    State.SCHEDULED: TaskResultStatus.READY,
    State.RESERVED: TaskResultStatus.RUNNING,
    State.DONE: TaskResultStatus.SUCCESSFUL,
    State.DEAD: TaskResultStatus.FAILED,
}


@dataclasses.dataclass(frozen=True)
class Header:
    """The exact values with which a task was enqueued: the envelope has coarser priorities and relative times."""

    enqueued: float
    backend: str = DEFAULT_TASK_BACKEND_ALIAS
    queue: str = "default"
    priority: int = DEFAULT_TASK_PRIORITY
    run_after: str | None = None

    def values(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def enqueued_at(self) -> datetime:
        return moment(self.enqueued)


@dataclasses.dataclass(frozen=True)
class Stored:
    """The stored result of a task's job, which is all that remains when the job is done."""

    value: Any
    path: str
    header: dict[str, Any]
    args: list[Any]
    kwargs: dict[str, Any]
    started_at: float
    finished_at: float
    workers: list[str]

    def values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def header(message: Message) -> Header:
    """Return the header of a message; if the schedule or another producer wrote the message, only with the known values."""
    given = message.headers.get(HEADER)
    if isinstance(given, Mapping):
        return Header(**given)
    return Header(enqueued=message.enqueued_at, queue=message.topic)


def described(task: Task, head: Header) -> Task:
    """Return the task as it was when it was enqueued."""
    run_after = None if head.run_after is None else datetime.fromisoformat(head.run_after)
    return dataclasses.replace(task, priority=head.priority, queue_name=head.queue, backend=head.backend, run_after=run_after)


def moment(at: float) -> datetime:
    """Convert a Unix time to the project's representation: aware, or naive with USE_TZ = False."""
    found = datetime.fromtimestamp(at, timezone.utc)
    return found if settings.USE_TZ else make_naive(found, get_current_timezone())


def waiting(task: Task, message: Message, record: JobRecord) -> TaskResult:
    """Return the result of a task that is queued, running or failed."""
    head = header(message)
    errors = [json.loads(error) for error in record.errors]
    workers = [f"{error.get('host', '?')}-{error.get('pid', '?')}" for error in errors]
    if record.state is State.RESERVED:
        workers.append(record.owner or "?")
    last = errors[-1].get("at") if errors else None
    begun = moment(record.since) if record.state is State.RESERVED and record.since else None
    return TaskResult(
        task=described(task, head),
        id=record.id,
        status=STATUS[record.state],
        enqueued_at=head.enqueued_at(),
        started_at=_moment(errors[0].get("started") or errors[0].get("at")) if errors else begun,
        finished_at=moment(record.since or last or 0.0) if record.state is State.DEAD else None,
        last_attempted_at=begun or _moment(last),
        args=list(message.args),
        kwargs=dict(message.kwargs),
        backend=head.backend,
        errors=[_error(error) for error in errors],
        worker_ids=workers,
    )


def done(task: Task, record: JobRecord, stored: Stored) -> TaskResult:
    """Return the result of a task that succeeded."""
    head = Header(**stored.header)
    result = TaskResult(
        task=described(task, head),
        id=record.id,
        status=TaskResultStatus.SUCCESSFUL,
        enqueued_at=head.enqueued_at(),
        started_at=moment(stored.started_at),
        finished_at=moment(stored.finished_at),
        last_attempted_at=moment(stored.started_at),
        args=stored.args,
        kwargs=stored.kwargs,
        backend=head.backend,
        errors=[],
        worker_ids=stored.workers,
    )
    object.__setattr__(result, "_return_value", stored.value)
    return result


def _moment(at: float | None) -> datetime | None:
    return None if at is None else moment(at)


def _error(entry: Mapping[str, Any]) -> TaskError:
    kind = str(entry.get("type", "Exception"))
    path = kind if "." in kind else f"builtins.{kind}"
    return TaskError(exception_class_path=path, traceback=str(entry.get("traceback", "")))
