"""The times at which a worker has to call its backend: to keep its reservations, and to hear of cancelled jobs."""

from __future__ import annotations

from .run_queue import RunQueue
from .wake_up import NEVER

CANCEL_POLL = 0.2
"""Seconds between two heartbeats of a worker that runs jobs, where the backend cannot wake it for a cancel."""


class Lease:
    """The lease of one worker. All times are monotonic seconds. Only the courier uses it."""

    def __init__(self, seconds: float, run_queue: RunQueue, *, polls: bool) -> None:
        self.next_beat = 0.0
        self.neglected_at = 0.0  # later, this process was suspended: the next heartbeat may report lost reservations
        self._seconds = seconds
        self._run_queue = run_queue
        self._polls = polls  # for cancels
        self._heard_at = 0.0

    def renewed(self, began: float) -> None:
        """Note that a call begun at `began` renewed the lease. The lease counts from then; no run starts after its end."""
        self.next_beat = began + self._seconds / 6
        self.neglected_at = began + self._seconds / 3
        self._run_queue.leased_until = began + self._seconds

    def heard(self, began: float) -> None:
        """Note a heartbeat begun at `began`."""
        self._heard_at = began
        self.renewed(began)

    def next_poll(self, runs: int) -> float:
        """Return when to ask for cancels; never if the backend reports them, or no job runs."""
        return self._heard_at + CANCEL_POLL if self._polls and runs else NEVER

    def due(self, now: float, runs: int, *, early: bool) -> bool:
        """Return whether to send a heartbeat; somewhat early if it shares a wake-up with another call."""
        beat = self.next_beat - self._seconds / 12 if early else self.next_beat
        return now >= min(beat, self._run_queue.leased_until) or now >= self.next_poll(runs)
