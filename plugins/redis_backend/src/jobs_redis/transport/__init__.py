"""The connections to Redis: redis-py connects; after that, our own code or redis-py writes and reads the protocol.

docs/transport.md says how much faster our own code is, and how to measure it again.
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
    """Return the protocol on an open connection."""
    found: socket.socket | None = connection._sock  # redis-py has no public attribute for it
    assert found is not None
    if use_library():
        return LibraryProtocol(connection, found, timeout)
    from .own import OwnProtocol

    return OwnProtocol(found, timeout)
