"""The connection and the protocol as redis-py has them: slower than ours, but without assumptions about sockets and hiredis."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import redis.exceptions
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry

from .failures import NotRedis, Unreachable, refusal
from .opening import Opening
from .protocol import RedisProtocol

_CODES: dict[type[Exception], str] = {  # redis-py removes the code from the text of these
    redis.exceptions.NoScriptError: "NOSCRIPT",
    redis.exceptions.MovedError: "MOVED",  # listed before ASK: isinstance also holds for the subclass
    redis.exceptions.AskError: "ASK",
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.TryAgainError: "TRYAGAIN",
    redis.exceptions.AuthenticationError: "WRONGPASS",
}


class LibraryConnection:
    """A connection that redis-py makes. One thread at a time."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self.connection = _connection(opening)

    @property
    def _sock(self) -> socket.socket | None:
        found: socket.socket | None = self.connection._sock  # redis-py has no public attribute for it
        return found

    def connect(self) -> None:
        """Connect and log in, unless connected; raise a Failure or an OSError."""
        with failing_as_ours():
            self.connection.connect()

    def ask(self, *command: Any) -> Any:
        """Send a command and return its reply."""
        with failing_as_ours():
            self.connection.send_command(*command)
            return self.connection.read_response()

    def disconnect(self) -> None:
        self.connection.disconnect()


def _connection(opening: Opening) -> Any:
    settings: dict[str, Any] = {
        "db": opening.db,
        "username": opening.username,
        "password": opening.password,
        "socket_timeout": opening.timeout,
        "socket_connect_timeout": opening.connect_timeout,
        "retry": Retry(NoBackoff(), 0),  # redis-py must not repeat a command that the server may have executed
        "protocol": 2,
        "client_name": opening.name,
        "driver_info": None,
    }
    if opening.address is None:
        local: Any = UnixDomainSocketConnection  # redis-py types it as another abstract class; it has the same interface
        return local(path=opening.path, **settings)
    settings |= {"host": opening.address[0], "port": opening.address[1], "socket_keepalive": True}
    return Connection(**settings) if opening.tls is None else SSLConnection(**settings, **opening.tls)


@contextlib.contextmanager
def failing_as_ours() -> Iterator[None]:
    """Convert redis-py's exceptions to those of failures.py."""
    try:
        yield
    except redis.exceptions.InvalidResponse as error:
        raise NotRedis(str(error)) from None
    except redis.exceptions.TimeoutError as error:
        raise TimeoutError(str(error)) from None
    except redis.exceptions.RedisError as error:
        text = str(error)
        for kind, word in _CODES.items():
            if isinstance(error, kind):
                raise refusal(f"{'NOAUTH' if word == 'WRONGPASS' and 'required' in text else word} {text}") from None
        if isinstance(error, redis.exceptions.ConnectionError):
            raise Unreachable(text) from error.__context__
        raise refusal(text) from None


class LibraryProtocol(RedisProtocol):
    """The protocol, written and read by redis-py."""

    __slots__ = ("_connection",)

    def __init__(self, connection: LibraryConnection, connected: socket.socket, timeout: float) -> None:
        self._connection = connection.connection
        super().__init__(connected, timeout)

    def send(self, *commands: tuple[Any, ...]) -> None:
        self._limit_waits()
        with failing_as_ours():
            self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)

    def read(self) -> Any:
        self._limit_waits()
        with failing_as_ours():
            return self._connection.read_response()

    def readable(self, timeout: float) -> bool:
        return bool(self._connection.can_read(timeout))
