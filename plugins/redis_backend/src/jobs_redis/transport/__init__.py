"""Redis connections: our own code connects, writes and reads the protocol, or else redis-py does.

docs/transport.md says how much faster our own code is, and how to measure it again.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from typing import Any, Protocol

from .opening import Opening
from .protocol import RedisProtocol


class Connection(Protocol):
    """A connection to one server. One thread at a time."""

    @property
    def _sock(self) -> socket.socket | None: ...

    def connect(self) -> None:
        """Connect and log in, unless connected; raise a Failure or an OSError."""

    def ask(self, *command: Any) -> Any:
        """Send a command and return its reply; raise a Failure or an OSError."""

    def disconnect(self) -> None: ...


def use_library() -> bool:
    """Return whether redis-py makes and uses the connections: with `JOBS_TRANSPORT=library`, or without hiredis."""
    return os.environ.get("JOBS_TRANSPORT") == "library" or importlib.util.find_spec("hiredis") is None


def new_connection(opening: Opening) -> Connection:
    """Return an unopened connection."""
    if use_library():
        from .library import LibraryConnection  # late, as below: each of both needs a library that the other does without

        return LibraryConnection(opening)
    from .connecting import OwnConnection

    return OwnConnection(opening)


def open_protocol(connection: Connection, timeout: float) -> RedisProtocol:
    """Return the protocol on an open connection."""
    found = connection._sock
    assert found is not None
    if use_library():
        from .library import LibraryConnection, LibraryProtocol

        assert isinstance(connection, LibraryConnection)
        return LibraryProtocol(connection, found, timeout)
    from .own import OwnProtocol

    return OwnProtocol(found, timeout)
