"""Our adapter for pika's connection, which writes and reads the most frequent frames itself."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

from pika import exceptions
from pika.frame import Heartbeat
from pika.spec import BasicProperties

from jobs_core.backend_kit import Address, Timer

from ..url import CONNECT_TIMEOUT, Target
from .connecting import dial
from .connection import BrokerConnection, OnConfirm, OpenChannel
from .frames import Reader, ack, content, publish_method
from .loop import Loop

CHUNK = 1 << 16
"""The number of unsent bytes from which on they are written at once."""

SIP = 1 << 14
"""The number of bytes read at once. Processing them takes a millisecond or less; a pulse follows."""

PULSE = 1 / 16
"""After this share of the heartbeat interval, the next turn of the loop sends a heartbeat, because the turn may end late.

The broker drops a connection after two intervals of silence.
"""

_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
"""Prevents SIGPIPE, whose default action, which an application may have restored, ends the process."""

_END_AND_HEAD = 8
"""Bytes of a frame in addition to its payload."""


class CodecChannel(OpenChannel):
    """A channel that uses none of pika's objects for messages, confirms and deliveries."""

    on_confirm: OnConfirm | None = None
    _route: tuple[str, str] | None = None
    _method = b""

    def publish(self, exchange: str, key: str, properties: BasicProperties, body: bytes) -> None:
        if not self.is_open:
            raise exceptions.ChannelWrongStateError("the channel is closed")
        if self._route != (exchange, key):  # usually the same as for the last message
            self._route, self._method = (exchange, key), publish_method(self.channel_number, exchange, key)
        largest = self.connection.params.frame_max - _END_AND_HEAD
        self.connection.send(self._method, content(self.channel_number, properties, body, largest))

    def acknowledge(self, tags: Iterable[int], up_to: int = 0) -> None:
        if not self.is_open:
            raise exceptions.ChannelWrongStateError("the channel is closed")
        if up_to:
            self.connection.send(ack(self.channel_number, up_to, multiple=True))
        for tag in tags:
            self.connection.send(ack(self.channel_number, tag))

    def confirm(self, confirmed: OnConfirm, refused: OnConfirm, done: Callable[[Any], None]) -> None:
        super().confirm(confirmed, refused, done)
        self.on_confirm = confirmed


class OwnConnection(BrokerConnection):
    """A connection over a socket that `Loop` watches."""

    def __init__(
        self, target: Target, address: Address, loop: Loop, *, heartbeat: int, name: str, patience: float = CONNECT_TIMEOUT
    ) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        self._unsent = bytearray()
        self._sent_at = 0.0
        self._pause = 0.0  # seconds between heartbeats; 0 before the connection is open, or without heartbeats
        self._reader = Reader(self, self._for_pika)
        self._channels_by_number: dict[int, CodecChannel] = {}
        super().__init__(target, address, loop, heartbeat=heartbeat, name=name, patience=patience)

    def opened(self) -> None:
        super().opened()
        self._pause = self.params.heartbeat * PULSE

    def send(self, *frames: bytes) -> None:
        """Send our frames: at once if over `CHUNK` bytes are unsent, else on the next turn of the loop or flush."""
        for frame in frames:
            self._unsent += frame
            self.bytes_sent += len(frame)  # pika uses this to know when a heartbeat is due
        if len(self._unsent) > CHUNK:
            self.writable()

    def flush(self) -> None:
        self.writable()
        if self._unsent:
            self.wait_for(lambda: not self._unsent)

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

    def _create_channel(self, channel_number: int, on_open_callback: Any) -> CodecChannel:
        channel = self._channels_by_number[channel_number] = CodecChannel(self, channel_number, on_open_callback)
        return channel

    # -- the loop's interface of a stream --------------------------------------------------------------

    def fileno(self) -> int:
        assert self._socket is not None
        return self._socket.fileno()

    def wants_to_write(self) -> bool:
        return bool(self._unsent)

    def writable(self) -> None:
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
            read = self._reader.feed(data)  # before pika's own count, which includes only the frames left to pika
            self.bytes_received += read  # pika uses this to know whether the broker is alive
            self._loop.pulse()
            if len(data) < SIP and not (self._tls() and self._tls().pending()):  # type: ignore[union-attr]
                return

    def pulse(self) -> None:
        if not self._unsent and self._pause and self.is_open and time.monotonic() - self._sent_at > self._pause:
            self._send_frame(Heartbeat())
        self.writable()

    def _send(self, data: bytearray) -> int:
        assert self._socket is not None
        return self._socket.send(data) if self._tls() is not None else self._socket.send(data, _NO_SIGNAL)

    def _receive(self) -> bytes:
        assert self._socket is not None
        return self._socket.recv(SIP)

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

    def _lose(self, error: Exception | None) -> None:
        stream, self._socket = self._socket, None
        if stream is None:
            return
        self._loop.remove(stream.fileno())
        self._unsent.clear()
        stream.close()
        self._on_stream_terminated(error)
