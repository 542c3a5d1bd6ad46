"""The queue between courier and executor: runs go one way, finished runs come back, and no thread waits unnecessarily.

It needs no lock and no system call per job: deque operations are atomic, and the courier is woken at most once per
settle interval, or when the executor has no runs left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..runs.run import Run
from .wake_up import NEVER

SETTLE_INTERVAL = 0.010
"""Longest time in seconds that a finished run waits for others, to be settled together with them (promise 2)."""


class RunQueue:
    """A pair of queues. The courier fills `pending` and executors empty it; for `finished` it is the reverse."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.pending: deque[Run] = deque()
        self.finished: deque[Run] = deque()
        self._wake = wake
        self.leased_until = NEVER  # monotonic: no run starts later, since its job may then belong to another worker
        self.parked = False  # an executor waits for the lease to be renewed
        self.looks_at = 0.0  # when the courier will check by itself next, as announced by `be_quiet`
        self._quiet_until = 0.0  # no finish before then wakes the courier; the first one after it does

    # -- executors, any thread -------------------------------------------------------------------

    def finish(self, run: Run) -> None:
        """Return a run to the courier; `run.ended` is set."""
        self.finished.append(run)
        if run.ended >= self._quiet_until:
            self._quiet_until = NEVER
            self._wake()

    def dry(self) -> None:
        """Report that an executor has nothing left to do."""
        self._wake()

    def requeue(self, run: Run) -> None:
        """Return a run to the queue unstarted: this process was suspended for so long that the lease may have ended.

        The courier sends a heartbeat first, takes back lost reservations, and wakes the executor again.
        """
        run.started, run.interrupted = 0.0, None
        self.pending.appendleft(run)
        self.park()

    def park(self) -> None:
        """Report that an executor waits for the lease to be renewed."""
        self.parked = True
        self._wake()

    # -- courier ---------------------------------------------------------------------------------

    def be_quiet(self, until: float) -> None:
        """Announce that the courier will check `finished` by itself at `until` (monotonic)."""
        self.looks_at = self._quiet_until = until

    def wake_me(self) -> None:
        """Have the next finish wake the courier, which is about to sleep without having announced its next check."""
        self._quiet_until = 0.0

    def collect(self) -> list[Run]:
        """Return every run that has finished by now."""
        finished = self.finished
        return [finished.popleft() for _ in range(len(finished))]

    def take_back(self) -> list[Run]:
        """Return every run that no executor has started, the last one first."""
        taken: list[Run] = []
        while True:
            try:
                taken.append(self.pending.pop())
            except IndexError:
                return taken
