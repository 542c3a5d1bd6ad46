"""Who waits for the end of a job."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Collection

from .reading import Asked

LOOK_AGAIN = 1.0
"""Every so often all are looked at, seconds: a result may also end by its time to live, or in another process."""


class Results:
    """All waits for results, by job."""

    def __init__(self) -> None:
        self._by_job: dict[str, list[Asked]] = {}
        self._timers: list[tuple[float, int, Asked]] = []
        self._order = itertools.count()
        self._next_look = 0.0

    def __bool__(self) -> bool:
        return bool(self._by_job)

    def add(self, asked: Asked) -> None:
        self._by_job.setdefault(asked.request.id, []).append(asked)
        heapq.heappush(self._timers, (time.monotonic() + asked.request.timeout, next(self._order), asked))

    def take(self, job_id: str) -> list[Asked]:
        """Who waits for a job that has ended; they wait no longer."""
        return self._by_job.pop(job_id, [])

    def to_look_at(self, touched: Collection[str]) -> list[str]:
        """The jobs that somebody waits for, of those touched; now and then all of them."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_AGAIN
            return list(self._by_job)
        return [job_id for job_id in touched if job_id in self._by_job]

    def overdue(self) -> list[Asked]:
        """Who has waited for as long as it wanted; they wait no longer."""
        now = time.monotonic()
        found = []
        while self._timers and self._timers[0][0] <= now:
            asked = heapq.heappop(self._timers)[2]
            others = self._by_job.get(asked.request.id, [])
            if any(one is asked for one in others):
                found.append(asked)
                self._by_job[asked.request.id] = left = [one for one in others if one is not asked]
                if not left:
                    del self._by_job[asked.request.id]
        return found

    def next_moment(self) -> float:
        """When to come back, on the monotonic clock."""
        if not self._by_job:
            return float("inf")
        return min(self._timers[0][0] if self._timers else float("inf"), self._next_look)
