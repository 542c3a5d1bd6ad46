"""The number of workers that a pool should have: a policy that depends only on its arguments, not on clocks or processes.

A pool grows while no worker is idle and jobs wait for longer than `grow_age`, or more jobs wait than the workers can run in
that time. It shrinks by workers that have been idle for `shrink_after`, down to the largest number that was busy recently,
or the average plus some spare ones: otherwise it would soon need the stopped workers again, and then stop them again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

STEP_INTERVAL = 0.9
"""Seconds between two steps; the supervisor calls `decide` once a second."""

REALLY_IDLE = 1.5
"""Seconds after which an idle worker lacks work: two checks in a row. All are idle for a moment between short jobs."""

SPARE = 1.2
"""Workers that are kept per worker that is busy on average: if all are always busy, the queue grows without limit."""


class PoolScaler:
    """The policy of one pool; pools share nothing, so that none can starve another. Call `decide` about once a second."""

    def __init__(self, least: int, most: int, grow_age: float, shrink_after: float = 10.0) -> None:
        self._least = least
        self._most = most
        self._grow_age = grow_age
        self._shrink_after = shrink_after
        self._busy: deque[tuple[float, int]] = deque()  # time, and number of busy workers
        self._rates: deque[tuple[float, float]] = deque()
        self._deep_since: float | None = None  # since when the backlog has been deeper than the workers can clear in time
        self._stepped = -math.inf

    def decide(
        self,
        now: float,
        *,
        workers: int,
        busy: int,
        idle_since: Sequence[float],
        ready: int,
        oldest_age: float | None,
        done_rate: float,
        starting: int = 0,
    ) -> int:
        """Return how many workers to add, or (negative) to stop.

        `workers` is the number of workers that serve or are starting, `starting` the number of the latter, and `busy` the
        number that run jobs. `idle_since` holds, for each idle worker, when it became idle. `ready` and `oldest_age` cover
        all topics of the pool; `done_rate` is in jobs per second. All times are of the same monotonic clock as `now`.
        """
        _note(self._busy, now, busy, self._shrink_after)
        _note(self._rates, now, done_rate, self._grow_age)
        pressed = self._is_pressed(now, ready, oldest_age)
        if now - self._stepped < STEP_INTERVAL:
            return 0
        change = self._growth(now, workers, starting, idle_since) if pressed else -self._surplus(now, workers, idle_since)
        if change:
            self._stepped = now
        return change

    def _is_pressed(self, now: float, ready: int, oldest_age: float | None) -> bool:
        """Return whether jobs wait for too long, or soon will."""
        rates = [rate for _, rate in self._rates]
        cleared = max(rates[-1], sum(rates) / len(rates)) * self._grow_age
        if ready <= cleared:
            self._deep_since = None
        elif self._deep_since is None:
            self._deep_since = now
        if oldest_age is not None and oldest_age > self._grow_age:
            return True
        # In two checks: jobs that have just arrived may be done in a moment, and the rate does not include them yet.
        return self._deep_since is not None and now - self._deep_since >= STEP_INTERVAL

    def _growth(self, now: float, workers: int, starting: int, idle_since: Sequence[float]) -> int:
        if starting > 0 or any(now - since >= REALLY_IDLE for since in idle_since):
            return 0
        return max(0, min(max(1, workers // 2), self._most - workers))

    def _surplus(self, now: float, workers: int, idle_since: Sequence[float]) -> int:
        if now - self._busy[0][0] < self._shrink_after:
            return 0  # not observed for long enough
        idle = sum(now - since >= self._shrink_after for since in idle_since)
        counts = [count for _, count in self._busy]
        used = max(*counts, math.ceil(SPARE * sum(counts) / len(counts)))
        return max(0, min(idle, workers - max(self._least, used), max(1, workers // 3)))


def _note(
    samples: deque[tuple[float, float]] | deque[tuple[float, int]], now: float, value: int | float, window: float
) -> None:
    """Add a sample; keep the samples of the window, and the one before it."""
    samples.append((now, value))  # type: ignore[arg-type]  # either of the two types
    while len(samples) > 1 and samples[1][0] <= now - window:
        samples.popleft()
