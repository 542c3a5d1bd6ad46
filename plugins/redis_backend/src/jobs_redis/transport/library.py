"""The protocol as redis-py writes and reads it: slower than own.py, but without assumptions about sockets and hiredis."""

from __future__ import annotations

import socket
from typing import Any

from redis.connection import Connection

from .protocol import RedisProtocol


class LibraryProtocol(RedisProtocol):
    """The protocol, written and read by redis-py."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection, connected: socket.socket, timeout: float) -> None:
        self._connection = connection
        super().__init__(connected, timeout)

    def send(self, *commands: tuple[Any, ...]) -> None:
        self._limit_waits()
        self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)

    def read(self) -> Any:
        self._limit_waits()
        return self._connection.read_response()

    def readable(self, timeout: float) -> bool:
        return bool(self._connection.can_read(timeout))
