"""The queue between courier and executor: runs go one way, finished runs come back, and no thread waits for nothing.

No lock and no system call a job: deque operations are atomic, and the courier is woken at most once per
settle interval, or when the executor has run dry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .run import Run

SETTLE_INTERVAL = 0.010
"""Longest time a finished run waits for others to be settled with, seconds (promise 2)."""

_NEVER = float("inf")


class RunQueue:
    """Two queues. `pending` is filled and taken back by the courier, emptied by executors; `finished` the reverse."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.pending: deque[Run] = deque()
        self.finished: deque[Run] = deque()
        self._wake = wake
        self.leased_until = float("inf")  # monotonic: no run is started later, our jobs may be others' by then
        self.parked = False  # an executor waits for that
        self.looks_at = 0.0  # when the courier will look by itself next, if it has said so
        self._quiet_until = 0.0  # before that the courier looks by itself; after, the next finish wakes it once

    # -- executors, any thread -------------------------------------------------------------------

    def finish(self, run: Run) -> None:
        """Give a run back; `run.ended` is set."""
        self.finished.append(run)
        if run.ended >= self._quiet_until:
            self._quiet_until = _NEVER
            self._wake()

    def dry(self) -> None:
        """Say that an executor has nothing left to do."""
        self._wake()

    def put_back(self, run: Run) -> None:
        """Leave a run unstarted: this process stood still for so long that the lease may have ended.

        The courier beats first, takes back what is lost, and rings again.
        """
        run.started, run.interrupted = 0.0, None
        self.pending.appendleft(run)
        self.park()

    def park(self) -> None:
        """Say that an executor waits for the lease to be renewed."""
        self.parked = True
        self._wake()

    # -- courier ---------------------------------------------------------------------------------

    def be_quiet(self, until: float) -> None:
        """The courier will look at `finished` by itself at `until` (monotonic)."""
        self.looks_at = self._quiet_until = until

    def wake_me(self) -> None:
        """The courier goes to sleep without a time of its own: the next finish shall wake it."""
        self._quiet_until = 0.0

    def collect(self) -> list[Run]:
        """Every run that finished by now."""
        finished = self.finished
        return [finished.popleft() for _ in range(len(finished))]

    def take_back(self) -> list[Run]:
        """Every run that no executor has started, last one first."""
        taken: list[Run] = []
        while True:
            try:
                taken.append(self.pending.pop())
            except IndexError:
                return taken
