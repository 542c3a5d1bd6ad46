"""Sleep until there is a job or an interrupt, without polling and without a thread.

A wait is a blocking command on a separate connection, together with a `SelfPipe`. Any thread or a signal handler interrupts
it through the pipe. The waiting thread then has to end the command and read its reply, which may contain a wake token that
another worker needs. To end it, the thread writes the owner's own key (its "bell"), on which the command also blocks, through
the connection for commands. (CLIENT UNBLOCK is not an alternative: before 8.2, it crashes a Redis that is failing over.)

A script may be sent directly after the blocking command. The server runs it as soon as the wait ends for any reason, so
the waiting worker gets both answers in one round trip. If the worker has died, its connection is closed, and the script does
not run.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from typing import Any

from jobs_core.backend_kit import SelfPipe
from jobs_core.errors import BackendUnavailable

from .scripts import ScriptCall
from .transport.connection import COMMAND_TIMEOUT, ServerConnection

SERVER_TIMES = 0.5
"""The server itself ends waits of this many seconds or more, up to 0.1 s late; we end shorter ones."""


class BlockingWait:
    """The part of a wait on one server: the connection to block on, the keys to wait for, and the key that ends the wait."""

    def __init__(
        self, waiting: ServerConnection, keys: Sequence[str], own: str, wake: Callable[[], None], then: ScriptCall | None = None
    ) -> None:
        self.waiting, self.keys, self.own, self.wake, self.then = waiting, keys, own, wake, then
        self.answer: Any = None  # the answer of the script that was sent with the wait

    def begin(self, timeout: float, *, exact: bool) -> None:
        server = timeout if timeout >= SERVER_TIMES and not exact else timeout + 1.0
        self.waiting.send("BZPOPMIN", *self.keys, self.own, f"{max(server, 0.001):.3f}", then=self.then)

    def end(self, answered: bool) -> str | None:
        """End the wait if it is still in progress; return the key whose token has arrived, or None.

        If a token arrives before our own key is written, that key remains, and ends the next wait at once; callers wait again.
        """
        if not answered and not select.select([self.waiting.socket()], [], [], 0)[0]:
            self.wake()
        token = self.waiting.read()
        if self.then:
            self.answer = self.waiting.read_script(*self.then)
        key: str | None = token[0].decode() if token else None
        return None if key == self.own else key


class Waiter:
    """Waits on servers, and owns the pipe that interrupts a wait. Any thread may call `interrupt`; one thread does the rest."""

    def __init__(self) -> None:
        self._interrupts = SelfPipe()

    def interrupt(self) -> None:
        self._interrupts.wake()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable at an interrupt."""
        return self._interrupts.fileno()

    def interrupted(self, timeout: float = 0.0) -> bool:
        """Return whether there was an interrupt, or is one within `timeout` seconds, and consume it."""
        return self._interrupts.wait(timeout)

    def wait(self, waits: Sequence[BlockingWait], timeout: float, *, exact: bool) -> tuple[list[str], bool]:
        """Wait on all servers; return the keys whose tokens arrived, and whether it was interrupted. `exact`: end on time."""
        begun: list[BlockingWait] = []
        try:
            for wait in waits:
                wait.begin(timeout, exact=exact)
                begun.append(wait)
            return self._wait(begun, timeout, exact)
        except BaseException:
            for wait in begun:  # a reply that still arrives must not be read as the reply of a later command
                wait.waiting.disconnect()
            raise

    def _wait(self, waits: Sequence[BlockingWait], timeout: float, exact: bool) -> tuple[list[str], bool]:
        by_socket = {wait.waiting.socket(): wait for wait in waits}
        server_ends = timeout >= SERVER_TIMES and not exact
        grace = COMMAND_TIMEOUT if server_ends else 0.0
        interrupts = self._interrupts.fileno()
        sources: list[Any] = [interrupts, *by_socket]
        readable: list[Any] = select.select(sources, [], [], timeout + grace)[0]
        if not readable and server_ends:
            raise BackendUnavailable(f"{waits[0].waiting.where} does not answer in time")
        ended = [wait.end(socket in readable) for socket, wait in by_socket.items()]
        return [key for key in ended if key], interrupts in readable and self._interrupts.clear()
