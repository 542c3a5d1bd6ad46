"""Sleeping until there is work or somebody interrupts: without polling, without a thread.

A wait is a blocking command on a connection of its own, and a pipe beside it. Who wants to end it writes a byte into
the pipe, which any thread and a signal handler may do; the waiting thread itself then has the server unblock the
command, through the connection for commands. A reply left behind would take somebody's wake token with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
import weakref
from collections.abc import Sequence
from typing import Any

from jobs_core.errors import BackendUnavailable

from .link import COMMAND_TIMEOUT, Link

SERVER_TIMES = 0.5
"""Waits of this length and more are ended by the server, which is up to 0.1 s late, shorter ones by us; seconds."""


class Line:
    """One server's part of a wait: keys on it, a connection to block on, and one to unblock that."""

    def __init__(self, waiting: Link, commands: Link, keys: Sequence[str]) -> None:
        self.waiting, self.commands, self.keys = waiting, commands, keys

    def begin(self, timeout: float, *, exact: bool) -> None:
        self.waiting.connect()
        self.waiting.client_id()
        server = timeout if timeout >= SERVER_TIMES and not exact else timeout + 1.0
        self.waiting.send("BZPOPMIN", *self.keys, f"{max(server, 0.001):.3f}")

    def end(self) -> str | None:
        """End the wait if it still goes on; the key whose token has come, or None."""
        socket = self.waiting.socket()
        deadline = time.monotonic() + COMMAND_TIMEOUT
        pause = 0.0005
        while not select.select([socket], [], [], 0)[0]:
            # 0 means that the server has not got our command yet, or has answered it just now: then look again.
            if self.commands.call("CLIENT", "UNBLOCK", self.waiting.client_id()):
                break
            select.select([socket], [], [], pause)
            pause = min(2 * pause, 0.05)
            if time.monotonic() > deadline:
                self.waiting.disconnect()
                raise BackendUnavailable(f"{self.waiting.where} does not answer in time")
        return self.reply()

    def reply(self) -> str | None:
        token = self.waiting.read()
        return token[0].decode() if token else None


class Waiter:
    """The pipe, and waits on it and on servers. `interrupt` is for any thread, the rest for one."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        for end in (self._out, self._in):
            os.set_blocking(end, False)
        # Closed with the last reference, not before: a late interrupt must not write into somebody else's descriptor.
        weakref.finalize(self, _close, self._out, self._in)

    def interrupt(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is full of interrupts
            os.write(self._in, b"!")

    def fileno(self) -> int:
        """What becomes readable when somebody interrupts."""
        return self._out

    def interrupted(self, timeout: float = 0.0) -> bool:
        """Whether somebody has interrupted, or does within `timeout` seconds; that is then used up."""
        if not select.select([self._out], [], [], max(0.0, timeout))[0]:
            return False
        with contextlib.suppress(BlockingIOError):
            os.read(self._out, 4096)
        return True

    def wait(self, lines: Sequence[Line], timeout: float, *, exact: bool) -> tuple[list[str], bool]:
        """Wait on all lines; the keys whose tokens came, and whether it was interrupted. `exact`: end in time."""
        begun: list[Line] = []
        try:
            for line in lines:
                line.begin(timeout, exact=exact)
                begun.append(line)
            return self._wait(begun, timeout, exact)
        except BaseException:
            for line in begun:  # what the server may still answer there belongs to no wait of ours
                line.waiting.disconnect()
            raise

    def _wait(self, lines: Sequence[Line], timeout: float, exact: bool) -> tuple[list[str], bool]:
        by_socket = {line.waiting.socket(): line for line in lines}
        server_ends = timeout >= SERVER_TIMES and not exact
        grace = COMMAND_TIMEOUT if server_ends else 0.0
        sources: list[Any] = [self._out, *by_socket]
        readable: list[Any] = select.select(sources, [], [], timeout + grace)[0]
        if not readable and server_ends:
            raise BackendUnavailable(f"{lines[0].waiting.where} does not answer in time")
        ended = [line.end() for line in lines]
        return [key for key in ended if key], self._out in readable and self.interrupted()


def _close(*ends: int) -> None:
    for end in ends:
        os.close(end)
