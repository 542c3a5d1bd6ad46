"""Redis's protocol on a connected socket, whether we write and read it ourselves, or redis-py does."""

from __future__ import annotations

import abc
import socket
from time import monotonic
from typing import Any

import redis.exceptions

from jobs_core.backend_kit import deadline

SLACK = 0.1
"""Seconds by which a wait may end too early or too late, in exchange for fewer system calls."""


class RedisProtocol(abc.ABC):
    """The protocol on a socket. See the module. One thread at a time; the socket's owner closes it."""

    __slots__ = ("_limit", "_timeout", "socket")

    def __init__(self, connected: socket.socket, timeout: float) -> None:
        self.socket = connected
        self._timeout = timeout
        self._set_limit(timeout)

    def _limit_waits(self) -> None:
        """Set the socket's timeout to the deadline at most. It is set rarely, because setting it is a system call."""
        rest = deadline.at - monotonic()
        if rest >= self._timeout:
            if self._limit != self._timeout:
                self._set_limit(self._timeout)
        elif rest <= 0:
            raise redis.exceptions.TimeoutError("no time is left")
        elif not -SLACK <= self._limit - rest <= SLACK:
            self._set_limit(rest)

    def _set_limit(self, limit: float) -> None:
        """Set the timeout of each wait of the socket."""
        self.socket.settimeout(limit)
        self._limit = limit

    @abc.abstractmethod
    def send(self, *commands: tuple[Any, ...]) -> None:
        """Send commands together; raises OSError or a RedisError."""

    @abc.abstractmethod
    def read(self) -> Any:
        """Return the next reply; raise OSError or a RedisError, which may be the reply."""

    @abc.abstractmethod
    def readable(self, timeout: float) -> bool:
        """Return whether something arrives within so many seconds."""
