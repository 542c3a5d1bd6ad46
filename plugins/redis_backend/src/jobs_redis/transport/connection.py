"""One connection to one server: opened on first use, and reopened after it broke. It never repeats a command by itself."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from typing import Any, TypeAlias

from jobs_core.backend_kit import Address, addresses, left
from jobs_core.errors import BackendUnavailable

from ..errors import loses_connection, translated
from ..scripts import Script, ScriptCall
from ..url import Target
from . import Connection, new_connection, open_protocol
from .failures import Failure, Refused, ScriptMissing
from .opening import Opening
from .protocol import RedisProtocol
from .sentinels import Sentinels

CONNECT_TIMEOUT = 2.0
"""Longest time for making a connection, in seconds."""

COMMAND_TIMEOUT = 4.0
"""Seconds after which the connection of an unanswered command counts as dead; shorter than `enqueue_timeout`."""

SHORTEST = 0.01
"""Shortest timeout in seconds: as a timeout of the kernel, 0 would mean none at all."""

Connect: TypeAlias = Callable[[], Connection]


def connector(target: Target, address: Address | None = None) -> Connect:
    """Return a function that makes an unopened connection to a target, or to one node of a cluster."""
    if target.kind == "sentinel":
        return _to_master(target)
    address = address or (target.addresses[0] if target.addresses else None)
    return lambda: _connection(target, address)


def _connection(target: Target, address: Address | None) -> Connection:
    """Return an unopened connection. Connecting, and each answer of the login, may take half of the remaining time."""
    found = addresses(*address, CONNECT_TIMEOUT) if address is not None else ()
    patience = max(SHORTEST, left(math.inf) / 2)
    opening = Opening(
        timeout=min(COMMAND_TIMEOUT, patience),
        connect_timeout=min(CONNECT_TIMEOUT, patience / max(1, len(found))),
        address=address,
        found=found,
        path=target.path,
        username=target.username,
        password=target.password,
        name="jobs",
        db=target.db,
        tls=target.tls if address is not None else None,
    )
    return new_connection(opening)


def _to_master(target: Target) -> Connect:
    """Return a function that asks the sentinels for the master at each connect and checks that the server is one."""

    def to_sentinel(address: Address) -> Connection:
        patience = max(SHORTEST, left(2 * CONNECT_TIMEOUT) / 2)
        opening = Opening(
            timeout=patience,
            connect_timeout=patience,
            address=address,
            found=addresses(*address, CONNECT_TIMEOUT),
            username=target.sentinel_username,
            password=target.sentinel_password,
            tls=target.tls,
        )
        return new_connection(opening)

    sentinels = Sentinels(target.addresses, target.service, target.shown, to_sentinel)

    def connect() -> Connection:
        connection = _connection(target, sentinels.master())
        connection.connect()
        if connection.ask("ROLE")[0] != b"master":
            connection.disconnect()
            raise Refused("READONLY the sentinels' master is not a master yet")
        return connection

    return connect


class ServerConnection:
    """A connection that opens itself when needed. One thread at a time."""

    def __init__(self, connect: Connect, where: str) -> None:
        self.where = where
        self._connect = connect
        self._connection: Connection | None = None
        self._protocol: RedisProtocol | None = None

    @property
    def connected(self) -> bool:
        return self._protocol is not None

    def connect(self) -> RedisProtocol:
        """Connect unless connected; raise BackendUnavailable or BackendError."""
        protocol = self._protocol
        if protocol is None:
            try:
                protocol = self._connected_anew()
            except BackendUnavailable as error:
                error.nothing_sent = True
                raise
        return protocol

    def _connected_anew(self) -> RedisProtocol:
        try:
            connection = self._connect()
            connection.connect()
            protocol = open_protocol(connection, COMMAND_TIMEOUT)
        except (Failure, OSError) as error:
            raise translated(error, self.where) from None  # the client's error may show secrets of the URL
        self._connection, self._protocol = connection, protocol
        return protocol

    def disconnect(self) -> None:
        connection, self._connection, self._protocol = self._connection, None, None
        if connection is not None:
            connection.disconnect()

    # -- commands --------------------------------------------------------------------------------

    def call(self, *command: Any, timeout: float | None = None) -> Any:
        """Send a command and read its reply; `timeout` is for commands that block on the server."""
        self.send(*command)
        return self.read(timeout)

    def run(self, script: Script, base: str, *arguments: Any) -> Any:
        """Run a script on the store at `base`; load it into the server if the server does not have it."""
        protocol = self._protocol or self.connect()
        try:
            protocol.send((b"EVALSHA", script.digest, 1, base, *arguments))
            return protocol.read()
        except ScriptMissing:  # the script was not executed, so it may be sent again
            return self.call(b"EVAL", script.source, 1, base, *arguments)
        except (Failure, OSError) as error:
            raise self._failed(error) from None
        except BaseException:  # for example a job's timeout: without this, the next command would read this answer
            self.disconnect()
            raise

    def send(self, *command: Any, then: ScriptCall | None = None) -> None:
        """Send a command, and `then` a script, without waiting for the replies, which `read` and `read_script` return."""
        protocol = self._protocol or self.connect()
        try:
            if then is None:
                protocol.send(command)
            else:
                script, *arguments = then
                protocol.send(command, (b"EVALSHA", script.digest, 1, *arguments))
        except (Failure, OSError) as error:
            raise self._failed(error) from None
        except BaseException:
            self.disconnect()
            raise

    def read(self, timeout: float | None = None) -> Any:
        """Read the reply of a command that was sent."""
        protocol = self._connected()
        try:
            if timeout is not None and not protocol.readable(timeout):
                raise TimeoutError("no reply")
            return protocol.read()
        except (Failure, OSError) as error:
            raise self._failed(error) from None
        except BaseException:
            self.disconnect()
            raise

    def read_script(self, script: Script, base: str, *arguments: Any) -> Any:
        """Read the reply of a script that was sent."""
        protocol = self._connected()
        try:
            return protocol.read()
        except ScriptMissing:  # the script was not executed, so it may be sent again
            return self.call(b"EVAL", script.source, 1, base, *arguments)
        except (Failure, OSError) as error:
            raise self._failed(error) from None

    def _connected(self) -> RedisProtocol:
        if self._protocol is None:
            raise BackendUnavailable(f"{self.where}: the connection broke")
        return self._protocol

    def _failed(self, error: Exception) -> Exception:
        if loses_connection(error):
            self.disconnect()
        return translated(error, self.where)

    # -- for waiting -----------------------------------------------------------------------------

    def socket(self) -> socket.socket:
        """Return the socket, so that the caller can wait for the reply of a blocking command."""
        return self._connected().socket
