"""The jobs that are deferred again and again without a pause: they would keep a worker busy forever without progress."""

from __future__ import annotations

import time

from msgspec.structs import replace

from .. import events
from ..backends.base import Settlement
from ..runs.run import Run

TIMES = 100
WITHIN = 1.0
"""Number of deferrals in so many seconds that slow a job down. The backend counts them, for all workers."""

PAUSE = 1.0
"""Shortest time, in seconds, for which such a job is deferred from then on."""

FORGOTTEN = 60.0
"""Seconds without a deferral after which such a job is treated like any other."""

_MOST = 1000


class Spinning:
    """The jobs that this worker has deferred for less than PAUSE seconds. Only the courier uses it."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}  # job id: number of deferrals, and when that was read
        self._slowed: dict[str, float] = {}  # job id: when it was last deferred

    def slowed(self, run: Run, ending: Settlement) -> Settlement:
        """Return the settlement of a deferred job, with a longer pause if it spins."""
        if ending.after >= PAUSE:
            return ending
        job_id, times, now = run.delivery.id, run.delivery.deferrals, time.monotonic()
        if job_id not in self._slowed:
            first, since = self._seen.pop(job_id, (times, now))
            if now - since > WITHIN:
                first, since = times, now
            self._seen[job_id] = first, since
            if len(self._seen) > _MOST:
                del self._seen[next(iter(self._seen))]
            if times - first < TIMES:
                return ending
            del self._seen[job_id]
            events.emit(events.PutOffTooOften(job_id, run.job.name, run.delivery.topic, PAUSE))
        self._slowed.pop(job_id, None)
        self._slowed[job_id] = now
        oldest = next(iter(self._slowed))
        if now - self._slowed[oldest] > FORGOTTEN or len(self._slowed) > _MOST:
            del self._slowed[oldest]
        return replace(ending, after=PAUSE)
