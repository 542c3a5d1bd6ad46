"""Events of the pools and their workers, as the supervisor sees them."""

from __future__ import annotations

import logging
from typing import ClassVar

from ..units import count
from .base import Event, WorkerEvent, soon


class WorkerDied(WorkerEvent, frozen=True):
    """A worker crashed, or could not boot; a replacement is started."""

    level: ClassVar[int] = logging.ERROR

    reason: str
    running: int
    restart_in: float

    def __str__(self) -> str:
        held = f" while running {count(self.running, 'job')}" if self.running else ""
        return f"{self.subject} died{held}: {self.reason}; a replacement starts {soon(self.restart_in)}"


class CannotStart(Event, frozen=True):
    """A worker could not be forked; this is retried."""

    level: ClassVar[int] = logging.ERROR

    pool: str
    error: str
    restart_in: float

    def __str__(self) -> str:
        return f"pool {self.pool} is short of a worker, retrying {soon(self.restart_in)}: {self.error}"


class KillingWorker(WorkerEvent, frozen=True):
    """A worker hangs; it writes its stacks and is killed."""

    level: ClassVar[int] = logging.ERROR

    reason: str

    def __str__(self) -> str:
        return f"{self.subject} is being killed, after its stacks were written: {self.reason}"


class WorkerSpared(WorkerEvent, frozen=True):
    """A worker that was about to be killed is working again: it is not killed."""

    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return f"{self.subject} is working again and was not killed: the request for its stacks woke it"


class JobsHandedBack(Event, frozen=True):
    """A dead worker's jobs have returned to their topics."""

    level: ClassVar[int] = logging.WARNING

    owner: str
    released: int
    charged: int

    def __str__(self) -> str:
        where = "its topic" if self.released == 1 else "their topics"
        jobs = f"{count(self.released, 'job')} of dead worker {self.owner}"
        return f"{jobs} went back to {where}; {self.charged} had started"


class PoolGrows(Event, frozen=True):
    """A pool grows, because it cannot clear its backlog in time."""

    pool: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"pool {self.pool} is growing from {self.before} to {count(self.after, 'worker')} to clear its backlog in time"


class PoolShrinks(Event, frozen=True):
    """A pool shrinks, because workers were idle."""

    pool: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"pool {self.pool} is shrinking from {self.before} to {count(self.after, 'worker')}: some were idle"
