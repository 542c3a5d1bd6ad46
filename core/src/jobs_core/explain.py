"""Explain in one answer why a job does not run, ran twice or is dead, from the backend and the configuration.

A `Here` adds what is known about the processes on this machine: the command line has one, a producer has none. However many
jobs are waiting in the queue, a bounded number of them is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from . import lockfile, urls
from .backends.base import Backend, JobRecord, State
from .errors import ArgumentError, JobsError, MessageError, NotSupported, UnknownJob
from .units import count, format_duration, shown_time, times

if TYPE_CHECKING:
    from .app import App

PAGE = 100
"""Jobs that are read in one round trip, to find the position of one."""

MOST_AHEAD = 1000
MOST_BYTES = 4_000_000
"""Bytes of payload on these pages after which no other page is requested: messages may be large."""

MOST_ERRORS = 3
"""The number of a job's latest errors that are shown."""

MOST_DEAD = 1000
"""Dead letters of a topic that are read if single jobs cannot be looked up."""


class Explanation(Struct, frozen=True):
    """The known facts about a job: sentences, the deciding one first."""

    known: bool | None  # None: this backend cannot tell whether there is such a job
    reasons: list[str]


class Here:
    """The knowledge about the processes on this machine: here, none. See `jobs_core.cli.this_machine`."""

    def of_waiting(self, topic: str) -> Iterator[str]:
        """Explain why jobs of a topic are not run here, or which workers would run them."""
        return iter(())

    def of_reserved(self, owner: str) -> Iterator[str]:
        """Describe the worker that has reserved a job which is not running here."""
        return iter(())

    def of_running(self, job_id: str) -> Iterator[str]:
        """Describe where a job is running here, if it is, without any word from the backend."""
        return iter(())


NOWHERE = Here()


class _Producer(Here):
    """The facts that a producer can give at once about its own machine."""

    def __init__(self, app: App) -> None:
        self._app = app

    def of_waiting(self, topic: str) -> Iterator[str]:
        with contextlib.suppress(PermissionError):  # it belongs to another user: the state is unknown
            if lockfile.holder(self._app.run_dir) is None:
                yield no_supervisor(self._app)


def no_supervisor(app: App) -> str:
    """Return the message for a run directory without a supervisor."""
    others = "" if urls.scheme(app.backend_url) == "sqlite" else ", unless workers on another machine do the work"
    return f"no supervisor is running on this machine in {app.run_dir}: `jobsctl start` starts it{others}"


def explain(app: App, backend: Backend, job_id: str, here: Here = NOWHERE) -> Explanation:
    """Return the full explanation. The application's jobs should be loaded, because their names are needed."""
    if "lookup" not in backend.features:
        return _without_lookup(app, backend, job_id, here)
    record = backend.get(job_id)
    if record is None:
        return Explanation(False, [f"unknown job {job_id}: it never existed here, or it finished without a stored result"])
    return Explanation(True, [*_state(app, backend, record, here), *_history(record)])


def unfinished(app: App, backend: Backend, job_id: str) -> list[str]:
    """Return what a producer can say at once about a job that has not ended; nothing if single jobs cannot be looked up."""
    record = backend.get(job_id) if "lookup" in backend.features else None
    if record is None:
        return []
    if record.state is State.RESERVED:
        return [_reserved(record)]
    here = _Producer(app) if "multiprocess" in backend.features else NOWHERE
    return list(_waits(app, backend, record, here, PAGE))


def _state(app: App, backend: Backend, record: JobRecord, here: Here) -> Iterator[str]:
    if record.state is State.DONE:
        yield f"it has been done since {_when(record.since)}"
    elif record.state is State.CANCELLED:
        yield f"it was cancelled at {_when(record.since)}"
    elif record.state is State.DEAD:
        yield f"it has been dead since {_when(record.since)}: {record.reason}; `jobsctl dead retry {record.id}` runs it again"
    elif record.state is State.RESERVED:
        runs = list(here.of_running(record.id))
        yield from runs or [_reserved(record), *here.of_reserved(record.owner or "")]
        if record.cancel_requested:
            yield "its cancellation was requested: its worker is told within 250 ms"
    else:
        yield from _waits(app, backend, record, here)
    if record.state in (State.READY, State.SCHEDULED, State.RESERVED):
        yield from _cannot_run(app, record)


def _reserved(record: JobRecord) -> str:
    held = format_duration(max(0, round(record.broker_now - (record.since or record.broker_now))))
    since = f"{_when(record.since)}, for {held}"
    return f"it has been reserved by worker {record.owner} since {since}: it is running there, or about to"


def _waits(app: App, backend: Backend, record: JobRecord, here: Here, most: int = MOST_AHEAD) -> Iterator[str]:
    """Explain why a queued job is not running, the longest-lasting reason first."""
    topic = record.topic
    yield from _held_up(app, backend, topic)
    if record.state is State.SCHEDULED and record.due is not None:
        left = format_duration(max(0, round(record.due - record.broker_now)))
        cause = (
            "after a failed attempt"
            if record.attempt
            else "after a deferral"
            if record.deferrals
            else "as enqueued with a delay"
        )
        yield f"it is scheduled for {_when(record.due)}, {left} from now, {cause}"
        yield from here.of_waiting(topic)
        return
    yield from here.of_waiting(topic)
    served = topic in app.config.served_topics()
    yield f"it is ready{_ahead(backend, record, most)}{'' if served else ', but no pool here serves it'}"
    yield from _before(app, backend, topic)


def _held_up(app: App, backend: Backend, topic: str) -> Iterator[str]:
    """Explain what keeps all jobs of a topic waiting, by configuration and backend."""
    if app.config.is_unserved(topic):
        yield f"no pool of this configuration serves topic {topic}: add it to the topics of a pool"
    elif topic not in app.config.served_topics():
        yield f"topic {topic} is produce-only here (serve = false): workers elsewhere must serve it"
    if topic in backend.paused():
        yield f"topic {topic} is paused: run `jobsctl resume {topic}`"


def _before(app: App, backend: Backend, topic: str) -> Iterator[str]:
    """Name the topics with ready jobs that pools serve before this one."""
    for name, pool in app.config.pools.items():
        strict = list(pool.topics) if isinstance(pool.topics, list) else []  # by weight, each topic is served
        earlier = strict[: strict.index(topic)] if topic in strict else []
        busy = [f"{other} ({ready} ready)" for other in earlier if (ready := _ready(backend, other))]
        if busy:
            yield f"pool {name} serves {', '.join(busy)} before {topic}"


def _ready(backend: Backend, topic: str) -> str:
    """Count the ready jobs of a topic, as text; "" for none.

    Jobs that can be listed are counted up to a page, because a count may read them all.
    """
    if "browse" not in backend.features:
        return f"{backend.counts([topic])[topic].ready or ''}"
    ready = len(backend.browse(topic, State.READY, PAGE))
    return f"{PAGE} or more" if ready == PAGE else f"{ready or ''}"


def _ahead(backend: Backend, record: JobRecord, most: int) -> str:
    """Count the jobs of its topic that come before it, as text, as far as a few pages show."""
    if "browse" not in backend.features:
        return ""
    looked = size = 0
    while looked < most and size < MOST_BYTES:
        page = backend.browse(record.topic, State.READY, PAGE, looked)
        for place, other in enumerate(page, looked):
            if other.id == record.id:
                return f" with {_jobs(place)} ahead of it" if place else " and next in line"
            size += len(other.payload)
        looked += len(page)
        if len(page) < PAGE:  # it has been reserved meanwhile
            return ""
    return f" with more than {looked:,} jobs ahead of it"


def _cannot_run(app: App, record: JobRecord) -> Iterator[str]:
    """Return what a worker with this code would report about the message."""
    try:
        message = app.read(record)
        job = app.registry.find(message.job or "")
        job.arguments.convert(list(message.args), dict(message.kwargs))
    except UnknownJob as error:
        grace = format_duration(app.config.unknown_grace)
        yield f"{error}: workers with this code defer it for {grace} in all, then it is dead"
    except (ArgumentError, MessageError) as error:
        yield f"workers with this code will move it to the dead letters: {error}"
    else:
        if message.expires_in is not None:
            left = record.pushed_at + message.expires_in - record.broker_now
            yield f"it expires in {format_duration(round(left))}" if left > 0 else "it has expired: it will not be run"


def _history(record: JobRecord) -> Iterator[str]:
    errors: list[dict[str, Any]] = [msgspec.json.decode(error) for error in record.errors]
    yield from _attempts(record, errors)
    if record.redeliveries:
        alone = f", {record.crashes} of them while it was running alone" if record.crashes else ""
        yield f"{count(record.redeliveries, 'worker')} died while running it{alone}: it may have run in part or twice"
        if record.redeliveries > 1 and record.state in (State.READY, State.SCHEDULED, State.RESERVED):
            yield "so it is a suspect: few suspects run at a time, in one worker of a pool, each after a pause of up to 2 s"
    if record.deferrals and record.state is not State.SCHEDULED:
        yield f"it was deferred {times(record.deferrals)}, with no attempt counted"
    if len(errors) > MOST_ERRORS:
        yield f"the last {MOST_ERRORS} of {len(errors)} errors follow; `jobsctl show {record.id}` has them all"
    for entry in errors[-MOST_ERRORS:]:
        number = f", attempt {entry['attempt']}" if entry.get("attempt") else ""
        where = f" on {entry['host']}" if "host" in entry else ""
        yield f"{_when(entry.get('at'))}{where}{number}: {entry.get('type', '?')}: {entry.get('message', '')}"


def _attempts(record: JobRecord, errors: list[dict[str, Any]]) -> Iterator[str]:
    """Describe how many attempts ended.

    A retry of a dead letter restarts the count; earlier attempts are distinguished by number.
    """
    numbers = [entry["attempt"] for entry in errors if isinstance(entry.get("attempt"), int) and entry["attempt"] > 0]
    now = record.attempt
    starts = [place for place in range(1, len(numbers)) if numbers[place] <= numbers[place - 1]]
    if numbers and not now:
        before, since = len(numbers), "none since"
    elif starts:
        before, since = starts[-1], f"{count(now, 'attempt')} since"
    else:
        if now:
            yield f"{count(now, 'earlier attempt')} {'has' if now == 1 else 'have'} ended"
        return
    yield f"it was retried from the dead letters: {count(before, 'attempt')} ended before that, {since}"


# -- without lookup --------------------------------------------------------------------------------


def _without_lookup(app: App, backend: Backend, job_id: str, here: Here) -> Explanation:
    """Explain a job that the backend cannot look up: whether it runs here or is dead, and what keeps jobs waiting."""
    runs = list(here.of_running(job_id))
    if runs:
        return Explanation(True, runs)
    topics = _topics(app, backend)
    letter = dead_letter(app, backend, job_id)
    if letter is not None:
        return Explanation(True, [*_state(app, backend, letter, here), *_history(letter)])
    reasons = [
        f"{backend.name}:// cannot look up single jobs (set [results] url to record them): this one is not running on this "
        "machine and is not a recent dead letter, so it is waiting, running elsewhere, done, or it never existed"
    ]
    for topic, counts in backend.counts(topics).items():
        if counts.ready:
            reasons.append(f"topic {topic}: {_jobs(counts.ready)} ready")
            reasons += [*_held_up(app, backend, topic), *here.of_waiting(topic), *_before(app, backend, topic)]
    if len(reasons) == 1:
        reasons.append("no topic known here has ready jobs")
    return Explanation(None, list(dict.fromkeys(reasons)))


def _topics(app: App, backend: Backend) -> list[str]:
    known = {*app.config.topics, *app.config.served_topics(), *app.destinations()}
    with contextlib.suppress(NotSupported):
        known.update(backend.topics())
    return sorted(known)


def dead_letter(app: App, backend: Backend, job_id: str) -> JobRecord | None:
    """Return a dead letter by its id; if single jobs cannot be looked up, search the newest of each topic."""
    with contextlib.suppress(NotSupported):
        for topic in _topics(app, backend):
            for record in backend.browse(topic, State.DEAD, MOST_DEAD):
                if record.id == job_id:
                    return record
    return None


def misfit(app: App, record: JobRecord) -> str | None:
    """Return why a queued message does not fit the code that is loaded here; None if it does."""
    try:
        message = app.read(record)
        app.registry.find(message.job or "").arguments.convert(list(message.args), dict(message.kwargs))
    except JobsError as error:
        return str(error)
    return None


def _jobs(number: int) -> str:
    return count(number, "job")


def _when(at: float | None) -> str:
    return shown_time(at) if at else "an unknown time"


__all__ = ["NOWHERE", "Explanation", "Here", "dead_letter", "explain", "misfit", "unfinished"]
