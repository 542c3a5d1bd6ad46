"""Register each Django task as a job, named by its path, when it is declared, so that workers know it."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

from django.tasks import Task
from django.tasks.base import TASK_MAX_PRIORITY, TASK_MIN_PRIORITY

from jobs_core import Backoff, JobFunction, Unique, job

from .running import runner

OPTIONS = ("retries", "timeout", "backoff", "expires", "unique", "on_commit")
SCHEDULE = ("cron", "tz", "missed")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobsTask(Task):
    """A task with our options for jobs: `@task(retries=5, cron="0 7 * * *")`, from Django 6.1 on.

    None means the value in the backend's OPTIONS. Unless `retries` is set, a task is not retried, because Django regards a
    task that raised as failed.
    """

    retries: int | None = None
    timeout: Any = None
    backoff: Backoff | Any = None
    expires: Any = None
    unique: Unique | bool | str | None = None
    on_commit: bool | None = None
    cron: str | None = None
    tz: str | None = None
    missed: str | None = None

    def __post_init__(self) -> None:
        Task.__post_init__(self)  # super() fails here: with slots, the decorator replaces the class
        job_of(self)


AnyJob = JobFunction[Any, Any, Any]
_known: dict[str, tuple[object, Task, AnyJob]] = {}


def job_of(task: Task) -> AnyJob:
    """Return the job function behind a task, and register it the first time; raise JobDefinitionError for invalid options."""
    path, definition = task.module_path, _definition(task)
    if path not in _known or _known[path][0] != definition:
        _known[path] = definition, task, _register(task, path)
    return _known[path][2]


def task_at(path: str) -> Task | None:
    """Return the task that was declared under this path. A path from a message must never cause an import."""
    found = _known.get(path)
    return found[1] if found else None


def adopt(module: ModuleType) -> None:
    """Register the tasks in a module that were declared for another backend."""
    for value in vars(module).values():
        if isinstance(value, Task) and value.module_path not in _known:
            job_of(value)


def ten_steps(priority: int) -> int:
    """Convert a priority from −100…100 to 0…9; the order is kept, but neighbours may become equal."""
    return (priority - TASK_MIN_PRIORITY) * 10 // (TASK_MAX_PRIORITY - TASK_MIN_PRIORITY + 1)


def _definition(task: Task) -> object:
    """Return those properties of a task that `using` does not change."""
    return task.func, task.takes_context, [getattr(task, name, None) for name in (*OPTIONS, *SCHEDULE)]


def _register(task: Task, path: str) -> AnyJob:
    own = {name: getattr(task, name, None) for name in (*OPTIONS, *SCHEDULE)}
    options = {"retries": 0, **_defaults(task), **{name: value for name, value in own.items() if value is not None}}
    return job(
        name=path,
        topic=task.queue_name,
        priority=ten_steps(task.priority),
        store_result=True,
        **options,
    )(runner(task))


def _defaults(task: Task) -> dict[str, Any]:
    options = getattr(task.get_backend(), "options", {})
    return {name: options[name] for name in OPTIONS if name in options}
