"""Jobs that were running when a worker died: kept apart until the one that kills workers is found.

A job with r redeliveries is run only with others of its kind, at most ⌈concurrency / 16^r⌉ together: the group
that contains the culprit shrinks with every death until it dies alone, and its neighbours go free. The last one
is held alone as well: where nobody saw what a dead worker had started, what it held is all there is to go by.
"""

from __future__ import annotations

import math
from collections import deque

from .run import Run

HOLD_AFTER = 3
"""After so many deferrals a suspect is no longer put off: the worker runs dry for it."""


class Quarantine:
    """Suspects that wait for the worker to be theirs alone. Used by the courier alone."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._suspects: deque[Run] = deque()
        self._inside = 0

    def __len__(self) -> int:
        return len(self._suspects)

    def concerns(self, run: Run) -> bool:
        """Whether a run has to be kept apart."""
        return run.delivery.redeliveries > 0

    def add(self, run: Run) -> None:
        """Keep a suspect until it may start."""
        self._suspects.append(run)

    def admit(self, running: int) -> list[Run]:
        """The suspects that may start now, while `running` others run; only when nobody else does."""
        if running or not self._suspects:
            return []
        worst = max(run.delivery.redeliveries for run in self._suspects)
        group = [run for run in self._suspects if run.delivery.redeliveries == worst][: self.limit(worst)]
        for run in group:
            self._suspects.remove(run)
        return group

    def limit(self, redeliveries: int) -> int:
        """How many jobs with so many redeliveries may run together."""
        return max(1, math.ceil(self._concurrency / 16.0 ** min(redeliveries, 8)))

    def take_back(self) -> list[Run]:
        """Every suspect that has not started."""
        taken = list(self._suspects)
        self._suspects.clear()
        return taken
