"""The interface of a connection and its channels, over our adapter or pika's.

pika's own adapters either block inside each call or want to own the thread. Here, a connection of either kind works only
while its `Loop` runs. The courier sleeps only in that loop, so it answers heartbeats. The connection also delivers messages
that were in transit while a consumer was being cancelled: pika would reject them, and the broker would count redeliveries
that no crash has caused.
"""

from __future__ import annotations

import abc
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

from pika import exceptions
from pika.channel import Channel
from pika.connection import Connection
from pika.spec import Basic, BasicProperties

from jobs_core.backend_kit import Address
from jobs_core.errors import BackendError

from ..errors import translated
from ..url import CONNECT_TIMEOUT, Target
from .loop import Loop

logger = logging.getLogger("jobs.rabbitmq")

COMMAND_TIMEOUT = 4.0
"""Seconds after which the connection of an unanswered command counts as dead; shorter than `enqueue_timeout`."""

OnDelivery = Callable[[int, bool, str, BasicProperties, bytes], None]
"""Called with the delivery's tag, whether it was delivered before, its consumer, properties and body."""

OnConfirm = Callable[[int, bool], None]
"""Called with the tag of a message, and whether all earlier messages are meant, too."""


class OpenChannel(Channel):
    """A channel that passes on every delivery, even after a cancel. pika writes and reads all its frames."""

    on_delivery: OnDelivery | None = None

    def publish(self, exchange: str, key: str, properties: BasicProperties, body: bytes) -> None:
        """Publish a message that is returned if there is no queue for it."""
        self.basic_publish(exchange, key, body, properties, mandatory=True)

    def acknowledge(self, tags: Iterable[int], up_to: int = 0) -> None:
        """Acknowledge these deliveries, and all up to a tag."""
        if up_to:
            self.basic_ack(up_to, multiple=True)
        for tag in tags:
            self.basic_ack(tag)

    def consume(self, queue: str, consumer: str, done: Callable[[Any], None]) -> None:
        """Subscribe to a queue; deliveries go to `on_delivery`."""
        self.basic_consume(queue, self._pass_on, consumer_tag=consumer, callback=done)

    def confirm(self, confirmed: OnConfirm, refused: OnConfirm, done: Callable[[Any], None]) -> None:
        """Have the broker confirm or refuse every published message."""

        def answered(answer: Any) -> None:
            method = answer.method
            (refused if isinstance(method, Basic.Nack) else confirmed)(method.delivery_tag, method.multiple)

        self.confirm_delivery(answered, done)

    def _on_deliver(self, method_frame: Any, header_frame: Any, body: bytes) -> None:
        """Pass on a delivery that pika would otherwise reject because its consumer was cancelled."""
        self._pass_on(self, method_frame.method, header_frame.properties, body)

    def _pass_on(self, _: Any, method: Any, properties: BasicProperties, body: bytes) -> None:
        if self.on_delivery is not None:
            self.on_delivery(method.delivery_tag, method.redelivered, method.consumer_tag, properties, body)


class BrokerConnection(Connection, abc.ABC):
    """A connection to one node. It belongs to the thread that runs its loop."""

    def __init__(
        self,
        target: Target,
        address: Address,
        loop: Loop,
        *,
        heartbeat: int,
        name: str,
        patience: float = CONNECT_TIMEOUT,
        **adapter: Any,
    ) -> None:
        self.where = target.shown
        self.failure: BaseException | None = None  # why the connection has closed
        self.closing = False  # we are closing it
        self.blocked = ""  # why the broker accepts no messages at present
        self._patience = patience
        self._loop = loop
        super().__init__(
            target.parameters(address, heartbeat, name),
            on_open_error_callback=self._on_end,
            on_close_callback=self._on_end,
            **adapter,
        )
        self.add_on_connection_blocked_callback(self._on_blocked)
        self.add_on_connection_unblocked_callback(self._on_unblocked)

    # -- for its users -------------------------------------------------------------------------------

    @abc.abstractmethod
    def writable(self) -> None:
        """Write as much as the socket accepts without waiting."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Pass all unsent data to the kernel; wait if it has no room."""

    def opened(self) -> None:
        """Wait until the connection is open; raise BackendUnavailable or BackendError."""
        self.wait_for(lambda: self.is_open, self._patience)

    def wait_for(self, condition: Callable[[], object], timeout: float = COMMAND_TIMEOUT) -> None:
        """Run the loop until a condition holds; raise BackendError if the connection ends or the timeout passes."""
        held = self._loop.answered(lambda: condition() or self.failure is not None, timeout)
        if condition():
            return
        if not held:
            self.abort(TimeoutError())
        raise self.error()

    def until(self, condition: Callable[[], object], timeout: float) -> bool:
        """Run the loop until a condition holds (True), or the timeout or the end of the connection (False)."""
        return bool(self._loop.until(lambda: condition() or self.failure is not None, timeout) and condition())

    def new_channel(self) -> OpenChannel:
        """Open a channel and return it."""
        opened: list[Channel] = []
        channel = self.channel(on_open_callback=opened.append)
        self.wait_for(lambda: opened)
        assert isinstance(channel, OpenChannel)
        return channel

    def error(self) -> BackendError:
        """Return why the connection has closed, as an error of the core."""
        failure = self.failure or exceptions.ConnectionClosed(0, "the connection was closed")
        return translated(failure, self.where)

    def abort(self, reason: BaseException) -> None:
        """Drop the connection without telling the other end."""
        if self.failure is None:
            self._terminate_stream(reason if isinstance(reason, Exception) else None)
            self.failure = reason

    def shut(self) -> None:
        """Close the connection with AMQP's closing handshake, for which it waits only briefly."""
        if self.failure is not None:
            return
        self.closing = True
        with contextlib.suppress(exceptions.AMQPError, BackendError):
            self.close()
            self.wait_for(lambda: self.failure is not None, 1.0)
        self.abort(exceptions.ConnectionClosedByClient(200, "closed"))

    # -- ends ----------------------------------------------------------------------------------------

    def _on_end(self, _: Connection, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error

    def _on_blocked(self, _: Connection, method: Any) -> None:
        self.blocked = str(method.method.reason) or "resources are low"
        logger.warning(
            "%s accepts no messages at present (%s): pushes and retries wait, jobs continue; give it memory or disk",
            self.where, self.blocked,
        )  # fmt: skip

    def _on_unblocked(self, *_: Any) -> None:
        self.blocked = ""
        logger.info("%s accepts messages again", self.where)
