"""Events of the schedule."""

from __future__ import annotations

import logging
import time
from typing import ClassVar

from ..units import format_duration
from .base import Event


class TicksMissed(Event, frozen=True):
    """Ticks of a schedule entry were missed, from `first` to `last`; `runs` is True if the last one is enqueued now."""

    level: ClassVar[int] = logging.WARNING

    entry: str
    job: str
    first: float
    last: float
    runs: bool

    def __str__(self) -> str:
        missed = f"the run of {_when(self.last)} is enqueued now" if self.runs else 'they are skipped (missed = "skip")'
        return f"schedule {self.entry} has missed its runs of {self.job} since {_when(self.first)}: {missed}"


class TickRefused(Event, frozen=True):
    """A scheduled job cannot be enqueued, and trying again would not help."""

    level: ClassVar[int] = logging.ERROR

    entry: str
    job: str
    error: str

    def __str__(self) -> str:
        return f"schedule {self.entry} cannot enqueue {self.job}; this run is lost: {self.error}"


class TickWaits(Event, frozen=True):
    """The queue has no room for a scheduled job; the enqueue is retried until there is."""

    level: ClassVar[int] = logging.ERROR

    entry: str
    job: str
    error: str

    def __str__(self) -> str:
        return f"schedule {self.entry} cannot enqueue {self.job} yet; retrying until it can: {self.error}"


class ClockSetBack(Event, frozen=True):
    """This machine's clock was ahead by days: an entry continues from the current time."""

    level: ClassVar[int] = logging.WARNING

    entry: str
    seconds: float

    def __str__(self) -> str:
        ahead = format_duration(round(self.seconds))
        return f"the clock of this machine was {ahead} ahead: schedule {self.entry} continues from the current time"


class ScheduleDocumentRefused(Event, frozen=True):
    """A document that would change the schedule is not obeyed."""

    level: ClassVar[int] = logging.ERROR

    entry: str
    error: str

    def __str__(self) -> str:
        return f"schedule {self.entry} has a document in the backend that is refused: {self.error}"


class ScheduleChanged(Event, frozen=True):
    """An entry of the schedule was added, changed, removed, paused or resumed at run time."""

    level: ClassVar[int] = logging.INFO

    entry: str
    change: str  # such as paused
    by: str

    def __str__(self) -> str:
        return f"schedule {self.entry} is {self.change}" + (f" by {self.by}" if self.by else "")


class ScheduleForgotten(Event, frozen=True):
    """The file of handled ticks cannot be read: missed runs cannot be detected."""

    level: ClassVar[int] = logging.WARNING

    path: str
    error: str

    def __str__(self) -> str:
        return f"{self.path} cannot be read, so missed runs cannot be detected; the schedule continues from now: {self.error}"


class ScheduleNotSaved(Event, frozen=True):
    """The file of handled ticks cannot be written."""

    level: ClassVar[int] = logging.ERROR

    path: str
    error: str

    def __str__(self) -> str:
        return (
            f"{self.path} cannot be written; after a restart, the latest scheduled jobs may be treated as missed: {self.error}"
        )


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
