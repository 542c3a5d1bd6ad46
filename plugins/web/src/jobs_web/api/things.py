"""The calls about topics, dead letters, flows, limits, the schedule, machines, statistics and health."""

from __future__ import annotations

import time
from typing import Any

from msgspec import Struct

from jobs_core import JobsError
from jobs_core.backends.base import Backend, Counts
from jobs_core.backends.flows import FlowStatus, MemberStatus
from jobs_core.backends.letters import DeadGroup
from jobs_core.backends.limits import Limit, LimitState
from jobs_core.machines import MachineReport, reports
from jobs_core.schedule import Schedule, entries
from jobs_core.statistics import Line, Span, of_topics
from jobs_core.units import interval

from ..errors import Refused
from ..visit import Visit
from .jobs import Done
from .once import Answer
from .operation import CURSOR, LIMIT, Param, decoded, next_of, offset_of, queried

MOST_GROUPS = 200
MOST_LIMITS = 1000
AT_ONCE = 1000
"""Most dead letters that one call runs again."""

SINCE = Param("since", "How many seconds ago to begin.", 60, 30 * 86400, 86400)
TOPIC = Param("topic", "One topic alone.")
GROUP = Param("group", "The id of a group of dead letters.", required=True)


class TopicNow(Struct, frozen=True):
    """A topic with its jobs by state."""

    name: str
    paused: bool
    counts: Counts


class Topics(Struct, frozen=True):
    items: list[TopicNow]


class Groups(Struct, frozen=True):
    items: list[DeadGroup]


class Flows(Struct, frozen=True):
    items: list[FlowStatus]
    next: str | None


class Members(Struct, frozen=True):
    items: list[MemberStatus]
    next: str | None


class Limits(Struct, frozen=True):
    items: list[LimitState]


class NewLimit(Struct, forbid_unknown_fields=True):
    """An override of a limit; what it does not set is not limited."""

    concurrency: int | None = None
    rate: str | None = None
    burst: int | None = None


class EntryNow(Struct, frozen=True):
    """An entry of the schedule."""

    name: str
    job: str
    expression: str
    tz: str
    paused: bool
    at_run_time: bool  # it was made at run time, and can be removed


class Entries(Struct, frozen=True):
    items: list[EntryNow]


class Machines(Struct, frozen=True):
    items: list[MachineReport]


class Figures(Struct, frozen=True):
    """What was counted in a stretch of time."""

    runs: int
    failed: int
    dead: int
    run_p50: float | None
    run_p95: float | None
    wait_p95: float | None


class Stats(Struct, frozen=True):
    """What workers did: in all, by topic, and over time."""

    begin: int
    step: int
    total: Figures
    topics: dict[str, Figures]
    columns: list[Figures]


class Health(Struct, frozen=True):
    status: str


# -- topics --------------------------------------------------------------------------------------------


def topics(visit: Visit) -> Topics:
    queried(visit, ())
    snapshot = visit.site.snapshot()
    if snapshot.error:
        raise Refused(503, snapshot.error)
    return Topics([TopicNow(name, name in snapshot.paused, counts) for name, counts in sorted(snapshot.topics.items())])


def topic(visit: Visit) -> TopicNow:
    queried(visit, ())
    name = visit.path("topic")

    def read(backend: Backend) -> TopicNow:
        return TopicNow(name, name in backend.paused(), backend.counts([name])[name])

    return visit.operate(read)


def pause(visit: Visit, raw: bytes, seed: str) -> Answer:
    visit.operate(lambda backend: backend.pause(visit.path("topic")))
    return Answer(200, topic(visit))


def resume(visit: Visit, raw: bytes, seed: str) -> Answer:
    visit.operate(lambda backend: backend.resume(visit.path("topic")))
    return Answer(200, topic(visit))


def groups(visit: Visit) -> Groups:
    queried(visit, ())
    return Groups(visit.operate(lambda backend: backend.dead_groups([visit.path("topic")], MOST_GROUPS)))


def retry_group(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Run again the oldest dead letters of a group."""
    group = queried(visit, (GROUP,))["group"]

    def act(backend: Backend) -> int:
        letters = backend.dead_in_group(visit.path("topic"), group, AT_ONCE)
        return backend.requeue([letter.id for letter in letters]) if letters else 0

    return Answer(200, Done(visit.operate(act)))


# -- flows ---------------------------------------------------------------------------------------------


def flows(visit: Visit) -> Flows:
    query = queried(visit, (LIMIT, CURSOR))
    limit, offset = query["limit"], offset_of(visit, query)
    found = visit.operate(lambda backend: backend.flows(limit, offset))
    return Flows(found, next_of(visit, offset, len(found), limit))


def flow(visit: Visit) -> FlowStatus:
    queried(visit, ())
    return _flow(visit)


def _flow(visit: Visit) -> FlowStatus:
    found = visit.operate(lambda backend: backend.flow(visit.path("id")))
    if found is None:
        raise Refused(404, f"there is no flow {visit.path('id')[:128]}, or no longer")
    return found


def members(visit: Visit) -> Members:
    query = queried(visit, (LIMIT, CURSOR))
    limit, offset = query["limit"], offset_of(visit, query)
    _flow(visit)
    found = visit.operate(lambda backend: backend.flow_members(visit.path("id"), limit, offset))
    return Members(found, next_of(visit, offset, len(found), limit))


def cancel_flow(visit: Visit, raw: bytes, seed: str) -> Answer:
    _flow(visit)
    visit.operate(lambda backend: backend.cancel_flow(visit.path("id")))
    return Answer(200, _flow(visit))


def retry_flow(visit: Visit, raw: bytes, seed: str) -> Answer:
    _flow(visit)
    return Answer(200, Done(visit.operate(lambda backend: backend.retry_flow(visit.path("id")))))


# -- limits, schedule, machines -----------------------------------------------------------------------------


def limits(visit: Visit) -> Limits:
    queried(visit, ())
    return Limits(visit.operate(lambda backend: backend.limits(MOST_LIMITS)))


def set_limit(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Override a limit, or one value of it, until it is reset."""
    name, new = visit.path("limit"), decoded(raw, NewLimit)
    if new.concurrency is None and new.rate is None:
        raise Refused(422, "nothing to set: give concurrency or rate")
    if new.burst is not None and new.rate is None:
        raise Refused(422, "burst belongs to rate, which is not given")
    if not 0 <= (new.concurrency or 0) <= 10**12 or not 1 <= (new.burst or 1) <= 10**12:
        raise Refused(422, "concurrency: expected a number from 0, burst: one from 1")
    try:
        spacing = None if new.rate is None else interval(new.rate)
    except ValueError as error:
        raise Refused(422, str(error)) from None
    definition = Limit(new.concurrency, spacing, new.burst or 1)
    visit.operate(lambda backend: backend.override_limit(name, definition))
    return Answer(200, definition)


def reset_limit(visit: Visit, raw: bytes, seed: str) -> Answer:
    visit.operate(lambda backend: backend.override_limit(visit.path("limit"), None))
    return Answer(200, Done(1))


def schedule(visit: Visit) -> Entries:
    """List the schedule: that of code and configuration of this process, and what was stored at run time."""
    queried(visit, ())
    stored = {one.name: one for one in Schedule(visit.app).stored()}
    found = []
    for entry in entries(visit.app):
        paused = entry.name in stored and stored[entry.name].said.paused
        found.append(EntryNow(entry.name, entry.job, entry.expression, entry.tz, paused, at_run_time=False))
    known = {one.name for one in found}
    for one in stored.values():
        if one.entry is not None and one.name not in known:
            entry = one.entry
            found.append(EntryNow(one.name, entry.job, entry.expression, entry.tz, one.said.paused, at_run_time=True))
    return Entries(sorted(found, key=lambda each: each.name))


def pause_entry(visit: Visit, raw: bytes, seed: str) -> Answer:
    return _paused(visit, paused=True)


def resume_entry(visit: Visit, raw: bytes, seed: str) -> Answer:
    return _paused(visit, paused=False)


def _paused(visit: Visit, *, paused: bool) -> Answer:
    name = visit.path("name")
    try:
        (Schedule(visit.app).pause if paused else Schedule(visit.app).resume)(name)
    except JobsError as error:
        if type(error).__name__ == "ScheduleError":
            raise Refused(404, str(error)) from None
        raise
    return Answer(200, next((one for one in schedule(visit).items if one.name == name), None))


def machines(visit: Visit) -> Machines:
    queried(visit, ())
    return Machines(visit.operate(reports))


# -- statistics and health ----------------------------------------------------------------------------------


def stats(visit: Visit) -> Stats:
    query = queried(visit, (SINCE, TOPIC))
    now = time.time()
    span = Span.of(now - query["since"], now, 60, kept=86400.0)
    found = visit.operate(lambda backend: of_topics(backend, span, query.get("topic")))
    chosen = found.everything if "topic" not in query else found.topics.get(query["topic"], Line.empty(span))
    return Stats(
        span.begin,
        span.step,
        _figures(chosen.total),
        {name: _figures(line.total) for name, line in sorted(found.topics.items())},
        [_figures(column) for column in chosen.columns],
    )


def _figures(tally: Any) -> Figures:
    return Figures(
        tally.runs, tally.failed, tally.outcome("dead"), tally.run.below(0.5), tally.run.below(0.95), tally.wait.below(0.95)
    )


def health(visit: Visit) -> Health:
    """Ask the backend for one count: whether it answers."""
    queried(visit, ())
    visit.operate(lambda backend: backend.counts(["default"]))
    return Health("ok")
