"""Operator calls: counts, and the dead letters, which are read by taking them off the queue and returning them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pika import spec

from jobs_core.backends.base import Backend, BackendOptions, Counts, Housekept, JobRecord, State

from . import advice
from .copies import Copies
from .errors import NOT_FOUND, reply_code, translated
from .holding import delivery
from .letters import REASON, Letter
from .publisher import Post
from .topology import Names, Topology
from .url import Target
from .wire import OpenChannel, Wire

MOST_LOOKED_AT = 100_000
"""Dead letters of a topic that are read, the oldest first."""


class RabbitMQOperations(Backend):
    """The operators' half of the backend."""

    _target: Target
    _options: BackendOptions
    _names: Names
    _topology: Topology
    _copies: Copies

    def _primary(self) -> Wire:
        raise NotImplementedError  # pragma: no cover - the other half has it

    def _publish(self, posts: Sequence[Post], confirmed: set[str] | None = None) -> None:
        raise NotImplementedError  # pragma: no cover - the other half has it

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
        """Drop the oldest dead letters beyond the number to keep; expired ones go by themselves."""
        dropped = 0
        for topic in self._topics():
            surplus = self._topology.length(self._names.dead(topic)) - self._options.retention(topic).dead_max
            if surplus > 0:
                with self._dead(topic) as (letters, acknowledge):
                    for letter in letters(min(surplus, limit)):
                        acknowledge(letter)
                        dropped += 1
        return Housekept(dropped=dropped)

    def browse(self, topic: str, state: State, limit: int, offset: int = 0) -> list[JobRecord]:
        if state is not State.DEAD:
            raise self._lacks("browse")
        with self._dead(topic) as (letters, _):
            records = [_record(letter) for letter in letters(MOST_LOOKED_AT)]
        return records[::-1][offset : offset + limit]

    def topics(self) -> list[str]:
        """Return the known topics that have queues: a client cannot list queues."""
        self._primary()
        return sorted(topic for topic in self._topics() if self._topology.exists(self._names.queue(topic, 0)))

    def _topics(self) -> set[str]:
        """Return the configured topics, and those that were used here."""
        return {*self._options.topics, *self._topology.known()}

    def requeue(self, job_ids: Sequence[str]) -> int:
        return self._pick(job_ids, lambda letter: self._publish([self._copies.requeued(letter)]))

    def drop(self, job_ids: Sequence[str]) -> int:
        return self._pick(job_ids, lambda letter: None)

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

    def _pick(self, job_ids: Sequence[str], act: Callable[[Letter], None]) -> int:
        """Act on these dead letters of the known topics, and remove them."""
        wanted, found = set(job_ids), 0
        for topic in self._topics():
            if not wanted:
                break
            with self._dead(topic) as (letters, acknowledge):
                for letter in letters(MOST_LOOKED_AT):
                    if letter.id in wanted:
                        wanted.discard(letter.id)
                        act(letter)
                        acknowledge(letter)
                        found += 1
        return found

    @contextlib.contextmanager
    def _dead(self, topic: str) -> Iterator[tuple[Callable[[int], Iterator[Letter]], Callable[[Letter], None]]]:
        """Take dead letters on a channel of its own; when it is closed, those not acknowledged return to their queue."""
        wire = self._primary()
        channel = wire.new_channel()
        ends: list[BaseException] = []
        channel.add_on_close_callback(lambda _, reason: ends.append(reason))

        def acknowledge(letter: Letter) -> None:
            channel.basic_ack(letter.tag)

        try:
            yield lambda most: _fetched(wire, channel, self._names.dead(topic), topic, most, ends), acknowledge
        finally:
            if channel.is_open:
                channel.close()
                wire.wait_for(lambda: ends)


def _fetched(
    wire: Wire, channel: OpenChannel, queue: str, topic: str, most: int, ends: list[BaseException]
) -> Iterator[Letter]:
    """Yield one after the other, the oldest first."""
    found: list[Letter] = []
    empty: list[Any] = []
    channel.add_callback(empty.append, [spec.Basic.GetEmpty], one_shot=False)

    def got(_: Any, method: Any, properties: Any, body: bytes) -> None:
        found.append(Letter(method.delivery_tag, 0, topic, 0, False, properties, body))

    for _ in range(most):
        channel.basic_get(queue, got)
        wire.wait_for(lambda: found or empty or ends)
        if ends:
            if reply_code(ends[0]) == NOT_FOUND:
                return
            raise translated(ends[0], wire.where)
        if not found:
            return
        yield found.pop()


def _record(letter: Letter) -> JobRecord:
    seen = delivery(letter)
    return JobRecord(
        letter.id,
        letter.topic,
        State.DEAD,
        letter.body,
        letter.priority,
        letter.attempt,
        seen.redeliveries,
        seen.crashes,
        letter.deferrals,
        letter.pushed_at,
        reason=_reason(letter),
        errors=letter.errors(),
        broker_now=seen.broker_now,
    )


def _reason(letter: Letter) -> str:
    """Return our reason, or the broker's own for dead-lettering it."""
    reason = letter.headers.get(REASON)
    if reason:
        return str(reason)
    deaths = letter.headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        return f"dead-lettered by RabbitMQ: {deaths[0].get('reason', '')}"
    return ""
