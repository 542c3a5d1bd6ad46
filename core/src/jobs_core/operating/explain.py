"""Explain in one answer why a job does not run, ran twice or is dead, from the backend and the configuration.

The reasons why a job waits are in unfinished.py, because producers report them, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from ..app import App
from ..backends.base import Backend, JobRecord, State
from ..backends.flows import GIVE_UP_REFUSED, was_refused
from ..backends.letters import EXPIRED, GIVE_UP_EXPIRED
from ..errors import ArgumentError, JobsError, MessageError, NotSupported, UnknownJob
from ..escapes import word
from ..message import Message
from ..placeholders import parameter_of
from ..registry import AnyJob
from ..unfinished import NOWHERE, Here, before, held_up, jobs, reserved, waits, when
from ..units import count, format_duration, times
from .ids import missing
from .in_outbox import explained

QUEUED_OR_RUNNING = frozenset({State.READY, State.LIMITED, State.WAITING, State.SCHEDULED, State.RESERVED})

MOST_ERRORS = 3
"""Number of a job's latest errors that are shown."""

MOST_DEAD = 1000
"""Most dead letters of a topic that are searched if single jobs cannot be looked up."""


class Explanation(Struct, frozen=True):
    """The known facts about a job as sentences, the decisive one first."""

    known: bool | None  # None: this backend cannot tell whether there is such a job
    reasons: list[str]


def explain(app: App, backend: Backend, job_id: str, here: Here = NOWHERE) -> Explanation:
    """Return the full explanation; the application's jobs should be loaded, so that the message can be checked."""
    if "lookup" not in backend.features:
        return _without_lookup(app, backend, job_id, here)
    record = backend.get(job_id)
    if record is None and (waiting := app.in_outbox(job_id)) is not None:
        return Explanation(True, [explained(waiting)])
    if record is None:
        return Explanation(False, [missing(backend, job_id)])
    return Explanation(True, [*_state(app, backend, record, here), *_history(record)])


def _state(app: App, backend: Backend, record: JobRecord, here: Here) -> Iterator[str]:
    if record.state is State.DONE:
        yield f"it has been done since {when(record.since)}"
    elif record.state is State.CANCELLED:
        yield f"it was cancelled at {when(record.since)}" + (f": {record.reason}" if record.reason else "")
    elif record.state is State.DEAD:
        again = f"`jobsctl dead retry {word(record.id)}` runs it again"
        if was_refused(record.id, record.reason):
            again = GIVE_UP_REFUSED
        elif record.reason == EXPIRED:
            again = f"{GIVE_UP_EXPIRED} (`jobsctl dead drop {word(record.id)}`)"
        elif record.member is not None and _is_cancelled(backend, record.member.flow):
            again = f"its flow was cancelled, so it cannot run again: `jobsctl dead drop {word(record.id)}` deletes it"
        yield f"it has been dead since {when(record.since)}: {record.reason}; {again}"
    elif record.state is State.RESERVED:
        runs = list(here.of_running(record.id))
        yield from runs or [reserved(record), *here.of_reserved(record.owner or "")]
        if record.cancel_requested:
            yield "its cancellation was requested: its worker is told within 250 ms"
    else:
        yield from waits(app.config, backend, record, here)
    if record.state in QUEUED_OR_RUNNING:
        yield from _cannot_run(app, record)


def _is_cancelled(backend: Backend, flow_id: str) -> bool:
    flow = backend.flow(flow_id) if "flows" in backend.features else None
    return flow is not None and flow.state == "cancelled"


def _cannot_run(app: App, record: JobRecord) -> Iterator[str]:
    """Return what a worker with this code would report about the message."""
    try:
        message = app.read(record)
        job = app.registry.find(message.job or "")
        _fit(job, message)
    except UnknownJob as error:
        grace = format_duration(app.config.unknown_grace)
        yield f"{error}: workers with this code defer it for {grace} in all, then it is dead"
    except (ArgumentError, MessageError) as error:
        yield f"workers with this code will move it to the dead letters: {error}"
    else:
        if message.expires_in is not None:
            left = record.pushed_at + message.expires_in - record.broker_now
            yield f"it expires in {format_duration(round(left))}" if left > 0 else "it has expired: it will not be run"


def _fit(job: AnyJob, message: Message) -> None:
    """Raise ArgumentError if a message does not fit its job; the results that it takes are not known yet."""
    if message.results:
        unknown = {parameter_of(pointer) for pointer in message.results}
        job.arguments.check_all_but(message.args, message.kwargs, unknown)
    else:
        job.arguments.convert(list(message.args), dict(message.kwargs))


def _history(record: JobRecord) -> Iterator[str]:
    errors: list[dict[str, Any]] = [msgspec.json.decode(error) for error in record.errors]
    yield from _attempts(record, errors)
    if record.redeliveries:
        alone = f", {record.crashes} of them while it was running alone" if record.crashes else ""
        yield f"{count(record.redeliveries, 'worker')} died while running it{alone}: it may have run in part or twice"
        if record.redeliveries > 1 and record.state in QUEUED_OR_RUNNING:
            yield "so it is a suspect: few suspects run at a time, in one worker of a pool, each after a pause of up to 2 s"
    if record.deferrals and record.state is not State.SCHEDULED:
        yield f"it was deferred {times(record.deferrals)}, with no attempt counted"
    if len(errors) > MOST_ERRORS:
        yield f"the last {MOST_ERRORS} of {len(errors)} errors follow; `jobsctl show {word(record.id)}` has them all"
    for entry in errors[-MOST_ERRORS:]:
        number = f", attempt {entry['attempt']}" if entry.get("attempt") else ""
        where = f" on {entry['host']}" if "host" in entry else ""
        yield f"{when(entry.get('at'))}{where}{number}: {entry.get('type', '?')}: {entry.get('message', '')}"


def _attempts(record: JobRecord, errors: list[dict[str, Any]]) -> Iterator[str]:
    """Describe how many attempts ended.

    If a dead letter was retried, the count restarted; the history shows this by attempt numbers that fall.
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
    """Explain a job that cannot be looked up: whether it is running here or dead, and what keeps jobs waiting."""
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
            reasons.append(f"topic {topic}: {jobs(counts.ready)} ready")
            reasons += [*held_up(app.config, backend, topic), *here.of_waiting(topic), *before(app.config, backend, topic)]
    if len(reasons) == 1:
        reasons.append("no topic known here has ready jobs")
    return Explanation(None, list(dict.fromkeys(reasons)))


def _topics(app: App, backend: Backend) -> list[str]:
    known = {*app.config.topics, *app.config.served_topics(), *app.destinations()}
    with contextlib.suppress(NotSupported):
        known.update(backend.topics())
    return sorted(known)


def dead_letter(app: App, backend: Backend, job_id: str) -> JobRecord | None:
    """Search the newest dead letters of each topic for an id: for backends that cannot look up single jobs."""
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
        _fit(app.registry.find(message.job or ""), message)
    except JobsError as error:
        return str(error)
    return None


__all__ = ["Explanation", "dead_letter", "explain", "misfit"]
