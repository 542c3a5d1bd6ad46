"""Watch the backlogs of topics, and alert people: when one has lasted `after` seconds, again after `repeat`, and at its end."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ... import events
from ...backends.base import Backend
from ...boundary import text_of
from ...errors import ConfigError, PluginError
from ...units import format_duration
from .sender import Sender, hide, secrets

if TYPE_CHECKING:
    from ...alert_channels.base import AlertChannel
    from ...backends.base import Counts
    from ...config import Config
    from ...plugins import Plugins


class Alert(Struct, frozen=True):
    """One message to people."""

    title: str
    text: str
    facts: dict[str, Any]

    @property
    def about(self) -> str:
        """Return the topic or limit; a channel that is slow keeps only the newest alert about each."""
        return str(self.facts["topic"]) if "topic" in self.facts else f"limit {self.facts['limit']}"


class _TopicState:
    """The state of one topic."""

    __slots__ = ("since", "told", "told_at")

    def __init__(self) -> None:
        self.since: float | None = None  # since when it has been over its limit
        self.told = False  # an alert has been sent
        self.told_at: float | None = None  # when the last alert was sent, for this backlog or an earlier one


class TopicAlerts:
    """The alerts of an installation. The housekeeper's loop calls it and never blocks: channels have their own threads.

    `notify` calls a hook, `plugins.notify` by default; `also` gets each alert, besides the channels.
    Raises ConfigError or PluginError for unusable channels.
    """

    def __init__(
        self,
        config: Config,
        plugins: Plugins,
        notify: Callable[..., None] | None = None,
        also: Callable[[Alert], None] | None = None,
    ) -> None:
        self._config = config
        self._notify = notify or plugins.notify
        self._also = also
        self._watches = {topic: _TopicState() for topic in watched(config)}
        self._too_fast: dict[str, float] = {}  # job → when its last alert was sent
        self._senders = [
            Sender(name, channel, config.alerts.channels[name]) for name, channel in channels(config, plugins).items()
        ]

    @property
    def topics(self) -> tuple[str, ...]:
        """Return the topics whose counts are needed."""
        return tuple(self._watches)

    def check(self, now: float, counts: Mapping[str, Counts]) -> None:
        """Judge each topic by its counts; `now` is `time.monotonic()`.

        A topic without counts, as in an outage of the broker, keeps its state.
        """
        for topic, watch in self._watches.items():
            if topic in counts:
                self._check_topic(now, topic, watch, counts[topic])
        for sender in self._senders:
            sender.check()

    def active(self) -> list[str]:
        """Return the topics for which an alert was sent and that have not caught up yet."""
        return [topic for topic, watch in self._watches.items() if watch.told]

    def close(self, patience: float = 0.0) -> None:
        """Wait for alerts that are being sent, for `patience` seconds at most."""
        end = time.monotonic() + patience
        for sender in self._senders:
            sender.wait(max(0.0, end - time.monotonic()))

    def _check_topic(self, now: float, topic: str, watch: _TopicState, counts: Counts) -> None:
        if not _over(self._config, topic, counts):
            if watch.told:
                self._report_caught_up(now, topic, watch, counts)
            watch.since, watch.told = None, False
            return
        if watch.since is None:
            watch.since = now
        lasted = now - watch.since
        if lasted < self._config.alerts.after:
            return
        if watch.told_at is not None and now - watch.told_at < self._config.alerts.repeat:
            return
        watch.told, watch.told_at = True, now
        events.emit(events.TopicBacklog(topic, counts.ready, counts.oldest_age, lasted))
        self._notify("jobs_topic_backlog", topic=topic, counts=counts)
        self.send(message(self._config, "backlog", topic, counts, lasted))

    def _report_caught_up(self, now: float, topic: str, watch: _TopicState, counts: Counts) -> None:
        assert watch.since is not None
        lasted = now - watch.since
        events.emit(events.TopicCaughtUp(topic, counts.ready, lasted))
        self.send(message(self._config, "over", topic, counts, lasted))

    def unserved(self, topic: str, counts: Counts) -> None:
        """Send an alert for jobs that no pool serves, with or without a limit; called once, when that is first seen."""
        self.send(message(self._config, "unserved", topic, counts, 0.0))

    def too_fast(self, now: float, job: str, topic: str, seconds: float, min_time: float, more: int) -> None:
        """Send an alert for a job that succeeds sooner than it can have done its work; not more often than `repeat`."""
        last = self._too_fast.get(job)
        if last is None or now - last >= self._config.alerts.repeat:
            self._too_fast[job] = now
            self.send(_too_fast(self._config, job, topic, seconds, min_time, more))

    def send(self, alert: Alert) -> None:
        """Hand an alert to every channel; never blocks."""
        if self._also is not None:
            self._also(alert)
        for sender in self._senders:
            sender.send(alert.about, alert.title, alert.text, alert.facts)


def ineffective_limits(config: Config, backend: Backend) -> list[str]:
    """Return a warning, with an alternative, for each limit that would never alert because the backend lacks its figure."""
    if "ages" in backend.features:
        return []
    return [
        f"topics.{name}.alert_age would never alert: {backend.name}:// does not report how long jobs wait; set "
        f"topics.{name}.alert_above to a number of jobs"
        for name, topic in config.topics.items()
        if topic.alert_age is not None
    ]


def watched(config: Config) -> list[str]:
    """Return the topics that have a limit."""
    return [name for name, topic in config.topics.items() if topic.alert_above is not None or topic.alert_age is not None]


def channels(config: Config, plugins: Plugins) -> dict[str, AlertChannel]:
    """Create the configured channels, by name. Raises ConfigError or PluginError, which name the key and the fix.

    The kind of a channel is its key `kind`, else the name of its table. With `kind`, there can be several of a kind.
    """
    made: dict[str, AlertChannel] = {}
    for name, settings in config.alerts.channels.items():
        where = f"alerts.channels.{name}"
        given = dict(settings)
        kind = str(given.pop("kind", name))
        factory = plugins.choose("jobs_alert_channels", kind, where, hide=functools.partial(hide, secrets=secrets(given)))
        try:
            made[name] = factory(given)
        except PluginError:
            raise
        except Exception as error:
            raise ConfigError(f"{where}: {text_of(error)}") from None
    return made


_TITLES = {
    "backlog": "topic {topic} is behind",
    "unserved": "no pool serves topic {topic}",
    "over": "topic {topic} has caught up",
    "test": "this is a test of alerts",
}


def message(config: Config, kind: str, topic: str, counts: Counts, lasted: float) -> Alert:
    """Compose an alert for a topic; `kind` is backlog, unserved, over or test."""
    host, now = os.uname().nodename, datetime.now(timezone.utc).replace(microsecond=0)
    return Alert(
        f"jobs: {_TITLES[kind].format(topic=topic)}",
        "\n".join(_lines(config, kind, topic, counts, lasted, f"{config.prefix} on {host}, {now:%Y-%m-%d %H:%M:%S} UTC")),
        _facts(config, kind, topic, counts, lasted, host, now),
    )


def _too_fast(config: Config, job: str, topic: str, seconds: float, min_time: float, more: int) -> Alert:
    host, now = os.uname().nodename, datetime.now(timezone.utc).replace(microsecond=0)
    lines = [
        f"a run in topic {topic} finished in {seconds:.3g} s, its min_time is {format_duration(min_time)}",
        *([f"{more:,} other runs were too fast within the last minute"] if more else []),
        "it may have returned without doing its work",
        f"{config.prefix} on {host}, {now:%Y-%m-%d %H:%M:%S} UTC",
    ]
    facts = {
        "kind": "too_fast",
        "host": host,
        "time": now.isoformat(),
        "pid": os.getpid(),
        "prefix": config.prefix,
        "topic": topic,
        "job": job,
        "seconds": seconds,
        "min_time": min_time,
        "more": more,
    }
    return Alert(f"jobs: {job} finishes suspiciously fast", "\n".join(lines), facts)


def _facts(config: Config, kind: str, topic: str, counts: Counts, lasted: float, host: str, now: datetime) -> dict[str, Any]:
    limits = config.topic(topic)
    return {
        "kind": kind,
        "host": host,
        "time": now.isoformat(),
        "pid": os.getpid(),
        "prefix": config.prefix,
        "topic": topic,
        "ready": counts.ready,
        "scheduled": counts.scheduled,
        "reserved": counts.reserved,
        "dead": counts.dead,
        "oldest_age": _age(counts),
        "alert_above": limits.alert_above,
        "alert_age": None if limits.alert_age is None else float(limits.alert_age),
        "seconds": round(lasted, 1),
    }


def _lines(config: Config, kind: str, topic: str, counts: Counts, lasted: float, origin: str) -> list[str]:
    if kind == "test":
        return [origin]
    limits = config.topic(topic)
    age = _age(counts)
    above = "" if limits.alert_above is None else f" (limit {limits.alert_above:,})"
    older = "" if limits.alert_age is None else f" (limit {limits.alert_age})"
    waited = "nothing is waiting" if age is None else f"the oldest has waited for {format_duration(round(age))}"
    lines = [
        f"{counts.ready:,} ready{above}, {waited}{older}",
        f"{counts.reserved:,} running, {counts.scheduled:,} scheduled, {counts.dead:,} dead",
        f"{'lasted' if kind == 'over' else 'for'} {format_duration(round(lasted))}",
        origin,
    ]
    if kind == "unserved":
        lines[2] = f"add it to a pool's topics, or set serve = false in [topics.{topic}] if workers elsewhere serve it"
    elif kind == "backlog" and config.is_unserved(topic):
        lines.insert(2, "no pool serves it")
    return lines


def _age(counts: Counts) -> float | None:
    return None if counts.oldest_age is None else round(counts.oldest_age, 1)


def _over(config: Config, topic: str, counts: Counts) -> bool:
    limits = config.topic(topic)
    if limits.alert_above is not None and counts.ready > limits.alert_above:
        return True
    return limits.alert_age is not None and counts.oldest_age is not None and counts.oldest_age > limits.alert_age
