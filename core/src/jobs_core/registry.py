"""The registry of names: a message can only name registered jobs, and never causes an import."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, TypeAlias

from . import foreign
from .errors import JobDefinitionError, UnknownJob
from .job_function import JobFunction

AnyJob: TypeAlias = "JobFunction[Any, Any, Any]"


class Registry:
    """Job functions by their names and aliases. Filled at import, read by any thread."""

    def __init__(self) -> None:
        self._jobs: dict[str, AnyJob] = {}

    def add(self, job: AnyJob) -> None:
        """Register a job under its name and aliases; raise JobDefinitionError if one is taken by another function.

        When a module is executed again (a reload), its new definitions replace its old ones.
        """
        for name in (job.name, *job.aliases):
            other = self._jobs.get(name)
            if other is not None and not replaces(job, other):
                raise JobDefinitionError(
                    f"{_wanting(job, other)} registered as job {name!r}: {origin(other.function)} and {origin(job.function)}. "
                    "Give one of them another name: @job(name=...)"
                )
        for name in (job.name, *job.aliases):
            self._jobs[name] = job

    def get(self, name: str) -> AnyJob | None:
        """Return the job of this name or alias, or None."""
        return self._jobs.get(name)

    def find(self, name: str) -> AnyJob:
        """Return the job of this name or alias; raise UnknownJob with the nearest names."""
        job = self._jobs.get(name)
        if job is None:
            within = [known for known in self._jobs if known.endswith(f".{name}")]  # the function's name alone
            nearest = within[:3] or foreign.close(name, self._jobs, 3)
            hint = f"; the nearest names are {', '.join(nearest)}" if nearest else ""
            raise UnknownJob(f"no job named {name!r} is registered here{hint}", nearest=nearest)
        return job

    def __iter__(self) -> Iterator[AnyJob]:
        """Yield every job once, by name."""
        return iter(sorted(set(self._jobs.values()), key=lambda job: job.name))

    def __len__(self) -> int:
        return len(set(self._jobs.values()))

    def clear(self) -> None:
        """Forget everything; for tests."""
        self._jobs.clear()


def replaces(job: AnyJob, other: AnyJob) -> bool:
    """Return whether a job may replace another of the same name.

    It may if it is the same function with the same options, or if the other comes from an older execution of its module.

    Equal line numbers prove nothing: a factory or decorator makes many functions on one line. In `__main__`, where people
    try things out, functions of the same name are taken for versions of one function, unless their closures differ.
    """
    if job.function is other.function and job.settings == other.settings:
        return True
    new, old = job.defined, other.defined
    if new.module == old.module and new.spec is not old.spec:
        return True
    return job.function.__module__ == "__main__" and _looks_like(job.function, other.function)


def _wanting(job: AnyJob, other: AnyJob) -> str:
    return "one function with two sets of options is" if job.function is other.function else "two functions are"


def _looks_like(one: Any, other: Any) -> bool:
    """Return whether two functions have the same name and, if they are nested, closures with similar contents."""
    if (one.__module__, one.__qualname__) != (other.__module__, other.__qualname__):
        return False
    if "<locals>" not in one.__qualname__:
        return True
    mine, theirs = ([_content(cell) for cell in getattr(it, "__closure__", None) or ()] for it in (one, other))
    return len(mine) == len(theirs) and all(map(_are_alike, mine, theirs))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is empty
        return None


def _are_alike(one: Any, other: Any) -> bool:
    if inspect.isfunction(one) and inspect.isfunction(other):
        return _looks_like(one, other)
    try:
        return one is other or bool(one == other)
    except Exception:  # a user's class may raise anything
        return False


def origin(function: Any) -> str:
    """Return the name of a function with the file and line of its definition, for messages."""
    code = getattr(function, "__code__", None)
    where = f"{code.co_filename}:{code.co_firstlineno}" if code else "?"
    return f"{function.__module__}.{function.__qualname__} ({where})"


default_registry = Registry()
"""The registry in which `@job` registers."""
