"""One ZeroMQ context a process, and the options that both ends set."""

from __future__ import annotations

import os

import zmq

from .protocol import HEARTBEAT

_MOST_SOCKETS = 16_000
_contexts: dict[int, zmq.Context[zmq.Socket[bytes]]] = {}


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """This process's context. One that was inherited by a fork is left alone: its threads did not come along."""
    made = _contexts.get(os.getpid())
    if made is None:
        made = _contexts[os.getpid()] = zmq.Context()
        made.set(zmq.MAX_SOCKETS, _MOST_SOCKETS)
    return made


def beat(socket: zmq.Socket[bytes]) -> None:
    """Ping the other end when it is silent, and drop a connection that does not answer: within two heartbeats."""
    milliseconds = int(HEARTBEAT * 1000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, milliseconds)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(0.9 * milliseconds))  # the rest is for what follows from it
    socket.setsockopt(zmq.HEARTBEAT_TTL, 2 * milliseconds)
