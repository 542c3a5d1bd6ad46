"""The ends of jobs whose follow-up has to wait for the payload store: it may be slow, or out of reach.

Such a job stays reserved until its follow-up can be enqueued together with its end. A thread of its own asks the store,
because neither the courier nor an event loop may wait for it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from .. import boundary
from ..backends.base import Outcome, Outgoing, Settlement
from ..errors import PayloadStoreUnavailable
from ..pauses import doubled
from ..runs.run import Ending, Run

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts while the store cannot be reached: at first, and at most."""

MOST_PENDING = 16
"""Pending ends from which a worker reserves no more jobs: each holds a job's arguments, and an outage may be long."""

logger = logging.getLogger("jobs.worker")


class PendingEnd(Struct, frozen=True, eq=False):
    """The settlement of a job, and the function that makes the follow-up which belongs to it.

    That function blocks, and raises PayloadStoreUnavailable if it is to be called again.
    """

    settlement: Settlement
    owed: Callable[[], tuple[Outgoing, ...]]
    run: Run | None = None

    def completed(self) -> Settlement:
        """Return the settlement with its follow-up. Blocks."""
        return replace(self.settlement, followups=(*self.settlement.followups, *self.owed()))


class PendingEnds:
    """The pending ends of one worker. Only the courier uses it; `wake` is called on the thread when one is complete."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._waiting: dict[str, PendingEnd] = {}
        self._asked: queue.SimpleQueue[PendingEnd] = queue.SimpleQueue()
        self.completed: deque[tuple[PendingEnd, Settlement]] = deque()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, end: PendingEnd) -> None:
        """Keep the end of a job until it is complete."""
        self._waiting[end.settlement.id] = end
        self._asked.put(end)
        if self._thread is None:  # a daemon: a store that does not answer must not keep a worker alive
            self._thread = threading.Thread(target=self._main, name="jobs-follow-ups", daemon=True)
            self._thread.start()

    def collect(self) -> list[Ending]:
        """Return the ends that are complete, of jobs that this worker still has reserved."""
        endings: list[Ending] = []
        for _ in range(len(self.completed)):
            end, settlement = self.completed.popleft()
            if self._waiting.get(settlement.id) is end:
                del self._waiting[settlement.id]
                if end.run is not None:
                    end.run.settlement = settlement
                endings.append((settlement, end.run))
        return endings

    def lose(self, job_id: str) -> Run | None:
        """Forget a job that this worker has lost; return its run."""
        end = self._waiting.pop(job_id, None)
        return None if end is None else end.run

    def release(self) -> list[Ending]:
        """Give up waiting: release the jobs, so that another worker runs them again and enqueues their follow-ups."""
        endings: list[Ending] = []
        for end in self._waiting.values():
            known, run = end.settlement, end.run
            if run is not None and run.policy.acks == "early":
                text = "job %s has ended, but its follow-up is lost: the payload store could not be reached"
                boundary.log(logger, logging.ERROR, text, known.id)
            else:
                endings.append((Settlement(known.id, known.token, Outcome.RELEASE, ran=run is not None), run))
        self._waiting.clear()
        return endings

    def clear(self) -> list[Run]:
        """Forget all, since the owner is lost; return their runs."""
        runs = [end.run for end in self._waiting.values() if end.run is not None]
        self._waiting.clear()
        return runs

    def _main(self) -> None:
        while True:
            end, failures = self._asked.get(), 0
            while self._waiting.get(end.settlement.id) is end:
                try:
                    self.completed.append((end, end.completed()))
                    self._wake()
                    break
                except PayloadStoreUnavailable as error:
                    if not failures:
                        text = "job %s has ended, and waits until its follow-up can be enqueued: %s"
                        boundary.log(logger, logging.WARNING, text, end.settlement.id, error)
                    time.sleep(doubled(FIRST_PAUSE, failures, LONGEST_PAUSE))
                    failures += 1
