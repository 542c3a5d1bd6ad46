"""Access control: ZeroMQ asks here (ZAP, RFC 27) whether to accept a client's connection.

With keys, only clients on the list are accepted. While file descriptors are scarce, no client is: if all were in use,
ZeroMQ could not even accept a connection in order to reject it, and would retry in a loop, which occupies a CPU.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import zmq

from ..keys import AllowList
from ..protocol import NO_ROOM

logger = logging.getLogger("jobs.broker")

DOMAIN = b"jobs"
SAY_EVERY = 5.0
"""Seconds between log lines about refused clients."""

_ENDPOINT = "inproc://zeromq.zap.01"


class Authenticator:
    """Answers ZeroMQ's authentication requests, in the broker's loop. There can be only one per context."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], allowed: AllowList | None, has_room: Callable[[], bool]
    ) -> None:
        """Accept clients on the list, or without a list all clients, while `has_room` returns True.

        Raises ZMQError if the context has another authenticator.
        """
        self.socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        try:
            self.socket.bind(_ENDPOINT)
        except zmq.ZMQError:
            self.socket.close()
            raise
        self._allowed = allowed
        self._has_room = has_room
        self.refused = 0
        self._said = 0.0

    def close(self) -> None:
        self.socket.close()

    def answer(self) -> None:
        """Answer the pending authentication requests."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.socket.send_multipart(self._judge(frames))

    def _judge(self, frames: list[bytes]) -> list[bytes]:
        version, request, domain, address, _, mechanism = (*frames[:6], *[b""] * 6)[:6]
        if not self._has_room():
            return [version, request, b"%d" % NO_ROOM, b"no room", b"", b""]
        name = None
        if domain == DOMAIN:
            if self._allowed is None:
                name = "anybody" if mechanism == b"NULL" else None
            elif mechanism == b"CURVE" and len(frames) == 7:
                name = self._allowed.name(zmq.utils.z85.encode(frames[6]))
        if name is None:
            self.refused += 1
            self._say(address.decode(errors="replace"))
            return [version, request, b"400", b"not on the list", b"", b""]
        return [version, request, b"200", b"", name.encode(), b""]

    def _say(self, address: str) -> None:
        """Log a refusal, but not more often than every SAY_EVERY seconds: strangers must not fill the log."""
        now = time.monotonic()
        if now - self._said >= SAY_EVERY:
            self._said = now
            logger.warning("a client at %s was refused: its key is not on the list (%d so far)", address, self.refused)
