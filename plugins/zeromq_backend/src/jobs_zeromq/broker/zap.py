"""Who may come in: ZeroMQ asks here (ZAP, RFC 27) before a client's connection with CURVE is made."""

from __future__ import annotations

import logging
import time

import zmq

from ..keys import AllowList

logger = logging.getLogger("jobs.broker")

DOMAIN = b"jobs"
SAY_EVERY = 5.0
"""Seconds between log lines about refused clients."""

_ENDPOINT = "inproc://zeromq.zap.01"


class Doorkeeper:
    """Answers ZeroMQ's questions, from the broker's own loop. One a context."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allowed: AllowList) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(_ENDPOINT)
        self._allowed = allowed
        self.refused = 0
        self._said = 0.0

    def close(self) -> None:
        self.socket.close()

    def answer(self) -> None:
        """Answer what has been asked."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.socket.send_multipart(self._judge(frames))

    def _judge(self, frames: list[bytes]) -> list[bytes]:
        version, request, domain, address, _, mechanism = (*frames[:6], *[b""] * 6)[:6]
        name = None
        if domain == DOMAIN and mechanism == b"CURVE" and len(frames) == 7:
            name = self._allowed.name(zmq.utils.z85.encode(frames[6]))
        if name is None:
            self.refused += 1
            self._say(address.decode(errors="replace"))
            return [version, request, b"400", b"not on the list", b"", b""]
        return [version, request, b"200", b"", name.encode(), b""]

    def _say(self, address: str) -> None:
        """Log a refusal, once in a while: strangers must not fill the log."""
        now = time.monotonic()
        if now - self._said >= SAY_EVERY:
            self._said = now
            logger.warning("a client at %s was not let in: its key is not on the list (%d so far)", address, self.refused)
