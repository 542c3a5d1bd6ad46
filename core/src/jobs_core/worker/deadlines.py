"""The deadlines of a worker's runs: one heap for all timeouts."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

from ..runs.run import Run
from .wake_up import NEVER


class Deadlines:
    """A heap of earliest possible deadlines, corrected when they are reached.

    It costs one push per job with a timeout, and nothing for other jobs. The deadline of a run is known only once it has
    started, which may be long after it was handed to the executor. Only the courier uses the heap.
    """

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Run]] = []  # empty while no run has a timeout
        self._order = itertools.count()

    def add(self, run: Run, now: float) -> None:
        """Watch a run that is being handed to the executor."""
        deadline = _deadline(run, now)
        if deadline < NEVER:
            heapq.heappush(self.heap, (deadline, next(self._order), run))

    def next(self) -> float:
        """Return the monotonic time of the next check; infinity if there is nothing to watch."""
        return self.heap[0][0] if self.heap else NEVER

    def due(self, now: float) -> Iterator[Run]:
        """Yield the runs that have exceeded their timeout, each once."""
        while self.heap and self.heap[0][0] <= now:
            _, _, run = heapq.heappop(self.heap)
            deadline = _deadline(run, now)
            if run.ended or deadline == NEVER:
                continue
            if deadline <= now:
                yield run
            else:
                heapq.heappush(self.heap, (deadline, next(self._order), run))


def _deadline(run: Run, now: float) -> float:
    """Return the deadline of a run, or of its current step if that is earlier."""
    started = run.started or now
    deadline = started + run.timeout if run.timeout else NEVER
    step_timeout = run.policy.step_timeout
    if run.progress is None or not step_timeout:
        return deadline
    return min(deadline, (run.progress.stepped or started) + step_timeout)
