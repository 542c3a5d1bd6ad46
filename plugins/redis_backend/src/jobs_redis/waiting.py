"""Sleep until there is a job or an interrupt: without polling, without a thread.

A wait is a blocking command on a connection of its own, and a pipe beside it. To end it, any thread or a signal handler
writes a byte into the pipe, and the waiting thread itself then rings: the command also waits for a bell of its owner, which
is put there through the connection for commands. (CLIENT UNBLOCK cannot serve as a bell: a Redis that is failing over,
before 8.2, crashes because of it.) A reply left behind would contain a wake token that another worker needs.

A script may be sent directly after the blocking command. The server runs it as soon as the wait has ended, for whatever
reason, so that a waiting worker has its result with the same answer; if the worker died meanwhile, its connection is gone,
and nothing is run.
"""

from __future__ import annotations

import contextlib
import os
import select
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from jobs_core.errors import BackendUnavailable

from .scripts import ScriptCall
from .transport.link import COMMAND_TIMEOUT, Link

SERVER_TIMES = 0.5
"""Seconds. The server ends waits of this length and more, up to 0.1 s late; shorter ones are ended by us."""


class Line:
    """One server's part of a wait: a connection to block on, the keys to wait for, and the bell that ends it."""

    def __init__(
        self, waiting: Link, keys: Sequence[str], bell: str, ring: Callable[[], None], then: ScriptCall | None = None
    ) -> None:
        self.waiting, self.keys, self.bell, self.ring, self.then = waiting, keys, bell, ring, then
        self.answer: Any = None  # of the script that was sent with the wait

    def begin(self, timeout: float, *, exact: bool) -> None:
        server = timeout if timeout >= SERVER_TIMES and not exact else timeout + 1.0
        self.waiting.send("BZPOPMIN", *self.keys, self.bell, f"{max(server, 0.001):.3f}", then=self.then)

    def end(self, answered: bool) -> str | None:
        """End the wait if it is still in progress; return the key whose token has arrived, or None.

        If a token arrives before the bell, the bell ends the next wait, which is then begun again.
        """
        if not answered and not select.select([self.waiting.socket()], [], [], 0)[0]:
            self.ring()
        token = self.waiting.read()
        if self.then:
            self.answer = self.waiting.read_script(*self.then)
        key: str | None = token[0].decode() if token else None
        return None if key == self.bell else key


class Waiter:
    """The pipe, and waits on it and on servers. Any thread may call `interrupt`; all other methods belong to one thread."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        for end in (self._out, self._in):
            os.set_blocking(end, False)
        # Closed with the last reference, not before: a late interrupt must not write into a descriptor that has been
        # reused.
        weakref.finalize(self, _close, self._out, self._in)

    def interrupt(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is full of interrupts
            os.write(self._in, b"!")

    def fileno(self) -> int:
        """Return the descriptor that becomes readable at an interrupt."""
        return self._out

    def interrupted(self, timeout: float = 0.0) -> bool:
        """Return whether there was an interrupt, or is one within `timeout` seconds; it is then used up."""
        if not select.select([self._out], [], [], max(0.0, timeout))[0]:
            return False
        with contextlib.suppress(BlockingIOError):
            os.read(self._out, 4096)
        return True

    def wait(self, lines: Sequence[Line], timeout: float, *, exact: bool) -> tuple[list[str], bool]:
        """Wait on all lines; return the keys whose tokens arrived, and whether there was an interrupt. `exact`: end in time."""
        begun: list[Line] = []
        try:
            for line in lines:
                line.begin(timeout, exact=exact)
                begun.append(line)
            return self._wait(begun, timeout, exact)
        except BaseException:
            for line in begun:  # a later answer of the server there belongs to no wait of ours
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
        ended = [line.end(socket in readable) for socket, line in by_socket.items()]
        return [key for key in ended if key], self._out in readable and self.interrupted()


def _close(*ends: int) -> None:
    for end in ends:
        os.close(end)
