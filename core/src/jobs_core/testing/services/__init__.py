"""Private real servers for tests: each on a free port of loopback, in its own directory, ended with the test.

Without the server's program, a test is skipped on a laptop, but fails in CI (environment variable `CI`), so that a green
build means that it has run. Each kind of server has a module in this package.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NoReturn

PATIENCE = 240.0
"""Longest time that a server or its command may take, in seconds; a machine with many other processes takes minutes."""

PORTS = range(10_000, 22_768)
"""Ports for the servers of tests: outside of those that Linux gives to connections, 32768 and more, also with 10,000 added."""

_numbers = itertools.count(secrets.randbelow(len(PORTS)))


def program(name: str, package: str) -> str:
    """Return the path of a server's program; if it is missing, skip the test, or fail it in CI. `package` is Debian's."""
    found = shutil.which(
        name, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/usr/lib/rabbitmq/bin"
    )
    if found:
        return found
    why = f"{name} is not installed: apt-get install {package}"
    if not os.environ.get("CI"):
        _skip(why)
    return fail(why)


def free_port() -> int:
    """Return a port of loopback on which no process is listening, and which no other test takes as long as this process lives.

    The kernel gives no such port to a connection by itself, as it does with port 0: a server that is killed finds its port free
    when it starts again. The next 10,000 ports above may be used as well, as the bus of a Redis cluster does.
    """
    for number in _numbers:
        port = PORTS[number % len(PORTS)]
        with contextlib.suppress(OSError), socket.socket() as probe:
            fcntl.lockf(_reserved(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("numbers do not end")


@functools.cache
def _reserved() -> int:
    """Return the descriptor of the file in which processes lock the bytes of their ports; the locks end with the process."""
    path = Path(tempfile.gettempdir()) / f"jobs-test-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server serves; fail with the end of its log if it has ended or takes longer than PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            fail(f"{process.args!r} does not serve (exit code {process.poll()}):\n{tail}")
        time.sleep(0.02)  # a starting server gives no other sign


def freeze(pid: int) -> None:
    """Send SIGSTOP to a process and return once none of its threads runs any more, or it has ended.

    On a busy machine a process runs on for a while after the signal, and answers what it was meant not to answer.
    """
    os.kill(pid, signal.SIGSTOP)
    until_frozen(pid)


def until_frozen(pid: int) -> None:
    """Wait until no thread of a process runs any more after a SIGSTOP, or the process has ended."""
    deadline = time.monotonic() + PATIENCE
    while not set(_thread_states(pid)) <= set("TtZX"):
        if time.monotonic() > deadline:
            raise ServiceError(f"process {pid} still runs, {PATIENCE:g} s after SIGSTOP")
        time.sleep(0.001)


def _thread_states(pid: int) -> Iterator[str]:
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            yield thread.read_text().rpartition(")")[2].split()[0]


def fail(why: str) -> NoReturn:
    """Fail the test; outside of a test, as in a script, raise ServiceError."""
    if (test := _pytest()) is not None:
        test.fail(why, pytrace=False)
    raise ServiceError(why)


def _skip(why: str) -> None:
    if (test := _pytest()) is not None:
        test.skip(why)


def _pytest() -> ModuleType | None:
    """Return pytest if a test is running, else None: scripts start servers without it."""
    return sys.modules.get("pytest") if "PYTEST_CURRENT_TEST" in os.environ else None


class ServiceError(RuntimeError):
    """Raised outside of tests if a server cannot be started; the message gives the reason, or the package to install."""


__all__ = ["PATIENCE", "ServiceError", "fail", "free_port", "program", "until"]
