"""Methods for operators: counts, and dead letters, which are read by fetching them without acknowledging."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pika import spec

from jobs_core.backends.base import Backend, BackendOptions, Counts, Housekept, JobRecord, State

from . import advice
from .errors import NOT_FOUND, reply_code, translated
from .messages import REASON, BrokerMessage, died_at
from .publisher import Post
from .republish import Republisher
from .topology import Names, Topology
from .transport import BrokerConnection, OpenChannel
from .unacked import delivery
from .url import Target

MOST_LOOKED_AT = 100_000
"""The most dead letters that are read of one topic, the oldest first."""


class RabbitMQOperatorCalls(Backend):
    """The backend's methods for operators."""

    _target: Target
    _options: BackendOptions
    _names: Names
    _topology: Topology
    _republisher: Republisher

    @abc.abstractmethod
    def _primary(self) -> BrokerConnection:
        """Return the connection for everything but publishing."""

    @abc.abstractmethod
    def _publish(self, posts: Sequence[Post], confirmed: set[str] | None = None) -> None:
        """Publish messages; wait until the broker has confirmed them."""

    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        """Return the lengths of queues. The broker does not report scheduled and reserved jobs by topic."""
        self._primary()
        return {
            topic: Counts(
                ready=sum(self._topology.length(queue) for queue in self._names.queues(topic)),
                dead=self._topology.length(self._names.dead(topic)),
            )
            for topic in topics
        }

    def housekeep(self, limit: int) -> Housekept:
        """Drop the oldest dead letters beyond the number to keep; the broker drops expired ones."""
        dropped = 0
        for topic in self._topics():
            surplus = self._topology.length(self._names.dead(topic)) - self._options.retention(topic).dead_max
            if surplus > 0:
                with self._dead(topic) as (messages, acknowledge):
                    for message in messages(min(surplus, limit)):
                        acknowledge(message)
                        dropped += 1
        return Housekept(dropped=dropped)

    def browse(self, topic: str, state: State, limit: int, offset: int = 0) -> list[JobRecord]:
        if state is not State.DEAD:
            raise self._lacks("browse")
        with self._dead(topic) as (messages, _):
            records = [_record(message) for message in messages(MOST_LOOKED_AT)]
        return records[::-1][offset : offset + limit]

    def topics(self) -> list[str]:
        """Return the known topics that have queues; topics unknown here are missing, because a client cannot list queues."""
        self._primary()
        return sorted(topic for topic in self._topics() if self._topology.exists(self._names.queue(topic, 0)))

    def _topics(self) -> set[str]:
        """Return the configured topics, and those that this connection has used."""
        return {*self._options.topics, *self._topology.known()}

    def requeue(self, job_ids: Sequence[str]) -> int:
        return self._pick(job_ids, lambda message: self._publish([self._republisher.requeued(message)]))

    def drop(self, job_ids: Sequence[str]) -> int:
        return self._pick(job_ids, lambda message: None)

    def purge(self, topic: str, state: State) -> int:
        if state is State.READY:
            return sum(self._topology.purge(queue) for queue in self._names.queues(topic))
        if state is State.DEAD:
            return self._topology.purge(self._names.dead(topic))
        raise self._lacks("browse")

    def setup(self) -> None:
        self._primary()
        self._topology.make(self._options.topics)

    def advice(self) -> list[str]:
        return advice.advice(self._target, self._options, self._primary())

    # -- dead letters --------------------------------------------------------------------------------

    def _pick(self, job_ids: Sequence[str], act: Callable[[BrokerMessage], None]) -> int:
        """Call `act` for each of these dead letters, and remove it; return how many were found."""
        wanted, found = set(job_ids), 0
        for topic in self._topics():
            if not wanted:
                break
            with self._dead(topic) as (messages, acknowledge):
                for message in messages(MOST_LOOKED_AT):
                    if message.id in wanted:
                        wanted.discard(message.id)
                        act(message)
                        acknowledge(message)
                        found += 1
        return found

    @contextlib.contextmanager
    def _dead(self, topic: str) -> Iterator[tuple[Callable[[int], Iterator[BrokerMessage]], Callable[[BrokerMessage], None]]]:
        """Fetch dead letters on a separate channel; when it is closed, the unacknowledged ones return to their queue."""
        connection = self._primary()
        channel = connection.new_channel()
        ends: list[BaseException] = []
        channel.add_on_close_callback(lambda _, reason: ends.append(reason))

        def acknowledge(message: BrokerMessage) -> None:
            channel.basic_ack(message.tag)

        try:
            yield lambda most: _fetched(connection, channel, self._names.dead(topic), topic, most, ends), acknowledge
        finally:
            if channel.is_open:
                channel.close()
                connection.wait_for(lambda: ends)


def _fetched(
    connection: BrokerConnection, channel: OpenChannel, queue: str, topic: str, most: int, ends: list[BaseException]
) -> Iterator[BrokerMessage]:
    """Yield up to `most` messages of a queue, the oldest first."""
    found: list[BrokerMessage] = []
    empty: list[Any] = []
    channel.add_callback(empty.append, [spec.Basic.GetEmpty], one_shot=False)

    def got(_: Any, method: Any, properties: Any, body: bytes) -> None:
        found.append(BrokerMessage(method.delivery_tag, 0, topic, 0, False, properties, body))

    for _ in range(most):
        channel.basic_get(queue, got)
        connection.wait_for(lambda: found or empty or ends)
        if ends:
            if reply_code(ends[0]) == NOT_FOUND:
                return
            raise translated(ends[0], connection.where)
        if not found:
            return
        yield found.pop()


def _record(message: BrokerMessage) -> JobRecord:
    seen = delivery(message)
    return JobRecord(
        message.id,
        message.topic,
        State.DEAD,
        message.body,
        message.priority,
        message.attempt,
        seen.redeliveries,
        seen.crashes,
        message.deferrals,
        message.pushed_at,
        since=died_at(message),
        reason=_reason(message),
        errors=message.errors(),
        broker_now=seen.broker_now,
    )


def _reason(message: BrokerMessage) -> str:
    """Return our reason for the dead letter, or the broker's if the broker dead-lettered it."""
    reason = message.headers.get(REASON)
    if reason:
        return str(reason)
    deaths = message.headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        return f"dead-lettered by RabbitMQ: {deaths[0].get('reason', '')}"
    return ""
