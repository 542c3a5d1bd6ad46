"""Check-ins of scheduled jobs with Sentry's cron monitors.

A tick is one check-in, whatever worker runs it and however often it is retried: its id is the job's. The first attempt
begins it; the one that is done or dead ends it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import sentry_sdk.crons

from jobs_core import Config, JobContext, JobFunction, RunOutcome
from jobs_core.backends.base import Outcome

ENTRY = "schedule"
"""The header that names a job's entry in the schedule."""

ENDS = {Outcome.DONE: "ok", Outcome.DEAD: "error", Outcome.CANCELLED: "error"}

UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60))
"""Units of an interval, the largest first; Sentry knows none below a minute."""


class Monitors:
    """The monitors of the schedule. Sentry creates those whose times it can express; make the others in Sentry."""

    def __init__(self, config: Config) -> None:
        self._settings = {name: monitor(entry.cron, entry.every, entry.tz) for name, entry in config.schedule.items()}

    def learn(self, jobs: Iterable[JobFunction[Any, Any, Any]]) -> None:
        """Add the monitors of `@job(cron=...)`, once the jobs are imported."""
        self._settings |= {job.name: monitor(job.cron, None, job.tz) for job in jobs if job.cron is not None}

    def begin(self, run: JobContext) -> None:
        """Begin the check-in of a tick's first run."""
        entry = run.headers.get(ENTRY)
        if isinstance(entry, str) and run.attempt == 1 and not run.redeliveries:
            self._check_in(entry, run, "in_progress")

    def end(self, run: JobContext, outcome: RunOutcome) -> None:
        """End the check-in, unless another run of the same tick follows."""
        entry, status = run.headers.get(ENTRY), ENDS.get(outcome.outcome)
        if isinstance(entry, str) and status is not None:
            self._check_in(entry, run, status, outcome.seconds)

    def _check_in(self, entry: str, run: JobContext, status: str, seconds: float | None = None) -> None:
        check_in, settings = run.id.replace("-", ""), self._settings.get(entry)
        sentry_sdk.crons.capture_checkin(slug(entry), check_in, status, seconds, settings)


def monitor(cron: str | None, every: Any, tz: str) -> Any:
    """Return the settings of an entry's monitor; None if Sentry cannot express its times."""
    if cron is not None:
        if len(cron.split()) != 5:  # with seconds
            return None
        return {"schedule": {"type": "crontab", "value": cron}, "timezone": tz}
    seconds = float(every)
    for unit, length in UNITS:
        if seconds >= length and seconds % length == 0:
            return {"schedule": {"type": "interval", "value": int(seconds // length), "unit": unit}}
    return None


def slug(entry: str) -> str:
    """Return the name of an entry's monitor: at most 50 lower-case letters, digits, hyphens and underscores."""
    return re.sub(r"[^a-z0-9_-]+", "-", entry.lower()).strip("-")[:50] or "schedule"
