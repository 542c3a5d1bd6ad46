"""A socket that speaks Redis's protocol: one system call sends a command, one reads its reply.

The client connects, authenticates and wraps in TLS; after that its layers cost more than an enqueue's work on the server,
most of all a poll() before every send and receive, which Python makes for a socket with a timeout of its own. Here the
kernel keeps the time.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from typing import Any

import hiredis
import redis.exceptions

NOTHING = object()
"""No reply is whole yet."""

_BUFFER = 64 * 1024


class Wire:
    """See the module. One thread at a time; the socket stays its owner's, who closes it."""

    __slots__ = ("_buffer", "_feed", "_gets", "_receive", "_send", "socket")

    def __init__(self, connected: socket.socket, timeout: float) -> None:
        self.socket = connected
        if not isinstance(connected, ssl.SSLSocket):  # whose library must not meet the kernel's EAGAIN
            seconds, fraction = divmod(timeout, 1)
            limit = struct.pack("@ll", int(seconds), round(fraction * 1e6))
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            connected.settimeout(None)
        reader = hiredis.Reader(protocolError=redis.exceptions.InvalidResponse, replyError=refusal, notEnoughData=NOTHING)
        self._feed, self._gets = reader.feed, reader.gets
        self._send, self._receive = connected.sendall, connected.recv_into
        self._buffer = bytearray(_BUFFER)

    def send(self, *commands: tuple[Any, ...]) -> None:
        """Send commands together; raises OSError or a RedisError."""
        try:
            self._send(b"".join(map(hiredis.pack_command, commands)))
        except BlockingIOError:
            raise redis.exceptions.TimeoutError("the server takes nothing") from None

    def read(self) -> Any:
        """The next reply; raises OSError or a RedisError, which may be the reply."""
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
        if isinstance(reply, redis.exceptions.RedisError):
            raise reply
        return reply

    def readable(self, timeout: float) -> bool:
        """Whether something arrives within so many seconds."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(timeout * 1000))


def refusal(text: str) -> redis.exceptions.ResponseError:
    """The error that the server answers with; of a kind of its own where somebody has to tell it apart."""
    word, _, rest = text.partition(" ")
    kind = _REFUSALS.get(word)
    return kind(rest) if kind else redis.exceptions.ResponseError(text)


_REFUSALS: dict[str, type[redis.exceptions.ResponseError]] = {
    "ASK": redis.exceptions.AskError,
    "MOVED": redis.exceptions.MovedError,
    "NOSCRIPT": redis.exceptions.NoScriptError,
}
