"""The registry of names: a message can only name what stands here, and is never a reason to import anything."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from .errors import JobDefinitionError, UnknownJob

if TYPE_CHECKING:
    from .job import JobFunction

AnyJob: TypeAlias = "JobFunction[Any, Any, Any]"


class Registry:
    """Names, and aliases of older names, to job functions. Filled at import, read by any thread."""

    def __init__(self) -> None:
        self._jobs: dict[str, AnyJob] = {}

    def add(self, job: AnyJob) -> None:
        """Register a job under its name and aliases; raises JobDefinitionError if one is taken by another function.

        The same function defined again (a reloaded module) takes the place of the old one.
        """
        for name in (job.name, *job.aliases):
            other = self._jobs.get(name)
            if other is not None and not same_origin(other.function, job.function):
                raise JobDefinitionError(
                    f"two functions want to be the job {name!r}: {origin(other.function)} and {origin(job.function)}. "
                    "Give one of them another name: @job(name=...)"
                )
        for name in (job.name, *job.aliases):
            self._jobs[name] = job

    def get(self, name: str) -> AnyJob | None:
        """The job of this name or alias, or None."""
        return self._jobs.get(name)

    def find(self, name: str) -> AnyJob:
        """The job of this name or alias; raises UnknownJob with the nearest names."""
        job = self._jobs.get(name)
        if job is None:
            nearest = difflib.get_close_matches(name, self._jobs, 3, 0.6)
            hint = f"; nearest are {', '.join(nearest)}" if nearest else ""
            raise UnknownJob(f"no job is called {name!r} here{hint}", nearest=nearest)
        return job

    def __iter__(self) -> Iterator[AnyJob]:
        """Every job once, by name."""
        return iter(sorted(set(self._jobs.values()), key=lambda job: job.name))

    def __len__(self) -> int:
        return len(set(self._jobs.values()))

    def clear(self) -> None:
        """Forget everything; for tests."""
        self._jobs.clear()


def same_origin(one: Any, other: Any) -> bool:
    """Whether two function objects come from the same line of the same file, as after a reload.

    In `__main__`, where people try things out, the same name is enough.
    """
    if one is other:
        return True
    same_name = (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
    return same_name and (one.__module__ == "__main__" or origin(one) == origin(other))


def origin(function: Any) -> str:
    """Where a function is defined, for people."""
    code = getattr(function, "__code__", None)
    where = f"{code.co_filename}:{code.co_firstlineno}" if code else "?"
    return f"{function.__module__}.{function.__qualname__} ({where})"


default_registry = Registry()
"""Where `@job` registers."""
