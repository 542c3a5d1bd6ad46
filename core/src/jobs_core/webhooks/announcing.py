"""Make the jobs that send events: which receivers want an event, and what it tells them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..app import App
from ..backends.base import JobRecord, Outgoing
from ..config import Config
from ..errors import MessageError, MessageTooLarge, PayloadStoreUnavailable
from ..job import Call
from ..message import PackedMessage
from .job import NAME, TOPIC, delivery_of

MOST_DATA: Final = 64_000
"""Bytes of an event above which it leaves out arguments, result and error."""

OPTIONAL: Final = {"arguments": ("args", "kwargs"), "result": ("result",), "error": ("error",)}
"""What `include` names, and the facts that are left out of an event without it."""


class Announcer(Struct, frozen=True):
    """The events about the jobs of one topic; `done` and `dead` name the receivers that want to know of these ends."""

    app: App
    done: tuple[str, ...]
    dead: tuple[str, ...]

    def takes(self, what: str) -> bool:
        """Return whether a receiver gets the arguments, results or errors of jobs."""
        return any(what in self.app.config.webhooks[name].include for name in (*self.done, *self.dead))

    def of_end(self, dead: bool, facts: Callable[[], Mapping[str, Any]], headers: Mapping[str, Any]) -> tuple[Outgoing, ...]:
        """Return the jobs that tell the receivers of an end. `facts` are asked only if one wants them.

        `headers` go to these jobs. Raises what the hooks of enqueues raise.
        """
        names = self.dead if dead else self.done
        if not names:
            return ()
        told = facts()
        return tuple(made(self.app, name, "job.dead" if dead else "job.done", told, headers=headers) for name in names)


def announcer_of(app: App, job: str | None, topic: str) -> Announcer | None:
    """Return the announcer for jobs of a topic; None if no receiver wants their events. An event causes no further events."""
    if job == NAME or topic == TOPIC or not app.config.webhooks:
        return None
    done, dead = tuple(wanting(app.config, "done", topic)), tuple(wanting(app.config, "dead", topic))
    return Announcer(app, done, dead) if done or dead else None


def wanting(config: Config, event: str, topic: str | None) -> Iterator[str]:
    """Name the receivers that want an event of a topic, or of a flow."""
    for name, settings in config.webhooks.items():
        if event in settings.events and (
            topic is None or topic in settings.topics or (not settings.topics and event != "done")
        ):
            yield name


def letter_facts(app: App, record: JobRecord) -> dict[str, Any]:
    """Return what an event tells of a dead letter that no worker has made; arguments only if they are readable in the queue."""
    facts: dict[str, Any] = {"id": record.id, "job": None, "topic": record.topic, "attempt": record.attempt}
    facts |= {"reason": record.reason, "error": ""}
    try:
        message = app.envelope(record)
    except MessageError:
        return facts
    facts["job"] = message.job
    if not isinstance(message, PackedMessage):
        facts |= {"args": message.args, "kwargs": message.kwargs}
    return facts


def made(
    app: App,
    name: str,
    kind: str,
    facts: Mapping[str, Any],
    *,
    headers: Mapping[str, Any] = {},
    id: str | None = None,
    at: float | None = None,
) -> Outgoing:
    """Return the job that tells a receiver of an event at a time (by default now); with `id`, it is added only once."""
    job = delivery_of(app, name)
    if id is not None:
        job = job.using(id=id, store_result=True)
    data = shown(facts, app.config.webhooks[name].include)
    when = datetime.now(timezone.utc) if at is None else datetime.fromtimestamp(at, timezone.utc)
    stamp = when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    try:
        return _outgoing(app, Call(job, (name, kind, stamp, data), {}), headers, id is not None)
    except (MessageTooLarge, PayloadStoreUnavailable):  # the end of a job must not wait for this
        return _outgoing(app, Call(job, (name, kind, stamp, shown(facts, ())), {}), headers, id is not None)


def _outgoing(app: App, call: Call[Any], headers: Mapping[str, Any], chosen: bool) -> Outgoing:
    envelope = app.message(call)
    if headers:
        envelope = replace(envelope, headers={**envelope.headers, **headers})
    return app.outgoing(envelope, chosen, may_store=False)


def shown(facts: Mapping[str, Any], include: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """Return what an event tells: all facts but those that the receiver does not get, and none that are too large."""
    hidden = {fact for what, names in OPTIONAL.items() if what not in include for fact in names}
    data = {name: value for name, value in facts.items() if name not in hidden}
    if len(msgspec.json.encode(data)) <= MOST_DATA:
        return data
    left_out = sorted({fact for names in OPTIONAL.values() for fact in names} & data.keys())
    return {name: value for name, value in data.items() if name not in left_out} | {"left_out": left_out}
