"""What happened, as data. `emit` hands an event to the log; one module (logs.py) turns events into lines."""

from __future__ import annotations

import logging

from msgspec import Struct

logger = logging.getLogger("jobs")


class Event(Struct, frozen=True):
    """Something worth telling an operator. Subclasses say what in their docstring and level."""


# -- a worker --------------------------------------------------------------------------------------


class WorkerStarted(Event, frozen=True):
    """A worker takes jobs."""

    owner: str
    pool: str
    topics: tuple[str, ...]
    mode: str
    concurrency: int


class WorkerStopping(Event, frozen=True):
    """A worker takes no more jobs and finishes what runs."""

    owner: str
    running: int


class WorkerStopped(Event, frozen=True):
    """A worker has settled everything."""

    owner: str
    done: int
    failed: int


class BackendLost(Event, frozen=True):
    """The backend cannot be reached; the worker goes on trying."""

    error: str


class BackendBack(Event, frozen=True):
    """The backend answers again."""

    seconds: float


class OwnerReplaced(Event, frozen=True):
    """The worker's lease had run out: its jobs went to others, it goes on under a new owner id."""

    old: str
    new: str
    running: int


class SettledStale(Event, frozen=True):
    """A job ran here whose lease had run out: it runs, or ran, elsewhere too."""

    job_id: str
    job: str
    topic: str
    attempt: int


# -- a run -----------------------------------------------------------------------------------------


class JobFailed(Event, frozen=True):
    """An attempt failed and another follows."""

    job_id: str
    job: str
    topic: str
    attempt: int
    retry_after: float
    error: str
    traceback: str


class JobDied(Event, frozen=True):
    """A job went to the dead letters."""

    job_id: str
    job: str
    topic: str
    attempt: int
    reason: str
    error: str
    traceback: str


class JobOverdue(Event, frozen=True):
    """A job has run past its timeout and is interrupted."""

    job_id: str
    job: str
    topic: str
    attempt: int
    timeout: float


# -- the schedule ----------------------------------------------------------------------------------


class TicksMissed(Event, frozen=True):
    """Ticks of an entry have passed unhandled, from `first` to `last`; `runs` if the last is enqueued now."""

    entry: str
    job: str
    first: float
    last: float
    runs: bool


class TickRefused(Event, frozen=True):
    """A tick's job cannot be enqueued, now or later."""

    entry: str
    job: str
    error: str


class ClockSetBack(Event, frozen=True):
    """This machine's clock was ahead by days: an entry goes on from the present."""

    entry: str
    seconds: float


class ScheduleForgotten(Event, frozen=True):
    """The file of handled ticks cannot be read: what was missed is not known."""

    path: str
    error: str


class ScheduleNotSaved(Event, frozen=True):
    """The file of handled ticks cannot be written."""

    path: str
    error: str


LEVELS: dict[type[Event], int] = {
    WorkerStarted: logging.INFO,
    WorkerStopping: logging.INFO,
    WorkerStopped: logging.INFO,
    BackendLost: logging.ERROR,
    BackendBack: logging.INFO,
    OwnerReplaced: logging.ERROR,
    SettledStale: logging.WARNING,
    JobFailed: logging.WARNING,
    JobDied: logging.ERROR,
    JobOverdue: logging.WARNING,
    TicksMissed: logging.WARNING,
    TickRefused: logging.ERROR,
    ClockSetBack: logging.WARNING,
    ScheduleForgotten: logging.WARNING,
    ScheduleNotSaved: logging.ERROR,
}


def emit(event: Event) -> None:
    """Tell the log. Any thread may call."""
    level = LEVELS.get(type(event), logging.INFO)
    if logger.isEnabledFor(level):
        logger.log(level, "%s", event, extra={"event": event})
