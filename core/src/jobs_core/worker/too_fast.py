"""The runs that succeed too quickly to have done their work: reported once a minute for each job."""

from __future__ import annotations

import time

from ..events import JobTooFast
from ..runs.run import Run

INTERVAL = 60.0
"""Seconds between two reports of one job, which may run thousands of times meanwhile."""


class TooFast:
    """The suspicious runs of one worker. Only the courier uses it."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # topic and job: time of the last report, runs since then

    def report(self, run: Run) -> JobTooFast | None:
        """Count a run that was too fast; return a report about it and the ones since the last report, if one is due."""
        key, now = (run.delivery.topic, run.job.name), time.monotonic()
        last, more = self._seen.get(key, (-INTERVAL, 0))
        if now < last + INTERVAL:
            self._seen[key] = last, more + 1
            return None
        self._seen[key] = now, 0
        return JobTooFast(*run.about, run.ended - run.started, run.policy.min_time, more)
