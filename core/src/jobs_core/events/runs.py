"""Events of one job: it is reserved, run and settled."""

from __future__ import annotations

import logging
from typing import ClassVar

from ..units import count, format_duration
from .base import Event, JobEvent


class JobTaken(JobEvent, frozen=True):
    """A worker has reserved a job and is about to run it."""

    level: ClassVar[int] = logging.DEBUG

    attempt: int

    def __str__(self) -> str:
        return f"{self.subject} was reserved, attempt {self.attempt}"


class JobDone(JobEvent, frozen=True):
    """A run has succeeded after `seconds`; logged if `logs.done` is set."""

    attempt: int
    seconds: float

    def __str__(self) -> str:
        again = f", attempt {self.attempt}" if self.attempt > 1 else ""
        return f"{self.subject} finished in {format_duration(_rounded(self.seconds))}{again}"


class JobSettled(Event, frozen=True):
    """The backend has answered a settlement; `job` is empty if the message could not be decoded."""

    level: ClassVar[int] = logging.DEBUG

    job_id: str
    job: str
    outcome: str
    answer: str

    def __str__(self) -> str:
        return f"{self.job or 'job'} {self.job_id} was settled as {self.outcome}" + (
            "" if self.answer == "settled" else f" ({self.answer})"
        )


class SettledStale(JobEvent, frozen=True):
    """A job finished here after its lease had expired: another worker is running it too, or has run it."""

    level: ClassVar[int] = logging.WARNING

    attempt: int

    def __str__(self) -> str:
        return (
            f"{self.subject}, attempt {self.attempt}, finished after its lease had expired: another worker is "
            "running it, or has run it, as well"
        )


class JobFailed(JobEvent, frozen=True):
    """An attempt failed and another follows."""

    level: ClassVar[int] = logging.WARNING

    attempt: int
    retry_after: float
    error: str
    traceback: str

    def __str__(self) -> str:
        pause = format_duration(round(self.retry_after, 2))
        return f"{self.subject} failed, attempt {self.attempt}; retrying in {pause}: {self.error}"


class JobDied(JobEvent, frozen=True):
    """A job went to the dead letters."""

    level: ClassVar[int] = logging.ERROR

    attempt: int
    reason: str
    error: str
    traceback: str

    def __str__(self) -> str:
        return f"{self.subject} is dead after {count(self.attempt, 'attempt')} ({self.reason}): {self.error}"


class JobOverdue(JobEvent, frozen=True):
    """A job has exceeded its timeout and is interrupted."""

    level: ClassVar[int] = logging.WARNING

    attempt: int
    timeout: float
    step: bool = False  # whether it is the timeout of a step

    def __str__(self) -> str:
        what, limit = "step_timeout" if self.step else "timeout", format_duration(self.timeout)
        return f"{self.subject} exceeded its {what} of {limit} and was interrupted, attempt {self.attempt}"


class JobSuspended(JobEvent, frozen=True):
    """A resumable job continues in another worker, because this one stops; `steps` is how many it did in this run."""

    attempt: int
    steps: int

    def __str__(self) -> str:
        steps = count(self.steps, "step")
        return f"{self.subject} was released after {steps}, because this worker stops; another one continues it"


class JobTooFast(JobEvent, frozen=True):
    """A run succeeded in less than its `min_time`, as did `more` other runs of the job since the last such event."""

    level: ClassVar[int] = logging.WARNING

    attempt: int
    seconds: float
    min_time: float
    more: int

    def __str__(self) -> str:
        others = f", like {self.more:,} others" if self.more > 1 else ", like another one" if self.more else ""
        return (
            f"{self.subject} finished in {format_duration(_rounded(self.seconds))}{others}: sooner than its min_time of "
            f"{format_duration(self.min_time)}, so it may not have done its work"
        )


class LeftBehind(JobEvent, frozen=True):
    """A run left tasks, timers or the like in its thread's event loop; they were cancelled or closed."""

    level: ClassVar[int] = logging.WARNING

    what: list[str]
    closed: bool
    """True if the loop was closed too; the next run then gets a new one."""

    def __str__(self) -> str:
        names = ", ".join(self.what[:5]) + (", …" if len(self.what) > 5 else "")
        ended = "ended now, and the loop was closed" if self.closed else "ended now"
        return (
            f"{self.subject} left in its event loop: {names} ({ended}); "
            "await or cancel these in the job, or make each a job of its own"
        )


class PutOffTooOften(JobEvent, frozen=True):
    """A job is deferred again and again without a pause: from now on, a pause is added to each deferral."""

    level: ClassVar[int] = logging.WARNING

    pause: float

    def __str__(self) -> str:
        wait = format_duration(self.pause)
        return (
            f"{self.subject} was deferred a hundred times within a second: from now on it waits at least "
            f"{wait} each time; raise Snooze with a longer delay"
        )


def _rounded(seconds: float) -> float:
    """Round to three significant digits below a second, and to the millisecond above."""
    return float(f"{seconds:.3g}") if seconds < 1 else round(seconds, 3)
