"""The calls about topics, flows, limits, statistics and health."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from jobs_core import BackendUnavailable
from jobs_core.backends.base import Backend, Counts
from jobs_core.backends.flows import SLICE as MOST_RETRIED
from jobs_core.backends.flows import FlowStatus, MemberStatus
from jobs_core.backends.limits import Limit, LimitState
from jobs_core.operating.dead import retry_flow as retry_flow_of
from jobs_core.operating.limits import changed
from jobs_core.options import limit_error
from jobs_core.statistics import Line, Span, of_topics

from ..errors import Refused
from ..visit import Visit
from .jobs import Done, own_topic
from .once import Answer
from .operation import CURSOR, LIMIT, Param, decoded, next_of, offset_of, queried

if TYPE_CHECKING:
    from ..site import Site

MOST_LIMITS = 1000

SINCE = Param("since", "How many seconds ago to begin.", 60, 30 * 86400, 86400)
TOPIC = Param("topic", "One topic alone.")


FRESH = 1.0
"""Seconds for which all who ask for the health get the same answer."""


class TopicNow(Struct, frozen=True):
    """A topic with its jobs by state."""

    name: str
    paused: bool
    counts: Counts


class Topics(Struct, frozen=True):
    items: list[TopicNow]
    age: float  # seconds since they were counted: a backend with millions of jobs counts them only now and then


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
    found = [TopicNow(name, name in snapshot.paused, counts) for name, counts in sorted(snapshot.topics.items())]
    return Topics(found, round(max(0.0, time.time() - snapshot.at), 3))


def topic(visit: Visit) -> TopicNow:
    queried(visit, ())
    name = own_topic(visit)

    def read(backend: Backend) -> TopicNow:
        return TopicNow(name, name in backend.paused(), backend.counts([name])[name])

    return visit.operate(read)


def pause(visit: Visit, raw: bytes, seed: str) -> Answer:
    visit.operate(lambda backend: backend.pause(own_topic(visit)))
    return Answer(200, topic(visit))


def resume(visit: Visit, raw: bytes, seed: str) -> Answer:
    visit.operate(lambda backend: backend.resume(own_topic(visit)))
    return Answer(200, topic(visit))


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
        raise Refused(404, f"there is no flow {visit.path('id')[:128]}: it never existed, or is no longer kept")
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
    return Answer(200, Done(visit.operate(lambda backend: retry_flow_of(backend, visit.path("id"), MOST_RETRIED))[0]))


# -- limits -----------------------------------------------------------------------------


def limits(visit: Visit) -> Limits:
    queried(visit, ())
    return Limits(visit.operate(lambda backend: backend.limits(MOST_LIMITS)))


def set_limit(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Override a limit, or one value of it, until it is reset."""
    name, new = _limit(visit), decoded(raw, NewLimit)
    if new.concurrency is None and new.rate is None:
        raise Refused(422, "nothing to set: give concurrency or rate")
    if new.burst is not None and new.rate is None:
        raise Refused(422, "burst belongs to rate, which is not given")
    if not 0 <= (new.concurrency or 0) <= 10**12 or not 1 <= (1 if new.burst is None else new.burst) <= 10**12:
        raise Refused(422, "concurrency: expected a number from 0, burst: one from 1")
    try:
        definition = changed(Limit(), new.concurrency, new.rate, new.burst)
    except ValueError as error:
        raise Refused(422, str(error)) from None
    visit.operate(lambda backend: backend.override_limit(name, definition))
    return Answer(200, definition)


def _limit(visit: Visit) -> str:
    """Return the limit of the path; refuse what cannot be one."""
    name = visit.path("limit")
    if reason := limit_error(name):
        raise Refused(422, reason)
    return name


def reset_limit(visit: Visit, raw: bytes, seed: str) -> Answer:
    """End the override of a limit, and its closures by jobs."""
    name = _limit(visit)
    visit.operate(lambda backend: backend.override_limit(name, None))
    return Answer(200, Done(1))


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


class Pulse:
    """Whether the backend answers, asked at most once a FRESH: anybody may ask, without a token. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known = False
        self._error: BackendUnavailable | None = None
        self._next = 0.0
        self._asking = False

    def look(self, ask: Callable[[], object]) -> BackendUnavailable | None:
        """Return why the backend does not answer; while another thread asks, what was known before."""
        with self._lock:
            if self._known and (self._asking or time.monotonic() < self._next):
                return self._error
            self._asking = True
        error: BackendUnavailable | None = None
        try:
            ask()
        except BackendUnavailable as unavailable:
            error = unavailable
        finally:
            with self._lock:
                self._asking = False
        with self._lock:
            self._known, self._error, self._next = True, error, time.monotonic() + FRESH
        return error


_pulses: weakref.WeakKeyDictionary[Site, Pulse] = weakref.WeakKeyDictionary()


def health(visit: Visit) -> Health:
    """Ask the backend for one count: whether it answers. Only users are told where it is."""
    queried(visit, ())
    pulse = _pulses.setdefault(visit.site, Pulse())
    error = pulse.look(lambda: visit.operate(lambda backend: backend.counts(["default"])))
    if error is not None:
        raise Refused(503, str(error) if visit.user is not None else "the backend does not answer")
    return Health("ok")
