"""Events of a worker process, as it reports them itself."""

from __future__ import annotations

import logging
from typing import ClassVar

from ..units import count, format_duration
from .base import Event


class WorkerStarted(Event, frozen=True):
    """A worker is ready to run jobs."""

    owner: str
    pool: str
    topics: tuple[str, ...]
    mode: str
    concurrency: int

    def __str__(self) -> str:
        jobs = count(self.concurrency, "job")
        return f"worker {self.owner} of pool {self.pool} serves {', '.join(self.topics)}, {jobs} at a time ({self.mode})"


class WorkerStopping(Event, frozen=True):
    """A worker takes no new jobs and finishes the running ones."""

    owner: str
    running: int

    def __str__(self) -> str:
        return (
            f"worker {self.owner} takes no new jobs; {self.running} still running"
            if self.running
            else f"worker {self.owner} is stopping"
        )


class WorkerStopped(Event, frozen=True):
    """A worker has settled all its jobs and ends."""

    owner: str
    done: int
    failed: int

    def __str__(self) -> str:
        return f"worker {self.owner} stopped: {count(self.done, 'job')} done, {count(self.failed, 'failed attempt')}"


class BackendLost(Event, frozen=True):
    """The backend cannot be reached; the worker keeps retrying. For the carrier of the outbox, its database counts, too."""

    level: ClassVar[int] = logging.ERROR

    error: str
    of_outbox: bool = False

    def __str__(self) -> str:
        if self.of_outbox:
            return f"jobs wait in the outbox until its database and the backend answer; retrying: {self.error}"
        return f"the backend cannot be reached; retrying until it answers: {self.error}"


class BackendBack(Event, frozen=True):
    """The backend answers again; for the carrier of the outbox, its database, too."""

    seconds: float
    of_outbox: bool = False

    def __str__(self) -> str:
        if self.of_outbox:
            return f"the jobs in the outbox are carried again after {format_duration(round(self.seconds, 1))}"
        return f"the backend answers again after {format_duration(round(self.seconds, 1))}"


class OutboxRefused(Event, frozen=True):
    """The backend has refused a job or flow from the outbox, where it stays, and is tried again later."""

    level: ClassVar[int] = logging.ERROR

    id: str
    reason: str

    def __str__(self) -> str:
        return f"{self.id} stays in the outbox, and is tried again later, because the backend has refused it: {self.reason}"


class BackendRisk(Event, frozen=True):
    """The backend works, but its settings risk the loss of jobs, or admit any client; logged once per start."""

    level: ClassVar[int] = logging.WARNING

    advice: str

    def __str__(self) -> str:
        return f"the backend works, but {self.advice}"


class OwnerReplaced(Event, frozen=True):
    """The worker's lease had expired: its jobs went to other workers, and it continues under a new owner id."""

    level: ClassVar[int] = logging.ERROR

    old: str
    new: str
    running: int

    def __str__(self) -> str:
        here = f"{self.running} still running here"
        return f"the lease of {self.old} expired and its jobs went to other workers ({here}); continuing as {self.new}"
