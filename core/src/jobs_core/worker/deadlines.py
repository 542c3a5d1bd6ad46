"""When to interrupt which run: one heap for all timeouts of a worker."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

from .run import Run


class Deadlines:
    """A heap of earliest possible deadlines, corrected when they come up: one push a job, and none without a timeout.

    A run's deadline is only known when it has started, which may be long after it was handed out. Used by
    the courier alone.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Run]] = []
        self._order = itertools.count()

    def add(self, run: Run, now: float) -> None:
        """Watch a run that is being handed out."""
        if run.timeout:
            heapq.heappush(self._heap, (now + run.timeout, next(self._order), run))

    def next(self) -> float:
        """The monotonic time to look again; infinity if there is nothing to watch."""
        return self._heap[0][0] if self._heap else float("inf")

    def due(self, now: float) -> Iterator[Run]:
        """Runs that have been going on for longer than their timeout, each once."""
        while self._heap and self._heap[0][0] <= now:
            _, _, run = heapq.heappop(self._heap)
            if run.ended or run.timeout is None:
                continue
            deadline = (run.started or now) + run.timeout
            if deadline <= now:
                yield run
            else:
                heapq.heappush(self._heap, (deadline, next(self._order), run))
