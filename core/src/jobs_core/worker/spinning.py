"""Jobs that are put off again and again without a pause: they would keep a worker busy with nothing, for ever."""

from __future__ import annotations

import time

from msgspec.structs import replace

from .. import events
from ..backends.base import Settlement
from .run import Run

TIMES = 100
WITHIN = 1.0
"""So many times in so many seconds, wherever: the backend counts."""

PAUSE = 1.0
"""Shortest time, seconds, for which such a job is put off from then on."""

FORGOTTEN = 60.0
"""Seconds after which one that came no more is a job like any other."""

_MOST = 1000


class Spinning:
    """What came back to this worker within a second of being put off. Used by the courier alone."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}  # job id: times put off, and when that was looked at
        self._slowed: dict[str, float] = {}  # job id: when it was last put off

    def slowed(self, run: Run, ending: Settlement) -> Settlement:
        """The settlement of a job that is put off, with a longer pause if it spins."""
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
