"""Brokers forked from a process that has imported everything: they start within milliseconds, however busy the machine is.

When a broker dies, its clients wait a second and a half for its successor; on a busy machine, Python takes longer to start.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from . import PATIENCE

PROGRAM = """
import gc, json, os, signal, sys
from jobs_core import App, Config, failpoints
from jobs_core.backends import sqlite
from jobs_zeromq.broker import __main__ as broker, server

numbers = {}

def tell(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def reap(*_):
    while numbers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        tell("ended", numbers.pop(pid), os.waitstatus_to_exitcode(status))

def live(order):
    told, log = os.dup(1), os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.chdir(order["directory"])
    os.environ.update(order["environment"])
    failpoints.arm(os.environ.get("JOBS_FAILPOINT", ""))
    broker.tell_ready = lambda server: os.write(told, b"ready %d\\n" % order["number"])
    return broker.main()

signal.signal(signal.SIGCHLD, reap)
App(Config(backend="memory://"))  # finds the plugins
gc.freeze()
tell("imported", 0)
for line in sys.stdin:
    order = json.loads(line)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # until its number is known
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        tell("born", order["number"], os.getpid())
        code = 1
        try:
            code = live(order)
        finally:
            os._exit(code)
    numbers[pid] = order["number"]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
"""


class ForkedBroker:
    """A broker forked by the fork server; `pid`, `send_signal` and `wait` are as in subprocess.Popen."""

    def __init__(self, fork_server: ForkServer, number: int) -> None:
        self._server = fork_server
        self._number = number
        pid = fork_server.hear("born", number)
        assert pid is not None, "the fork server has ended"
        self.pid = int(pid)

    def serves(self) -> bool:
        """Wait until the broker accepts clients; return False if it ends instead."""
        return self._server.hear("ready", self._number) is not None

    def send_signal(self, number: int) -> None:
        if not self._server.heard("ended", self._number):
            os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the broker; return its exit code, or raise subprocess.TimeoutExpired."""
        code = self._server.hear("ended", self._number, timeout)
        if code is None:
            raise subprocess.TimeoutExpired("a broker", timeout or 0.0)
        return int(code)


class ForkServer:
    """The process that forks brokers, and its reports about them."""

    def __init__(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("JOBS_")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=kept, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self._end)
        self._numbers = itertools.count(1)
        self._told: dict[tuple[str, int], str] = {}
        self._changed = threading.Condition()
        self._ended = False
        threading.Thread(target=self._listen, name="fork_server", daemon=True).start()
        self.hear("imported", 0)

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as told:
            for line in told:
                word, number, *rest = line.split()
                with self._changed:
                    self._told[word, int(number)] = "".join(rest)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def bear(self, directory: Path, log: Path, environment: dict[str, str]) -> ForkedBroker:
        """Start a broker in a directory; return without waiting until it serves."""
        number = next(self._numbers)
        order = {"number": number, "directory": str(directory), "log": str(log), "environment": environment}
        assert self._process.stdin is not None
        with self._changed:  # one line at a time
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        return ForkedBroker(self, number)

    def heard(self, word: str, number: int) -> bool:
        """Return whether this report about a child has arrived."""
        with self._changed:
            return (word, number) in self._told

    def hear(self, word: str, number: int, timeout: float | None = PATIENCE) -> str | None:
        """Wait for a report about a child; return None if the child ends first, or after `timeout` seconds.

        With `timeout=None` it waits forever.
        """

        def told() -> bool:
            return any((this, number) in self._told for this in (word, "ended")) or self._ended

        with self._changed:
            self._changed.wait_for(told, timeout)
            return self._told.get((word, number))


_server: list[ForkServer] = []


def fork_server() -> ForkServer:
    """Return this process's fork server; the first call starts it."""
    if not _server:
        _server.append(ForkServer())
    return _server[0]
