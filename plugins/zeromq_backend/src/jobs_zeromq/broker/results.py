"""The requests of clients that wait for the end of a job, or of a flow."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Collection

from .decoding import Asked

LOOK_AGAIN = 1.0
"""Seconds between checks of all awaited jobs: a job may also end through another process that uses the file."""

NEVER = float("inf")


class Results:
    """All waits for the ends of jobs, or all for those of flows, by id."""

    def __init__(self) -> None:
        self._by_job: dict[str, dict[int, Asked]] = {}
        self._count = 0
        self._timers: list[
            tuple[float, int, str]
        ] = []  # (deadline, number of the wait, job id); includes waits that have ended
        self._order = itertools.count()
        self._next_look = 0.0

    def __len__(self) -> int:
        return self._count

    def add(self, job_id: str, asked: Asked) -> None:
        number = next(self._order)
        self._by_job.setdefault(job_id, {})[number] = asked
        self._count += 1
        if len(self._timers) > 2 * self._count + 1000:
            self._timers = [timer for timer in self._timers if timer[1] in self._by_job.get(timer[2], ())]
            heapq.heapify(self._timers)
        heapq.heappush(self._timers, (time.monotonic() + asked.request.timeout, number, job_id))

    def take(self, job_id: str) -> Collection[Asked]:
        """Remove and return the waits for a job that has ended."""
        taken = self._by_job.pop(job_id, {}).values()
        self._count -= len(taken)
        return taken

    def to_look_at(self, touched: Collection[str]) -> list[str]:
        """Return the touched jobs for which a client waits; every LOOK_AGAIN seconds, all jobs for which a client waits."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_AGAIN
            return list(self._by_job)
        return [job_id for job_id in touched if job_id in self._by_job]

    def overdue(self) -> list[Asked]:
        """Remove and return the waits whose timeout has passed."""
        now = time.monotonic()
        found = []
        while self._timers and self._timers[0][0] <= now:
            _, number, job_id = heapq.heappop(self._timers)
            others = self._by_job.get(job_id, {})
            if number in others:
                found.append(others.pop(number))
                self._count -= 1
                if not others:
                    del self._by_job[job_id]
        return found

    def next_moment(self) -> float:
        """Return when to check again, as monotonic time."""
        if not self._by_job:
            return NEVER
        return min(self._timers[0][0] if self._timers else NEVER, self._next_look)
