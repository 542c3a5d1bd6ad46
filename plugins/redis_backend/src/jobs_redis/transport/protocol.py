"""The interface of Redis's protocol on a connected socket; own.py and library.py implement it."""

from __future__ import annotations

import abc
import socket
from time import monotonic
from typing import Any

from jobs_core.backend_kit import deadline

SLACK = 0.1
"""Seconds by which a wait may end too early or too late; saves system calls."""


class RedisProtocol(abc.ABC):
    """The protocol on a socket, which its owner closes. One thread at a time."""

    __slots__ = ("_limit", "_timeout", "socket")

    def __init__(self, connected: socket.socket, timeout: float) -> None:
        self.socket = connected
        self._timeout = timeout
        self._set_limit(timeout)

    def _limit_waits(self) -> None:
        """Limit the socket's timeout to the deadline; within SLACK, keep the old value: setting it is a system call."""
        rest = deadline.at - monotonic()
        if rest >= self._timeout:
            if self._limit != self._timeout:
                self._set_limit(self._timeout)
        elif rest <= 0:
            raise TimeoutError("no time is left")
        elif not -SLACK <= self._limit - rest <= SLACK:
            self._set_limit(rest)

    def _set_limit(self, limit: float) -> None:
        """Set the longest time that one call may wait on the socket."""
        self.socket.settimeout(limit)
        self._limit = limit

    @abc.abstractmethod
    def send(self, *commands: tuple[Any, ...]) -> None:
        """Send commands together; raises OSError or a Failure."""

    @abc.abstractmethod
    def read(self) -> Any:
        """Return the next reply; raise OSError, or a Failure, also for an error reply."""

    @abc.abstractmethod
    def readable(self, timeout: float) -> bool:
        """Return whether data arrives within `timeout` seconds."""
