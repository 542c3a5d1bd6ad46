"""Redis's protocol on a socket, by our own code: one system call sends a command, one reads its reply.

redis-py connects, authenticates and wraps in TLS. After that, its layers would cost more than the server's work for an
enqueue. Most of that is the poll() that Python makes before every send and receive on a socket with a timeout. Here, the
kernel enforces the timeout.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from typing import Any

import hiredis
import redis.exceptions

from .protocol import RedisProtocol

NOTHING = object()
"""The parser's return value until a reply is complete."""

_pack = hiredis.pack_command
_BUFFER = 64 * 1024


class OwnProtocol(RedisProtocol):
    """The protocol, written and read by our own code; the module's docstring says why."""

    __slots__ = ("_buffer", "_feed", "_gets", "_receive", "_send")

    def __init__(self, connected: socket.socket, timeout: float) -> None:
        if not isinstance(connected, ssl.SSLSocket):
            connected.settimeout(None)
        super().__init__(connected, timeout)
        reader = hiredis.Reader(protocolError=redis.exceptions.InvalidResponse, replyError=refusal, notEnoughData=NOTHING)
        self._feed, self._gets = reader.feed, reader.gets
        self._send, self._receive = connected.sendall, connected.recv_into
        self._buffer = bytearray(_BUFFER)

    def _set_limit(self, limit: float) -> None:
        if isinstance(self.socket, ssl.SSLSocket):  # OpenSSL must not see the kernel's EAGAIN
            super()._set_limit(limit)
            return

        seconds, fraction = divmod(limit, 1)
        packed = struct.pack("@ll", int(seconds), int(fraction * 1e6))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, packed)
        self._limit = limit

    def send(self, *commands: tuple[Any, ...]) -> None:
        self._limit_waits()
        data = _pack(commands[0]) if len(commands) == 1 else b"".join(map(_pack, commands))
        try:
            if len(data) <= _BUFFER:
                self._send(data)
            else:
                self._send_piece_by_piece(memoryview(data))
        except BlockingIOError:
            raise redis.exceptions.TimeoutError("the server takes nothing") from None

    def _send_piece_by_piece(self, rest: memoryview) -> None:
        """Send in pieces, and check the deadline after each: the kernel's timeout applies only to single calls."""
        while rest:
            rest = rest[self.socket.send(rest) :]
            if rest:
                self._limit_waits()

    def read(self) -> Any:
        reply = self._gets()
        while reply is NOTHING:
            try:
                count = self._receive(self._buffer)
            except BlockingIOError:
                raise redis.exceptions.TimeoutError("no reply") from None
            if not count:
                raise redis.exceptions.ConnectionError("the server has closed the connection")
            self._feed(self._buffer, 0, count)  # type: ignore[arg-type]  # any buffer will do
            reply = self._gets()
            if reply is NOTHING:
                self._limit_waits()
        if isinstance(reply, redis.exceptions.RedisError):
            raise reply
        return reply

    def readable(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(timeout * 1000))


def refusal(text: str) -> redis.exceptions.ResponseError:
    """Return the exception for an error reply of the server; its class depends on the code where callers have to know it."""
    word, _, rest = text.partition(" ")
    kind = _REFUSALS.get(word)
    return kind(rest) if kind else redis.exceptions.ResponseError(text)


_REFUSALS: dict[str, type[redis.exceptions.ResponseError]] = {
    "ASK": redis.exceptions.AskError,
    "MOVED": redis.exceptions.MovedError,
    "NOSCRIPT": redis.exceptions.NoScriptError,
}
