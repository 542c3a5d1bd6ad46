"""Messages as the broker carries them: the payload unchanged, the facts about the job in properties and headers.

A newly pushed message has no headers of ours. Workers publish copies, whose headers record the job's history. We never
reject a message, so the broker's own count of deliveries (which classic queues lack) counts only losses. It is used for the
first loss; a copy records each later one.

============  ==========================================================================================
property      content
============  ==========================================================================================
message_id    the job's id
timestamp     when it was pushed, rounded up to a second, by the producer's clock, because RabbitMQ does not tell its time
priority      0 to 9
headers       x-jobs-attempt, -deferrals: counts so far; -losses: how often it was lost with a worker or connection
              x-jobs-left: the part of a delay beyond the ladder, in seconds
              x-jobs-errors: the newest errors, JSON documents; x-jobs-reason: why it is a dead letter, and
              x-jobs-died: since when, in milliseconds, by the clock of the worker
============  ==========================================================================================
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from pika.spec import BasicProperties

from jobs_core.backend_kit import new_id, peek, unsigned
from jobs_core.backends.base import KEPT_ERRORS, Outgoing

from .transport.frames import OURS, PERSISTENT, Plain

ATTEMPT, LOSSES, DEFERRALS = "x-jobs-attempt", "x-jobs-losses", "x-jobs-deferrals"
LEFT, ERRORS, REASON, DIED = "x-jobs-left", "x-jobs-errors", "x-jobs-reason", "x-jobs-died"
COUNT = "x-delivery-count"
SUSPECT = 2
"""The number of losses from which on a job runs apart from others. The first does not count: another job may have caused it."""


ERRORS_SIZE = 90_000
"""The most bytes of errors in a message: its headers have to fit into one frame."""

_NONE: Mapping[str, Any] = {}


def fresh(message: Outgoing) -> BasicProperties:
    """Return the properties of a newly pushed job."""
    properties: BasicProperties = Plain(message.id, math.ceil(time.time()))
    if message.priority:
        properties.priority = message.priority
    return properties


class BrokerMessage:
    """An unsettled delivery: its origin, and the data in its properties."""

    __slots__ = (
        "again", "attempt", "body", "consumer", "deferrals", "generation", "headers", "id", "level", "losses", "priority",
        "properties", "pushed_at", "tag", "token", "topic",
    )  # fmt: skip

    def __init__(
        self, tag: int, generation: int, topic: str, level: int, again: bool, properties: BasicProperties, body: bytes
    ) -> None:
        self.tag = tag
        self.again = again
        self.consumer = ""  # tag of the consumer that received it; empty if it was fetched
        self.generation = generation
        self.topic = topic
        self.level = level
        self.properties = properties
        self.body = body
        self.token = 0
        self.id = properties.message_id or new_id()
        self.priority = properties.priority or 0
        stamp = properties.timestamp
        self.pushed_at = float(stamp) if stamp else time.time()
        headers = properties.headers
        self.headers: Mapping[str, Any] = headers or _NONE
        self.attempt = self.losses = self.deferrals = 0
        if headers:
            self.attempt = _count(headers, ATTEMPT)
            self.losses = _count(headers, LOSSES)
            self.deferrals = _count(headers, DEFERRALS)
        if again:  # the message was lost, whether this job caused that or not
            self.losses = 2 if self.losses == 0 and self.deliveries() > 1 else self.losses + 1

    @property
    def suspect(self) -> bool:
        """Return whether the job has to run apart from others."""
        return self.losses >= SUSPECT

    @property
    def foreign(self) -> bool:
        """Return whether another program has published the message."""
        return bool(self.properties.app_id != OURS)

    def deliveries(self) -> int:
        """Return the broker's count of how often this copy returned unsettled, for any reason."""
        return _count(self.headers, COUNT)

    def copy(self, headers: Mapping[str, Any], error: bytes = b"") -> BasicProperties:
        """Return the properties of a copy: the old ones plus these headers and an error, without the broker's own headers."""
        kept = {name: value for name, value in self.headers.items() if name not in (COUNT, LEFT, "x-death")}
        kept.update(headers)
        if error:
            kept[ERRORS] = self._errors_with(error)
        old = self.properties
        return BasicProperties(
            content_type=old.content_type,
            content_encoding=old.content_encoding,
            headers={name: value for name, value in kept.items() if value} or None,
            delivery_mode=PERSISTENT,
            priority=old.priority,
            correlation_id=old.correlation_id,
            message_id=self.id,
            timestamp=old.timestamp or math.ceil(self.pushed_at),
            type=old.type,
            app_id=OURS,
        )

    def errors(self) -> tuple[bytes, ...]:
        """Return the job's errors as JSON documents, oldest first."""
        found = self.headers.get(ERRORS)
        listed = found if isinstance(found, list) else []
        return tuple(entry.encode() if isinstance(entry, str) else bytes(entry) for entry in listed)

    def _errors_with(self, error: bytes) -> list[str]:
        """Return the errors including a new one; the oldest are dropped if they exceed ERRORS_SIZE."""
        kept: list[str] = []
        room = ERRORS_SIZE
        for entry in reversed([*self.errors(), error][-KEPT_ERRORS:]):
            room -= len(entry)
            if room < 0:
                break
            kept.insert(0, entry.decode(errors="replace"))
        return kept


def died_at(message: BrokerMessage) -> float | None:
    """Return since when a message is a dead letter; None if neither a worker of this release nor RabbitMQ has made it one."""
    at = message.headers.get(DIED)
    if isinstance(at, int) and 0 < at < 1 << 47:
        return at / 1000
    deaths = message.headers.get("x-death")
    at = deaths[0].get("time") if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else None
    return at.replace(tzinfo=timezone.utc).timestamp() if isinstance(at, datetime) else None


def _count(headers: Mapping[str, Any], name: str) -> int:
    """Return a count from the headers; 0 for any other value, which another program may have written."""
    value = headers.get(name)
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else 0


def wishes(message: BrokerMessage) -> tuple[str, int, float]:
    """Return id, priority and delay of a foreign message, from its properties or its envelope."""
    envelope = peek(unsigned(message.body))
    if envelope is None:
        return message.id, message.priority, 0.0
    job_id = message.properties.message_id or envelope.id or message.id
    return job_id, message.priority or envelope.priority, envelope.delay or 0.0
