"""One connection: pika's, with an adapter of ours that a single thread drives when it has the time.

pika's own adapters either block inside each call or want to own the thread. This one reads and writes only in `Loop`, so
that the courier, which sleeps nowhere else, answers heartbeats. It also delivers messages that were in transit while a
consumer was being cancelled: pika would reject them, and the broker would count redeliveries that no crash has caused.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

from pika import exceptions
from pika.channel import Channel
from pika.connection import Connection
from pika.frame import Heartbeat
from pika.spec import BasicProperties

from jobs_core.backend_kit import Address, Timer, left
from jobs_core.errors import BackendError, BackendUnavailable

from ..errors import translated
from ..url import CONNECT_TIMEOUT, Target
from . import calls
from .connecting import dial
from .frames import Reader, ack, content, publish_method
from .loop import Loop

logger = logging.getLogger("jobs.rabbitmq")

COMMAND_TIMEOUT = 4.0
"""Longest time that a command may take before its connection counts as dead, in seconds; shorter than `enqueue_timeout`."""

CHUNK = 1 << 16
"""Bytes that are written without waiting for more."""

SIP = 1 << 14
"""Bytes that are read at once. They are processed in a millisecond or less, and then a pulse follows."""

PULSE = 1 / 16
"""Share of the heartbeat after which a turn of the loop begins with a heartbeat, because the turn may end late.

The broker gives a connection up after twice the heartbeat.
"""

_END_AND_HEAD = 8
"""Bytes of a frame beside its payload."""


class OpenChannel(Channel):
    """A channel that passes on every delivery, also those after a cancel, and needs none of pika's objects."""

    on_delivery: Callable[[int, bool, str, BasicProperties, bytes], None] | None = None
    """Called with the delivery's tag, whether it was delivered before, and its consumer."""

    on_confirm: Callable[[int, bool], None] | None = None
    """Called with the tag of a confirmed message, and whether all earlier ones are confirmed, too."""

    _route: tuple[str, str] | None = None
    _method = b""

    def publish(self, exchange: str, key: str, properties: BasicProperties, body: bytes) -> None:
        """Publish a message that comes back if no queue takes it."""
        if not self.is_open:
            raise exceptions.ChannelWrongStateError("the channel is closed")
        if self._route != (exchange, key):  # it seldom differs from the last one
            self._route, self._method = (exchange, key), publish_method(self.channel_number, exchange, key)
        largest = self.connection.params.frame_max - _END_AND_HEAD
        self.connection.send(self._method, content(self.channel_number, properties, body, largest))

    def acknowledge(self, tags: Iterable[int], up_to: int = 0) -> None:
        """Settle deliveries: all up to a tag, and these."""
        if not self.is_open:
            raise exceptions.ChannelWrongStateError("the channel is closed")
        if up_to:
            self.connection.send(ack(self.channel_number, up_to, multiple=True))
        for tag in tags:
            self.connection.send(ack(self.channel_number, tag))


class Wire(Connection):
    """A connection to one node. It belongs to the thread that turns its loop."""

    def __init__(
        self, target: Target, address: Address, loop: Loop, *, heartbeat: int, name: str, patience: float = CONNECT_TIMEOUT
    ) -> None:
        self.where = target.shown
        self.failure: BaseException | None = None  # why it is closed
        self.closing = False  # closed on our request
        self.blocked = ""  # the broker's reason to accept no messages at present
        self._address = address
        self._patience = patience
        self._loop = loop
        self._socket: socket.socket | None = None
        self._unsent = bytearray()
        self._sent_at = 0.0
        self._pause = 0.0  # between heartbeats, in seconds; 0 while it is not open, and if none are wanted
        self._reader = Reader(self, self._for_pika)
        self._channels_by_number: dict[int, OpenChannel] = {}
        super().__init__(
            target.parameters(address, heartbeat, name),
            on_open_error_callback=self._on_end,
            on_close_callback=self._on_end,
        )
        self.add_on_connection_blocked_callback(self._on_blocked)
        self.add_on_connection_unblocked_callback(self._on_unblocked)

    # -- for its users -------------------------------------------------------------------------------

    def opened(self) -> None:
        """Wait until it is open; raise BackendUnavailable or BackendError."""
        self.wait_for(lambda: self.is_open, self._patience)
        self._pause = self.params.heartbeat * PULSE

    def wait_for(self, condition: Callable[[], object], timeout: float = COMMAND_TIMEOUT) -> None:
        """Turn the loop until a condition holds; raise if the connection ends, or is silent for too long."""
        held = self._loop.answered(lambda: condition() or self.failure is not None, timeout)
        if condition():
            return
        if not held:
            self.abort(TimeoutError())
        raise self.error()

    def until(self, condition: Callable[[], object], timeout: float) -> bool:
        """Turn the loop until a condition holds (True), or for so many seconds (False), which is not an error."""
        return bool(self._loop.until(lambda: condition() or self.failure is not None, timeout) and condition())

    def new_channel(self) -> OpenChannel:
        """Return an open channel."""
        opened: list[Channel] = []
        channel = self.channel(on_open_callback=opened.append)
        self.wait_for(lambda: opened)
        assert isinstance(channel, OpenChannel)
        return channel

    def send(self, *frames: bytes) -> None:
        """Send frames of ours: at once if there are many, else with the next turn of the loop or flush."""
        for frame in frames:
            self._unsent += frame
            self.bytes_sent += len(frame)  # pika looks at this to know when a heartbeat is due
        if len(self._unsent) > CHUNK:
            self.writable()

    def flush(self) -> None:
        """Pass everything to the system, and wait for room if there is none."""
        self.writable()
        if self._unsent:
            self.wait_for(lambda: not self._unsent)

    def error(self) -> BackendError:
        """Return why it is closed, as the core's error."""
        failure = self.failure or exceptions.ConnectionClosed(0, "the connection was closed")
        return translated(failure, self.where)

    def abort(self, reason: BaseException) -> None:
        """Drop it without telling the other end."""
        if self.failure is None:
            self._terminate_stream(reason if isinstance(reason, Exception) else None)
            self.failure = reason

    def shut(self) -> None:
        """Close it with the protocol's handshake, within a moment."""
        if self.failure is not None:
            return
        self.closing = True
        with contextlib.suppress(exceptions.AMQPError, BackendError):
            self.close()
            self.wait_for(lambda: self.failure is not None, 1.0)
        self.abort(exceptions.ConnectionClosedByClient(200, "closed"))

    # -- pika's interface of an adapter ----------------------------------------------------------------

    def _adapter_connect_stream(self) -> None:
        options = self.params.ssl_options
        try:
            self._socket = dial(self._address, self._loop, self._patience, options.context if options is not None else None)
        except OSError as error:
            self.failure = error
            return
        self._loop.add(self)
        self._on_stream_connected()

    def _adapter_disconnect_stream(self) -> None:
        self._lose(None)

    def _adapter_emit_data(self, data: bytes) -> None:
        self._unsent += data

    def _adapter_call_later(self, delay: float, callback: Callable[[], Any]) -> Timer:
        return self._loop.call_later(delay, callback)

    def _adapter_remove_timeout(self, timeout_id: object) -> None:
        assert isinstance(timeout_id, Timer)
        timeout_id.cancel()

    def _adapter_add_callback_threadsafe(self, callback: Callable[..., Any]) -> None:
        self._loop.call_later(0.0, callback)

    def _create_channel(self, channel_number: int, on_open_callback: Any) -> OpenChannel:
        channel = self._channels_by_number[channel_number] = OpenChannel(self, channel_number, on_open_callback)
        return channel

    # -- the loop's interface of a stream --------------------------------------------------------------

    def fileno(self) -> int:
        assert self._socket is not None
        return self._socket.fileno()

    def wants_to_write(self) -> bool:
        return bool(self._unsent)

    def writable(self) -> None:
        """Write as much as there is room for."""
        while self._unsent and self._socket is not None:
            try:
                sent = self._send(self._unsent[: 4 * CHUNK])
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            except OSError as error:
                self._lose(error)
                return
            self._sent_at = time.monotonic()
            del self._unsent[:sent]

    def readable(self) -> None:
        """Read the received data, and pass it to pika."""
        while self._socket is not None:
            try:
                data = self._receive()
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                self._lose(error)
                return
            if not data:
                self._lose(exceptions.StreamLostError("the other end has closed the connection"))
                return
            read = self._reader.feed(data)  # pika counts the bytes that it gets itself, so this comes first
            self.bytes_received += read  # pika uses this to know whether the broker is alive
            self._loop.pulse()
            if len(data) < SIP and not (self._tls() and self._tls().pending()):  # type: ignore[union-attr]
                return

    def pulse(self) -> None:
        if not self._unsent and self._pause and self.is_open and time.monotonic() - self._sent_at > self._pause:
            self._send_frame(Heartbeat())
        self.writable()

    def _send(self, data: bytearray) -> int:
        """Send through TLS, which cannot avoid releasing the interpreter."""
        secured = self._tls()
        return secured.send(data) if secured is not None else calls.send(self.fileno(), bytes(data))

    def _receive(self) -> bytes:
        secured = self._tls()
        return secured.recv(SIP) if secured is not None else calls.receive(self.fileno(), SIP)

    # -- the reader's calls ----------------------------------------------------------------------------

    def delivered(self, channel: int, tag: int, again: bool, consumer: str, properties: BasicProperties, body: bytes) -> None:
        receive = self._channels_by_number[channel].on_delivery
        if receive is not None:
            receive(tag, again, consumer, properties, body)

    def confirmed(self, channel: int, tag: int, multiple: bool) -> bool:
        confirm = self._channels_by_number[channel].on_confirm
        if confirm is None:
            return False
        confirm(tag, multiple)
        return True

    def _for_pika(self, frame: bytes) -> bool:
        self._on_data_available(frame)
        return self._socket is not None

    def _tls(self) -> ssl.SSLSocket | None:
        return self._socket if isinstance(self._socket, ssl.SSLSocket) else None

    # -- ends ----------------------------------------------------------------------------------------

    def _lose(self, error: Exception | None) -> None:
        stream, self._socket = self._socket, None
        if stream is None:
            return
        self._loop.remove(stream.fileno())
        self._unsent.clear()
        stream.close()
        self._on_stream_terminated(error)

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


def connect(target: Target, loop: Loop, *, heartbeat: int, name: str) -> Wire:
    """Return a connection to the first node that accepts one; raise the error of the last one."""
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # we raise the errors that it logs, with the fix
    last: BackendError = BackendUnavailable(f"{target.shown}: no node is named")
    for n, address in enumerate(target.addresses):
        patience = min(CONNECT_TIMEOUT, left(math.inf) / (len(target.addresses) - n))  # one that hangs leaves time for others
        wire = Wire(target, address, loop, heartbeat=heartbeat, name=name, patience=patience)
        try:
            wire.opened()
            return wire
        except BackendUnavailable as error:
            last = error
        finally:
            if not wire.is_open:
                wire.abort(exceptions.AMQPConnectionError("given up"))
    raise last


__all__ = ["COMMAND_TIMEOUT", "OpenChannel", "Wire", "connect"]
