"""The number of jobs to reserve ahead: as many short jobs as fill AHEAD seconds, or one long job per slot."""

from __future__ import annotations

from collections.abc import Sequence

from ..runs.run import Run

AHEAD = 0.050
"""Seconds of work that a worker may have reserved and not started (promise 6)."""

LARGEST_BATCH = 1000
WEIGHTED_BATCH = 25
"""Most jobs to reserve at a time from topics with weights.

All jobs of a reservation may be of one topic, so the shares of very short jobs are coarser the larger it is.
"""
_WEIGHT = 0.3


class Prefetch:
    """An estimate of how long jobs take: an exponentially weighted mean over batches."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._mean: float | None = None

    def learn(self, runs: Sequence[Run]) -> None:
        """Add a batch of finished runs to the mean."""
        if runs:
            mean = sum(run.ended - run.started for run in runs) / len(runs)
            self._mean = mean if self._mean is None else self._mean + _WEIGHT * (mean - self._mean)

    def lasts(self, jobs: int) -> float:
        """Return the seconds that this number of jobs will probably take."""
        return jobs * (self._mean or 0.0) / self._slots

    def target(self) -> int:
        """Return the number of jobs that make about AHEAD seconds of work; one per slot before any job has ended."""
        if self._mean is None:
            return self._slots
        ahead = AHEAD * self._slots / max(self._mean, 1e-7)
        return max(self._slots, min(round(ahead), LARGEST_BATCH))
