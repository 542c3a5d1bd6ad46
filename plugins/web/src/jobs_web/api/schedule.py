"""The calls about the schedule: list its entries, add, change, remove, pause and run them."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Literal
from urllib.parse import quote

from msgspec import Struct

from jobs_core import JobsError, NotSupported
from jobs_core.backends.documents import NAME
from jobs_core.ids import new_token
from jobs_core.job import Call
from jobs_core.operating import schedule as operating
from jobs_core.operating.producing import Producing
from jobs_core.schedule import Schedule, Stored
from jobs_core.schedule.stored import call_of

from ..errors import Refused
from ..visit import Visit
from .jobs import Done, unfit
from .once import Answer
from .operation import decoded, queried

NEXT = 3
"""Next runs that are told of each entry."""


class NewEntry(Struct, forbid_unknown_fields=True):
    """An entry of the schedule, with either `cron` or `every`."""

    job: str
    cron: str | None = None
    every: float | str | None = None
    tz: str | None = None  # belongs to cron; UTC by default
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    topic: str | None = None
    missed: Literal["skip", "once"] = "once"  # what becomes of ticks while no supervisor runs


class EntryNow(Struct, frozen=True):
    """An entry of the schedule."""

    name: str
    job: str
    expression: str
    tz: str
    topic: str | None  # None: that of the job
    missed: str
    args: list[Any] | None  # None: hidden from this user
    kwargs: dict[str, Any] | None
    paused: bool
    at_run_time: bool  # it was made at run time, and can be changed and removed
    by: str  # who changed it last
    next: list[float]  # Unix times of the next runs


class Entries(Struct, frozen=True):
    items: list[EntryNow]


def _listed(visit: Visit) -> list[operating.Listed]:
    stored: list[Stored] = []
    with contextlib.suppress(NotSupported):  # without it, there is the schedule of code and configuration
        stored = Schedule(visit.app).stored()
    return operating.listed(visit.app, stored)


def _find(visit: Visit, name: str) -> operating.Listed:
    found = next((one for one in _listed(visit) if one.entry.name == name), None)
    if found is None:
        raise Refused(404, f"there is no schedule entry {name[:200]}: GET /schedule lists them")
    return found


def _shown(visit: Visit, one: operating.Listed) -> EntryNow:
    entry, now = one.entry, time.time()
    hidden = not visit.sees_arguments
    return EntryNow(
        entry.name,
        entry.job,
        entry.expression,
        entry.tz,
        entry.topic,
        entry.missed,
        None if hidden else list(entry.args),
        None if hidden else dict(entry.kwargs),
        one.paused,
        one.is_made_at_run_time,
        one.stored.said.by if one.stored is not None else "",
        [] if one.paused else list(operating.runs_of(entry, now, NEXT)),
    )


def entries(visit: Visit) -> Entries:
    """List the schedule: that of code and configuration of this process, and what was stored at run time."""
    queried(visit, ())
    return Entries([_shown(visit, one) for one in _listed(visit)])


def entry(visit: Visit) -> EntryNow:
    queried(visit, ())
    return _shown(visit, _find(visit, visit.path("name")))


def put(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Add an entry, or replace the one of this name that was made at run time; a pause stays."""
    name, new = visit.path("name"), decoded(raw, NewEntry)
    if not NAME.fullmatch(name):
        raise Refused(422, "expected a name of 1 to 200 characters, none of them a control character")
    if any(one.entry.name == name and not one.is_made_at_run_time for one in _listed(visit)):
        raise Refused(409, f"schedule entry {name} is in the code or the configuration: choose another name")
    try:
        job = visit.app.registry.find(new.job)
        call = Call(job if new.topic is None else job.using(topic=new.topic), tuple(new.args), new.kwargs)
        Schedule(visit.app).add(name, call, cron=new.cron, every=new.every, tz=new.tz, missed=new.missed, replace=True)
    except JobsError as error:
        raise unfit(error) from None
    return Answer(200, _shown(visit, _find(visit, name)))


def remove(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Remove an entry that was made at run time."""
    name = visit.path("name")
    if not _find(visit, name).is_made_at_run_time:
        raise Refused(409, f"schedule entry {name} is in the code or the configuration: remove it there, or pause it")
    Schedule(visit.app).remove(name)
    return Answer(200, Done(1))


def pause(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Enqueue no ticks of an entry on any machine until it is resumed."""
    return _set_paused(visit, paused=True)


def resume(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Enqueue the ticks of an entry again, from now on."""
    return _set_paused(visit, paused=False)


def _set_paused(visit: Visit, *, paused: bool) -> Answer:
    name = visit.path("name")
    _find(visit, name)
    schedule = Schedule(visit.app)
    (schedule.pause if paused else schedule.resume)(name)
    return Answer(200, _shown(visit, _find(visit, name)))


def run(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Enqueue the job of an entry now, whether it is paused or not."""
    found = _find(visit, visit.path("name")).entry
    try:
        call = call_of(visit.app, found, {"schedule": found.name, "tick": time.time()})
        if seed:
            call = Call(call.job.using(id=seed), call.args, call.kwargs)
        producing = Producing(visit.app)
        [told] = producing.push([visit.app.prepare(call)[0]], seed or new_token())
    except JobsError as error:
        raise unfit(error) from None
    return Answer(201 if told.created else 200, told, {"Location": f"{_above(visit, 3)}/jobs/{quote(told.id, safe='')}"})


def _above(visit: Visit, parts: int) -> str:
    """Return the path of the request without its last parts."""
    return str(visit.request.url.path).rsplit("/", parts)[0]
