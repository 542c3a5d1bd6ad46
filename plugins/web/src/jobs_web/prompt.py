"""Connections of clients that neither send nor read: uvicorn waits for them for ever, and this does not."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_PATIENCE = 20.0
"""Seconds within which the head of a request has to arrive, from its first byte on, or from the connection."""

READ_PATIENCE = 60.0
"""Seconds within which a client has to read what it was sent, until little of it is left in this process."""

WANTED_FILES = 4096
"""Open files that the process may have, if the system lets it: 1,000 clients wait, and each is one."""

SPARE_FILES = 256
"""How many of them are kept for the backend and for files."""


def room() -> int:
    """Let this process have WANTED_FILES, and return how many connections it may hold then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    if soft < WANTED_FILES:
        soft = WANTED_FILES if hard == resource.RLIM_INFINITY else max(soft, min(WANTED_FILES, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(soft - SPARE_FILES, soft // 2)


class Seldom(logging.Filter):
    """Lets one line a minute through about connections that cannot be accepted: in a burst, asyncio writes thousands."""

    _next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if "out of system resource" not in record.getMessage():
            return True
        now = time.monotonic()
        is_due = now >= self._next
        self._next = now + 60.0 if is_due else self._next
        return is_due


class PromptProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose next request does not arrive in time, and those for which there is no room.

    It also closes those whose answers are not read: each holds an answer of up to a megabyte, and a call that produces it.

    Without room, asyncio would write thousands of lines a second to the log, and the backend could not be reached.
    """

    most = sys.maxsize

    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.close()
            return
        self._timer = self.loop.call_later(HEAD_PATIENCE, self._close_late)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_PATIENCE, self._close_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._read_on()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(READ_PATIENCE, self.transport.abort)

    def resume_writing(self) -> None:
        self._read_on()
        super().resume_writing()

    def _read_on(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_late(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()
