"""Commands to a running supervisor: a unix socket in the run directory, which only its owner can connect to.

A command is one JSON document, its answer another. The path of the socket may be longer than a socket address can be (107
bytes), so it is reached through the opened directory.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import JobsError
from . import search
from .system.channel import Channel
from .system.loop import Loop

NAME = "control"


class NotRunning(JobsError):
    """Raised when no supervisor answers in a run directory."""


class NoAnswer(JobsError):
    """Raised when a supervisor is running but has not answered in time."""


class InAnotherNamespace(JobsError):
    """Raised when the supervisor's process is invisible in this PID namespace: it can be neither signalled nor watched."""

    def __init__(self, run_dir: Path, pid: int) -> None:
        super().__init__(
            f"the supervisor in {run_dir} is running in another PID namespace (such as a container), as process {pid} there: "
            "its exit cannot be seen from here, so nothing was done. Run this there: `docker exec`, `kubectl exec`, `nsenter`"
        )


class Command:
    """A command, which must be answered once, at once or later."""

    def __init__(
        self,
        message: dict[str, Any],
        channel: Channel[dict[str, Any]],
        close: Callable[[], None],
        publish: Callable[[], None],
    ) -> None:
        self.message = message
        self._channel = channel
        self._close = close
        self._publish = publish

    def answer(self, **facts: Any) -> None:
        """Answer. The state is published first: whoever is told "done" may look at once, and shall not see the old one."""
        self._publish()
        self._channel.send(facts)
        self._close()


class ControlSocket:
    """The supervisor's end; calls `publish` before each answer. Raises OSError if the socket cannot be created."""

    def __init__(self, loop: Loop, run_dir: Path, obey: Callable[[Command], None], publish: Callable[[], None]) -> None:
        self._loop = loop
        self._obey = obey
        self._publish = publish
        self._path = run_dir / NAME
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        with _address(run_dir) as address:
            before = os.umask(0o177)
            try:
                self._socket.bind(address)
            finally:
                os.umask(before)
        self._socket.listen(16)
        self._socket.setblocking(False)
        self._clients: set[Channel[dict[str, Any]]] = set()
        loop.watch(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:  # no descriptors left, for example: do not spin while a client waits
            self._loop.unwatch(self._socket.fileno())
            self._loop.after(1.0, lambda: self._loop.watch(self._socket.fileno(), self._accept))
            return
        with contextlib.suppress(OSError):
            if _peer(connection)[1] not in (0, os.geteuid()):
                connection.close()
                return
            channel = Channel[dict[str, Any]](connection)
            self._clients.add(channel)
            self._loop.watch(channel.fileno(), lambda: self._read(channel))

    def _read(self, channel: Channel[dict[str, Any]]) -> None:
        try:
            message, descriptors = channel.receive(wait=False)
        except BlockingIOError:
            return
        except ValueError:  # not JSON
            message, descriptors = None, []
        for descriptor in descriptors:
            os.close(descriptor)
        if message is None:
            self._close(channel)
        else:
            self._obey(Command(message, channel, lambda: self._close(channel), self._publish))

    def _close(self, channel: Channel[dict[str, Any]]) -> None:
        if channel in self._clients:
            self._clients.discard(channel)
            self._loop.unwatch(channel.fileno())
            channel.close()

    def close(self) -> None:
        for channel in list(self._clients):
            self._close(channel)
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        self._path.unlink(missing_ok=True)


def ask(run_dir: Path, message: dict[str, Any], timeout: float | None = 10.0) -> dict[str, Any]:
    """Send a command to the supervisor and return its answer; raises NotRunning, NoAnswer."""
    with _connected(run_dir, timeout) as connection:
        channel = Channel[dict[str, Any]](connection)
        try:
            channel.send(message)
            answer, _ = channel.receive()
        except TimeoutError:
            raise NoAnswer(
                f"the supervisor in {run_dir} has not answered within {timeout:g} s: its process is stopped, or the machine is "
                "too busy. It carries out the command once it can"
            ) from None
    if answer is None:
        raise NotRunning(f"the supervisor in {run_dir} exited before it answered")
    return answer


def number_here(run_dir: Path, told: int) -> int:
    """Return the supervisor's process id in this PID namespace; `told` is its process id in its own namespace.

    The kernel translates the process id of the other end of a connection. A supervisor that does not listen yet is found by
    the file that it has open. Raises InAnotherNamespace.
    """
    try:
        with _connected(run_dir, 1.0) as connection:
            pid, _ = _peer(connection)
    except NotRunning:
        pid = told if search.holds(told, run_dir) else 0
    if not pid:
        raise InAnotherNamespace(run_dir, told)
    return pid


@contextlib.contextmanager
def _connected(run_dir: Path, timeout: float | None) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(timeout)
        try:
            with _address(run_dir) as address:
                connection.connect(address)
        except OSError:
            raise NotRunning(f"no supervisor is answering in {run_dir}") from None
        yield connection


@contextlib.contextmanager
def _address(run_dir: Path) -> Iterator[str]:
    descriptor = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)


def _peer(connection: socket.socket) -> tuple[int, int]:
    """Return the process id of the other end, 0 if it is invisible from here, and its user."""
    size = struct.calcsize("iII")
    pid, uid, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(pid), int(uid)
