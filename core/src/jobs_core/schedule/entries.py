"""Entries of the schedule: `@job(cron=...)` in the code, `[schedule]` in the configuration."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..errors import ArgumentError, ConfigError, UnknownJob
from ..topics import topic_error
from ..units import format_duration
from . import times

if TYPE_CHECKING:
    from ..app import App
    from ..config import ScheduleEntry
    from ..job import JobFunction


class Entry(Struct, frozen=True, dict=True):  # dict: compiled values are kept
    """One job and the times at which it is enqueued."""

    name: str  # the job's, or the key in [schedule]
    where: str  # its name in errors
    job: str
    cron: str | None = None
    every: float | None = None
    tz: str = "UTC"
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    topic: str | None = None
    missed: str = "once"

    @property
    def expression(self) -> str:
        """Return the cron expression or interval as it was written."""
        return self.cron or f"every {format_duration(self.every or 0)}"

    @property
    def identity(self) -> str:
        """Return the settings that identify this entry: if they change, it starts without missed ticks."""
        return f"{self.job} {self.expression} {self.tz}"

    @functools.cached_property
    def after(self) -> times.Times:
        """Return the function that computes the first tick after a time, in milliseconds.

        Raises ValueError with the reason if the entry is invalid.
        """
        if self.every is not None:
            return times.by_interval(self.every)
        return times.by_cron(self.cron or "", times.zone(self.tz))


def entries(app: App) -> list[Entry]:
    """Return all entries, checked, sorted by name; the application's jobs have to be loaded.

    Raises ConfigError with a line for each problem, which names the key or job and the fix.
    """
    found: dict[str, Entry] = {}
    problems: list[str] = []
    for entry in (*_of_jobs(app), *_of_configuration(app)):
        problems += problems_of(app, entry)
        if entry.name in found:
            problems.append(
                f"{entry.where}: {found[entry.name].where} is also an entry of this name: give this one another name"
            )
        found[entry.name] = entry
    if problems:
        raise ConfigError("\n".join(problems))
    return [found[name] for name in sorted(found)]


def _of_jobs(app: App) -> Iterator[Entry]:
    for job in app.registry:
        if job.cron is not None:
            yield Entry(job.name, f"@job {job.name}: cron", job.name, cron=job.cron, tz=job.tz, missed=job.missed)


def _of_configuration(app: App) -> Iterator[Entry]:
    for name, said in app.config.schedule.items():
        job = app.registry.get(said.job)
        yield _entry(name, said, job.name if job else said.job)


def _entry(name: str, said: ScheduleEntry, job: str) -> Entry:
    every = None if said.every is None else float(said.every)
    return Entry(name, f"schedule.{name}", job, said.cron, every, said.tz, said.args, said.kwargs, said.topic, said.missed)


def problems_of(app: App, entry: Entry) -> Iterator[str]:
    """Return why an entry cannot be part of the schedule, a line for each problem."""
    try:
        if entry.after(0) is None:
            yield f"{entry.where}: {entry.expression} never occurs: the calendar has no such day"
    except ValueError as error:
        yield f"{entry.where}: {error}"
    if entry.topic is not None and (reason := topic_error(entry.topic)):
        yield f"{entry.where}: topic: {reason}"
    try:
        job = app.registry.find(entry.job)
    except UnknownJob as error:
        yield f"{entry.where}: job: {error}; `jobsctl check` lists the jobs of `modules`"
    else:
        yield from _misfits(entry, job)


def _misfits(entry: Entry, job: JobFunction[Any, Any, Any]) -> Iterator[str]:
    try:
        job.arguments.check(tuple(entry.args), dict(entry.kwargs))
    except ArgumentError as error:
        fix = "give args or kwargs" if entry.where.startswith("schedule") else "give it a default, or set it in [schedule]"
        yield f"{entry.where}: {error}: {fix}"
