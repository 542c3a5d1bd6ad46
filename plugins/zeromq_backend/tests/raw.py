"""A client that sends arbitrary frames: a plain ZeroMQ socket."""

from __future__ import annotations

from typing import Any

import msgspec
import zmq

from jobs_zeromq import protocol as p

PATIENCE = 30_000
"""Milliseconds within which an answer has to come."""


class Raw:
    """A DEALER socket on its own context."""

    def __init__(self, url: str, *, hello: bool = True) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(url.removeprefix("zmq+"))
        if hello:
            assert self.ask(b"hello", {})[0] == p.OK

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(0)

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def receive(self, milliseconds: int = PATIENCE) -> list[bytes]:
        assert self.socket.poll(milliseconds), "no answer"
        return self.socket.recv_multipart()

    def ask(self, verb: bytes, body: Any, *more: bytes, tag: bytes = b"t") -> tuple[bytes, Any]:
        """Return kind and body of the answer to one request."""
        form = msgspec.json if verb == b"put" else msgspec.msgpack
        self.send(p.VERSION, verb, tag, body if isinstance(body, bytes) else form.encode(body), *more)
        while True:
            version, kind, answered, answer = self.receive()
            if answered == tag:
                assert version == p.VERSION
                return kind, form.decode(answer)
