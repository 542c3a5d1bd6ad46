"""The schedule: when each entry runs next, running it now, and pausing it."""

from __future__ import annotations

import time

from starlette.responses import Response

from jobs_core import JobsError, NotSupported
from jobs_core.operating.schedule import listed, runs_of
from jobs_core.schedule import Schedule, Stored

from ..visit import Visit

NEXT = 3
"""Next runs that are shown of each entry."""


def show(visit: Visit) -> Response:
    """List the entries of the schedule."""
    stored: list[Stored] = []
    why_not = ""
    try:
        stored = Schedule(visit.app).stored()
    except NotSupported as error:
        why_not = str(error)
    now = time.time()
    rows = [(one, [] if one.paused else list(runs_of(one.entry, now, NEXT))) for one in listed(visit.app, stored)]
    return visit.page("schedule.html", rows=rows, why_not=why_not, now=now)


def pause(visit: Visit) -> Response:
    """Enqueue no ticks of an entry until it is resumed."""
    name = visit.field("name")
    Schedule(visit.app).pause(name)
    return visit.back(f"{name} is paused on all machines.", visit.url("schedule"))


def resume(visit: Visit) -> Response:
    """Enqueue the ticks of an entry again, from now on."""
    name = visit.field("name")
    Schedule(visit.app).resume(name)
    return visit.back(f"{name} is resumed; machines take it over within 5 s.", visit.url("schedule"))


def run(visit: Visit) -> Response:
    """Enqueue the job of an entry now."""
    name = visit.field("name")
    try:
        handle = Schedule(visit.app).run(name)
    except JobsError as error:
        return visit.back(f"{name} was not enqueued: {error}", visit.url("schedule"), good=False)
    return visit.back(f"{name} is enqueued.", visit.url("job", id=handle.id))
