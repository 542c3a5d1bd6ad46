"""One answer to "why does this job not run, run twice, or stand dead?", from what backend and configuration say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from .app import App
from .backends.base import Backend, JobRecord, State
from .errors import ArgumentError, JobsError, MessageError, UnknownJob
from .units import format_duration, shown_time


def explain(app: App, backend: Backend, job_id: str) -> list[str]:
    """Sentences, the deciding one first. The application's jobs should be loaded, to know their names."""
    record = backend.get(job_id)
    if record is None:
        return ["no such job is known: it never was enqueued here, or it is done and kept no result"]
    return [*_state(app, backend, record), *_history(record)]


def _state(app: App, backend: Backend, record: JobRecord) -> Iterator[str]:
    if record.state is State.DONE:
        yield f"it is done, since {_when(record.since)}"
    elif record.state is State.CANCELLED:
        yield f"it was cancelled, {_when(record.since)}"
    elif record.state is State.DEAD:
        yield f"it is dead since {_when(record.since)}: {record.reason}; `jobsctl dead retry {record.id}` gives it another life"
    elif record.state is State.RESERVED:
        held = format_duration(round(record.broker_now - (record.since or record.broker_now)))
        yield f"it is reserved by worker {record.owner} for {held}: it runs there, or is about to"
        if record.cancel_requested:
            yield "somebody asked for its cancellation: its worker hears of it within 250 ms"
    else:
        yield from _waits(app, backend, record)
    if record.state in (State.READY, State.SCHEDULED, State.RESERVED):
        yield from _cannot_run(app, record)


def _waits(app: App, backend: Backend, record: JobRecord) -> Iterator[str]:
    """Why a queued job is not running, what keeps it longest first."""
    topic = record.topic
    pools = [name for name, pool in app.config.pools.items() if topic in pool.topics]
    if not pools:
        yield f"no pool of this configuration serves topic {topic}: add it to the topics of a pool"
    if topic in backend.paused():
        yield f"topic {topic} is paused: `jobsctl resume {topic}`"
    if record.state is State.SCHEDULED and record.due is not None:
        left = format_duration(max(0, round(record.due - record.broker_now)))
        cause = "a retry" if record.attempt else "a deferral" if record.deferrals else "its delay"
        yield f"it waits for {cause} until {_when(record.due)}, {left} from now"
        return
    before = _ahead(backend, record)
    yield f"it is ready{before}" if pools else f"it is ready{before}, for nobody"
    for name in pools:
        earlier = app.config.pools[name].topics[: app.config.pools[name].topics.index(topic)]
        counts = backend.counts(earlier) if earlier else {}
        busy = [f"{other} ({count.ready} ready)" for other, count in counts.items() if count.ready]
        if busy:
            yield f"pool {name} serves {', '.join(busy)} before {topic}"


def _ahead(backend: Backend, record: JobRecord) -> str:
    if "browse" not in backend.features:
        return ""
    line = [other.id for other in backend.browse(record.topic, State.READY, 1000)]
    if record.id not in line:
        return " with more than 1,000 jobs before it" if len(line) == 1000 else ""
    place = line.index(record.id)
    return f" with {place} jobs before it" if place else " and next in line"


def _cannot_run(app: App, record: JobRecord) -> Iterator[str]:
    """What a worker with this code would say of the message."""
    try:
        message = app.read(record)
        job = app.registry.find(message.job or "")
        job.arguments.convert(list(message.args), dict(message.kwargs))
    except UnknownJob as error:
        grace = format_duration(app.config.unknown_grace)
        yield f"{error}: workers of this code put it off for {grace} in all, then it is dead"
    except (ArgumentError, MessageError) as error:
        yield f"workers of this code will put it to the dead letters: {error}"
    else:
        if message.expires_in is not None:
            left = record.pushed_at + message.expires_in - record.broker_now
            yield f"it expires in {format_duration(round(left))}" if left > 0 else "it has expired: it will not be run"


def _history(record: JobRecord) -> Iterator[str]:
    if record.attempt:
        yield f"{record.attempt} attempts ended before"
    if record.redeliveries:
        alone = f", in {record.crashes} of them it was the only one running" if record.crashes else ""
        yield f"{record.redeliveries} workers died while it ran{alone}: it may have run in part or twice"
    if record.deferrals and record.state is not State.SCHEDULED:
        yield f"it was put off {record.deferrals} times without being charged"
    for error in record.errors[-3:]:
        entry: dict[str, Any] = msgspec.json.decode(error)
        where = f" on {entry['host']}" if "host" in entry else ""
        yield f"{_when(entry.get('at'))}{where}: {entry.get('type', '?')}: {entry.get('message', '')}"


def misfit(app: App, record: JobRecord) -> str | None:
    """Why a queued message does not fit the code that is loaded here; None if it does."""
    try:
        message = app.read(record)
        app.registry.find(message.job or "").arguments.convert(list(message.args), dict(message.kwargs))
    except JobsError as error:
        return str(error)
    return None


def _when(at: float | None) -> str:
    return shown_time(at) if at else "an unknown time"
