"""The connections to Redis: redis-py connects, and then we write and read the protocol, or let redis-py do so.

docs/transport.md says what ours buys, and how to measure it again.
"""

from __future__ import annotations

import importlib.util
import os
import socket

from redis.connection import Connection

from .library import LibraryProtocol
from .protocol import RedisProtocol


def use_library() -> bool:
    """Return whether redis-py's own transport is used: with `JOBS_TRANSPORT=library`, or without hiredis."""
    return os.environ.get("JOBS_TRANSPORT") == "library" or importlib.util.find_spec("hiredis") is None


def open_protocol(connection: Connection, timeout: float) -> RedisProtocol:
    """Return the protocol on a connection that is open."""
    found: socket.socket | None = connection._sock  # the only part that the client does not expose
    assert found is not None
    if use_library():
        return LibraryProtocol(connection, found, timeout)
    from .own import OwnProtocol

    return OwnProtocol(found, timeout)
