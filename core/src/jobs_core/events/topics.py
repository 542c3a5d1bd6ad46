"""Events of the topics, and of the alerts about them."""

from __future__ import annotations

import logging
from typing import ClassVar

from ..units import are, format_duration
from .base import Event


class TopicUnserved(Event, frozen=True):
    """No pool serves a topic in which jobs wait, or to which `senders` enqueue; logged once per start or reload."""

    level: ClassVar[int] = logging.WARNING

    topic: str
    waiting: int
    senders: list[str]

    def __str__(self) -> str:
        waits = [f"{are(self.waiting, 'job')} waiting there"] if self.waiting else []
        more = f" and {len(self.senders) - 3} more" if len(self.senders) > 3 else ""
        goes = (
            [f"{', '.join(self.senders[:3])}{more} enqueue{'s' if len(self.senders) == 1 else ''} to it"]
            if self.senders
            else []
        )
        return (
            f"no pool serves topic {self.topic} ({'; '.join(waits + goes)}): add it to the topics of a pool, "
            f"or set serve = false in [topics.{self.topic}] if workers elsewhere serve it"
        )


class TopicBacklog(Event, frozen=True):
    """A topic has exceeded its limit for `seconds`."""

    level: ClassVar[int] = logging.WARNING

    topic: str
    ready: int
    oldest_age: float | None
    seconds: float

    def __str__(self) -> str:
        age = "" if self.oldest_age is None else f", the oldest for {format_duration(round(self.oldest_age))}"
        behind = format_duration(round(self.seconds))
        return f"topic {self.topic} has been behind for {behind}: {are(self.ready, 'job')} ready{age}"


class TopicCaughtUp(Event, frozen=True):
    """A topic for which an alert was sent is within its limits again."""

    topic: str
    ready: int
    seconds: float

    def __str__(self) -> str:
        return f"topic {self.topic} has caught up after {format_duration(round(self.seconds))}: {are(self.ready, 'job')} ready"


class LimitFull(Event, frozen=True):
    """Jobs have waited for a limit for longer than `alert_age`."""

    level: ClassVar[int] = logging.WARNING

    limit: str
    waiting: int
    seconds: float

    def __str__(self) -> str:
        behind = format_duration(round(self.seconds))
        return f"limit {self.limit} has been full for {behind}: {are(self.waiting, 'job')} waiting for it"


class LimitOpen(Event, frozen=True):
    """A limit for which an alert was sent has room again."""

    limit: str
    seconds: float

    def __str__(self) -> str:
        return f"limit {self.limit} has room again after {format_duration(round(self.seconds))}"


class AlertNotSent(Event, frozen=True):
    """An alert channel fails; logged once until it works again."""

    level: ClassVar[int] = logging.ERROR

    channel: str
    error: str

    def __str__(self) -> str:
        return f"alert channel {self.channel} does not work; until it does, alerts appear only in this log: {self.error}"


class AlertsSentAgain(Event, frozen=True):
    """An alert channel works again."""

    channel: str

    def __str__(self) -> str:
        return f"alert channel {self.channel} works again"
