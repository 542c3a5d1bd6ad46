"""Publish messages. Many may await their confirms at once; none counts as published before the broker has confirmed it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pika.exceptions import AMQPError, ChannelClosedByClient
from pika.spec import BasicProperties

from jobs_core.backend_kit import count
from jobs_core.errors import BackendUnavailable, QueueFull

from .errors import translated
from .transport import COMMAND_TIMEOUT, BrokerConnection, Loop, OpenChannel

WINDOW = 1000
"""The most messages that may wait for their confirms."""

WINDOW_SIZE = 8_000_000
"""The most bytes that these messages may have in total."""


class Post(NamedTuple):
    """A message to publish."""

    exchange: str
    key: str
    properties: BasicProperties
    body: bytes


class Publisher:
    """A connection only for publishing: when memory or disk runs low, the broker stops reading from publishing connections."""

    def __init__(self, loop: Loop, connect: Callable[[], BrokerConnection]) -> None:
        self._loop = loop
        self._connect = connect
        self.connection: BrokerConnection | None = None
        self._channel: OpenChannel | None = None
        self._next_tag = 1
        self._waiting: dict[int, tuple[str, int]] = {}  # delivery tag → id, size
        self._size = 0
        self._confirmed: set[str] = set()
        self.nacked: set[str] = set()  # ids of the messages that the broker refused during the last publish
        self._returned: set[str] = set()

    @property
    def failure(self) -> BaseException | None:
        """Return why the connection has closed; None while it is open."""
        return self.connection.failure if self.connection is not None else None

    def open(self) -> BrokerConnection:
        """Connect unless connected; raise BackendUnavailable or BackendError."""
        if self.connection is None or self.connection.failure is not None:
            self.close()
            self.connection = self._connect()
        return self.connection

    def close(self) -> None:
        connection, self.connection, self._channel = self.connection, None, None
        self._waiting.clear()
        if connection is not None:
            connection.shut()

    def drop(self) -> None:
        """Close a connection that cannot be trusted any more."""
        connection, self.connection, self._channel = self.connection, None, None
        self._waiting.clear()
        if connection is not None:
            connection.abort(TimeoutError())

    def prepare(self) -> None:
        """Open the channel on which `publish` sends; raise BackendUnavailable or BackendError."""
        self._confirming(self.open())

    def publish(self, posts: Sequence[Post], confirmed: set[str]) -> set[str]:
        """Publish all messages and wait for their confirms; add each confirmed id to `confirmed`.

        Return the ids of messages for which there was no queue.

        Raises QueueFull if the broker refuses messages, BackendUnavailable if it is silent or blocks publishers. After an
        error, messages whose ids are in `confirmed` need not be published again.
        """
        connection = self.open()
        self._until_unblocked(connection)
        channel = self._confirming(connection)
        self.nacked, self._returned = set(), set()
        try:
            for post in self._loop.attending(posts):
                channel.publish(post.exchange, post.key, post.properties, post.body)
                size = len(post.body)
                self._waiting[self._next_tag] = post.properties.message_id, size
                self._next_tag += 1
                self._size += size
                if len(self._waiting) >= WINDOW or self._size >= WINDOW_SIZE:
                    self._until_confirmed(connection, confirmed, WINDOW // 2, WINDOW_SIZE // 2)
        except AMQPError as error:
            raise translated(connection.failure or error, connection.where) from None
        self._until_confirmed(connection, confirmed, 0, 0)
        confirmed -= self._returned
        if self.nacked:
            raise QueueFull(
                f"{connection.where}: RabbitMQ refused {count(len(self.nacked), 'message')}: a queue has reached its "
                "max-length; look at the queues in the management page"
            )
        return self._returned

    def _until_unblocked(self, connection: BrokerConnection) -> None:
        if connection.blocked and not self._loop.until(lambda: not connection.blocked or connection.failure, COMMAND_TIMEOUT):
            raise self._blocked(connection)

    def _until_confirmed(self, connection: BrokerConnection, confirmed: set[str], most: int, size: int) -> None:
        """Wait until at most `most` messages of at most `size` bytes wait for their confirms."""
        self._confirmed = confirmed
        connection.writable()
        while len(self._waiting) > most or self._size > size:
            if not self._loop.answered(self._fewer_than(len(self._waiting), connection), COMMAND_TIMEOUT):
                error = (
                    self._blocked(connection)
                    if connection.blocked
                    else BackendUnavailable(f"{connection.where} does not confirm in time")
                )
                self.drop()
                raise error
            if connection.failure is not None:
                raise connection.error()

    def _fewer_than(self, number: int, connection: BrokerConnection) -> Callable[[], bool]:
        return lambda: len(self._waiting) < number or connection.failure is not None

    def _blocked(self, connection: BrokerConnection) -> BackendUnavailable:
        return BackendUnavailable(
            f"{connection.where} accepts no messages at present ({connection.blocked}): queued jobs continue; "
            "give it memory or disk"
        )

    def _confirming(self, connection: BrokerConnection) -> OpenChannel:
        if self._channel is None or not self._channel.is_open:
            channel = connection.new_channel()
            selected: list[Any] = []
            channel.confirm(self._on_confirm, self._on_refused, selected.append)
            channel.add_on_return_callback(self._on_return)
            channel.add_on_close_callback(lambda _, reason: self._on_closed(connection, reason))
            connection.wait_for(lambda: selected)
            self._channel, self._next_tag, self._size = channel, 1, 0
            self._waiting.clear()
        return self._channel

    def change_channel(self) -> None:
        """Publish on a new channel from now on: after a queue was without a leader, the old channel may no longer reach
        it."""
        channel, self._channel = self._channel, None
        if channel is not None and channel.is_open:
            channel.close()

    def _on_closed(self, connection: BrokerConnection, reason: BaseException) -> None:
        if not connection.closing and not isinstance(reason, ChannelClosedByClient):
            connection.abort(reason)

    def _on_confirm(self, tag: int, multiple: bool) -> None:
        self._no_longer_waiting(tag, multiple, self._confirmed)

    def _on_refused(self, tag: int, multiple: bool) -> None:
        self._no_longer_waiting(tag, multiple, self.nacked)

    def _no_longer_waiting(self, tag: int, multiple: bool, now: set[str]) -> None:
        if multiple:
            tags = list(itertools.takewhile(lambda waiting: waiting <= tag, self._waiting))
        else:
            tags = [tag] if tag in self._waiting else []
        for each in tags:
            job_id, size = self._waiting.pop(each)
            self._size -= size
            now.add(job_id)

    def _on_return(self, _channel: Any, _method: Any, properties: BasicProperties, _body: bytes) -> None:
        self._returned.add(properties.message_id)
