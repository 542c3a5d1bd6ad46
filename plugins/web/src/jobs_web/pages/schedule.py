"""The schedule: when each entry runs next, running it now, pausing it; adding, changing and removing entries at run time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct
from starlette.responses import Response

from jobs_core import BackendError, JobsError, NotSupported
from jobs_core.job import Call
from jobs_core.operating.schedule import Listed, listed, runs_of
from jobs_core.schedule import Schedule, Stored
from jobs_core.units import format_duration

from ..errors import Refused
from ..live import packed
from ..visit import Visit
from .job import page_of, parsed

if TYPE_CHECKING:
    from ..site import Site

NEXT = 3
"""Next runs that are shown of each entry."""

FIELDS = ("name", "job", "call", "cron", "every", "tz", "topic", "missed", "replace")
"""Fields of the form of an entry."""


class Seen(Struct, frozen=True):
    """What is read of the schedule: entries that the backend stores, or why there can be none."""

    stored: list[Stored]
    why_not: str = ""


def read(site: Site, name: str = "") -> Seen:
    """Read what the backend stores."""
    try:
        return Seen(Schedule(site.app).stored())
    except NotSupported as error:
        return Seen([], str(error))


def still(seen: Seen) -> bytes:
    """Return what counts as a change of the schedule."""
    return packed([(one.name, one.version) for one in seen.stored])


def show(visit: Visit) -> Response:
    """List the entries of the schedule."""
    name = visit.query("edit")
    found = _listed(visit, visit.site.read("schedule"))
    one = next((each for each in found if each.entry.name == name and each.is_made_at_run_time), None)
    if name and one is None:
        raise Refused(404, f"there is no schedule entry {name} that was made at run time")
    return _page(visit, found, {} if one is None else _written(one))


def _listed(visit: Visit, seen: Seen) -> list[Listed]:
    return listed(visit.app, seen.stored)


def _page(visit: Visit, found: list[Listed], form: Mapping[str, str], problem: str = "") -> Response:
    """Show the schedule with the form of an entry: a new one, one that is being changed, or one with a problem."""
    now = time.time()
    rows = [(one, [] if one.paused else list(runs_of(one.entry, now, NEXT))) for one in found]
    return visit.page(
        "schedule.html",
        422 if problem else 200,
        rows=rows,
        why_not=visit.site.read("schedule").why_not,
        now=now,
        form={name: form.get(name, "") for name in FIELDS},
        problem=problem,
        jobs=sorted(job.name for job in visit.app.registry) if visit.may("admin") else [],
    )


def _written(one: Listed) -> dict[str, str]:
    """Return an entry as its form has it."""
    entry = one.entry
    call = {"args": list(entry.args), "kwargs": dict(entry.kwargs)}
    return {
        "name": entry.name,
        "job": entry.job,
        "call": msgspec.json.encode(call).decode() if entry.args or entry.kwargs else "",
        "cron": entry.cron or "",
        "every": "" if entry.every is None else format_duration(entry.every),
        "tz": entry.tz if entry.cron else "",
        "topic": entry.topic or "",
        "missed": entry.missed,
        "replace": "yes",
    }


def save(visit: Visit) -> Response:
    """Add an entry, or change one that was made at run time."""
    form = {name: visit.form.get(name, "").strip() for name in FIELDS}
    name, job = visit.field("name").strip(), visit.field("job").strip()
    replace = form["replace"] == "yes"
    try:
        Schedule(visit.app).add(
            name,
            _call(visit, job, form),
            cron=form["cron"] or None,
            every=form["every"] or None,
            tz=form["tz"] or None,
            missed=_missed(form["missed"]),
            replace=replace,
        )
    except JobsError as error:
        if isinstance(error, BackendError):
            raise
        return _page(visit, _listed(visit, visit.site.read("schedule")), form, str(error))
    return visit.back(
        f"{name} is {'changed' if replace else 'added'}; machines take it over within 5 s.", visit.url("schedule")
    )


def _call(visit: Visit, name: str, form: Mapping[str, str]) -> Call[Any]:
    """Return the call of an entry; raises ArgumentError and UnknownJob."""
    found = visit.app.registry.find(name)
    given = parsed(form["call"]) if form["call"] else None
    job = found.using(topic=form["topic"]) if form["topic"] else found
    return Call(job, tuple(given.args), given.kwargs) if given else Call(job, (), {})


def _missed(text: str) -> Literal["skip", "once"]:
    return "skip" if text == "skip" else "once"


def remove(visit: Visit) -> Response:
    """Remove an entry that was made at run time."""
    name = visit.field("name")
    if asked := visit.unsure(f"Remove {name} from the schedule?", "Its job is not enqueued any more.", visit.url("schedule")):
        return asked
    Schedule(visit.app).remove(name)
    return visit.back(f"{name} is removed from the schedule.", visit.url("schedule"))


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
    return visit.back(f"{name} is enqueued.", page_of(visit, handle.id, "schedule"))
