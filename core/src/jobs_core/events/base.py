"""The parts that all events share, and the way of an event to the log."""

from __future__ import annotations

import logging
from typing import ClassVar

from msgspec import Struct

from .. import boundary
from ..units import format_duration

logger = logging.getLogger("jobs")


class Event(Struct, frozen=True):
    """An event worth an operator's attention. Its text is a sentence: cause, consequence, what happens next."""

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
    """Return whether level debug is on: asked once per batch, before any debug event is made."""
    return logger.isEnabledFor(logging.DEBUG)


def emit(event: Event) -> None:
    """Pass an event to the log. Any thread may call."""
    if logger.isEnabledFor(event.level):
        boundary.log(logger, event.level, "%s", event, event=event)


def soon(seconds: float) -> str:
    """Return when something follows, for a sentence."""
    return f"in {format_duration(round(seconds, 1))}" if seconds > 0 else "immediately"
