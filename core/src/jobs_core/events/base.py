"""The base classes of events, and `emit`, which passes an event to the log."""

from __future__ import annotations

import logging
from typing import ClassVar

from msgspec import Struct

from .. import boundary
from ..units import format_duration

logger = logging.getLogger("jobs")


class Event(Struct, frozen=True):
    """An event that operators should know of. `str` gives a sentence: the cause, the consequence and what happens next."""

    level: ClassVar[int] = logging.INFO


class JobEvent(Event, frozen=True):
    """An event about one job."""

    job_id: str
    job: str
    topic: str

    @property
    def subject(self) -> str:
        return f"{self.job} {self.job_id} in topic {self.topic}"


class WorkerEvent(Event, frozen=True):
    """An event about one worker process, as its supervisor sees it."""

    owner: str
    pid: int
    pool: str

    @property
    def subject(self) -> str:
        return f"worker {self.owner} ({self.pid}) of pool {self.pool}"


def tells_all() -> bool:
    """Return whether level debug is on; callers ask once per batch, before they create any debug event."""
    return logger.isEnabledFor(logging.DEBUG)


def emit(event: Event) -> None:
    """Pass an event to the log. Any thread may call."""
    if logger.isEnabledFor(event.level):
        boundary.log(logger, event.level, "%s", event, event=event)


def soon(seconds: float) -> str:
    """Return "in 5s" or "immediately", for a sentence about the time of the next step."""
    return f"in {format_duration(round(seconds, 1))}" if seconds > 0 else "immediately"
