"""Redis's protocol on a socket, by our own code: one system call sends a command, one reads its reply.

The layers of redis-py would cost more than the server's work for an enqueue. Most of that is the poll() that Python makes
before every send and receive on a socket with a timeout. Here, the kernel enforces the timeout.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from typing import Any

import hiredis

from .failures import Failure, NotRedis, refusal
from .protocol import RedisProtocol

NOTHING = object()
"""The parser's return value until a reply is complete."""

_pack = hiredis.pack_command
_BUFFER = 64 * 1024


class OwnProtocol(RedisProtocol):
    """The protocol, written and read by our own code; the module's docstring says why."""

    __slots__ = ("_buffer", "_feed", "_gets", "_receive", "_send")

    def __init__(self, connected: socket.socket, timeout: float) -> None:
        if not _is_tls(connected):
            connected.settimeout(None)
        super().__init__(connected, timeout)
        reader = hiredis.Reader(protocolError=NotRedis, replyError=refusal, notEnoughData=NOTHING)
        self._feed, self._gets = reader.feed, reader.gets
        self._send, self._receive = connected.sendall, connected.recv_into
        self._buffer = bytearray(_BUFFER)

    def _set_limit(self, limit: float) -> None:
        if _is_tls(self.socket):  # OpenSSL must not see the kernel's EAGAIN
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
            raise TimeoutError("the server takes nothing") from None

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
                raise TimeoutError("no reply") from None
            if not count:
                raise ConnectionError("the server has closed the connection")
            self._feed(self._buffer, 0, count)  # type: ignore[arg-type]  # any buffer will do
            reply = self._gets()
            if reply is NOTHING:
                self._limit_waits()
        if isinstance(reply, Failure):
            raise reply
        return reply

    def readable(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(timeout * 1000))


def _is_tls(connected: socket.socket) -> bool:
    ssl = sys.modules.get("ssl")  # whoever made such a socket has imported it, which takes long
    return ssl is not None and isinstance(connected, ssl.SSLSocket)
