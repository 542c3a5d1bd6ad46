"""The notifications for one process: its own channel, on a connection of its own."""

from __future__ import annotations

import hashlib
import select
import time

from psycopg import sql

from jobs_core.backend_kit import SelfPipe

from .connection import ServerConnection
from .url import Target

CANCEL = b"cancel"
"""What a notification says that tells an owner to send a heartbeat; others name a topic, or say that a job has ended."""

LONGEST_SLEEP = 1.25
"""Seconds after which a wait looks again, in case a process died between its commit and its wake-up."""


def channel_of(schema: str, name: str) -> str:
    """Return the channel of an owner, or of another process that waits; it is an identifier of 63 bytes at most."""
    return f"{schema[:24]}:{hashlib.sha256(f'{schema}/{name}'.encode()).hexdigest()[:32]}"


class Listener:
    """Sleeps until something is notified, or until an interrupt. One thread uses it, except for `interrupt`."""

    def __init__(self, target: Target, name: str) -> None:
        self.channel = channel_of(target.schema, name)
        self._connection = ServerConnection(target)
        self._interrupts = SelfPipe()

    def connect(self) -> bool:
        """Listen from now on; return False if it did already. Raises BackendUnavailable, BackendError."""
        if self._connection.connected:
            return False
        self._connection.connect()
        with self._connection.translated():
            self._connection.raw.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self.channel)))
        return True

    def close(self) -> None:
        self._connection.disconnect()
        self._interrupts.close()

    def interrupt(self) -> None:
        """End the current sleep, or the next. Never blocks."""
        self._interrupts.wake()

    def sleep(self, seconds: float) -> tuple[list[bytes], bool]:
        """Sleep for `seconds` at most; return what was notified, and whether it was interrupted."""
        if self.connect():
            return [CANCEL], False  # whatever was notified meanwhile is lost: look at everything
        connection = self._connection.raw.pgconn
        poll = select.poll()
        for descriptor in (self._interrupts.fileno(), connection.socket):
            poll.register(descriptor, select.POLLIN)
        end = time.monotonic() + seconds
        while True:
            heard = self._heard()
            if heard:
                return heard, False
            left = end - time.monotonic()
            ready = poll.poll(max(0.0, left) * 1000)
            if self._interrupts.clear():
                return self._heard(), True
            if not ready and left <= 0:
                return [], False

    def _heard(self) -> list[bytes]:
        """Return what has been notified."""
        found = []
        with self._connection.translated():
            connection = self._connection.raw.pgconn
            connection.consume_input()
            while (notification := connection.notifies()) is not None:
                found.append(notification.extra)
        return found
