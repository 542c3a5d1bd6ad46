"""Processes of the `jobs` command, forked from one that has imported it, as a supervisor forks its workers.

A new Python process takes a quarter of a second of CPU time to import it, and the tests run hundreds. A forked one begins
where `python -m jobs_core` begins after its imports, and is a process like any other from there on: with its own directory,
streams, signals, environment and end. Brokers are forked in the same way: `jobs_core.testing.services.fork_server`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

REQUEST = 1 << 17
"""Longest request, bytes."""


class Forked:
    """A process that runs `jobs ARGUMENTS...`, with the part of `subprocess.Popen` that tests need."""

    stdin: IO[str] | None = None
    stdout: IO[str] | None = None

    def __init__(self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], streams: tuple[int, int, int]) -> None:
        self.args = ["jobs", *arguments]
        self.returncode: int | None = None
        self._report, theirs = socket.socketpair()
        with theirs:
            request = json.dumps({"arguments": arguments, "cwd": str(cwd), "environment": dict(env)}).encode()
            socket.send_fds(_origin(), [request], [*streams, theirs.fileno()])
        self.pid = self._told()

    def _told(self) -> int:
        (number,) = struct.unpack("i", self._report.recv(4, socket.MSG_WAITALL))
        return int(number)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._report], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = os.waitstatus_to_exitcode(self._told())
            self._report.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], input: str, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, as `subprocess.run` does with captured output."""
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        given.write(input)
        given.seek(0)
        process = Forked(arguments, cwd=cwd, env=env, streams=(given.fileno(), out.fileno(), err.fileno()))
        try:
            process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        out.seek(0)
        err.seek(0)
        assert process.returncode is not None
        return subprocess.CompletedProcess(process.args, process.returncode, out.read(), err.read())


def start(arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> Forked:
    """Start the command and leave it running; its `stdout` is a pipe with its output."""
    ours, theirs = os.pipe()
    with open(os.devnull) as nothing, open(theirs, "w") as output:
        process = Forked(arguments, cwd=cwd, env=env, streams=(nothing.fileno(), output.fileno(), output.fileno()))
    process.stdout = open(ours)  # noqa: SIM115  # the reader closes it
    return process


@functools.cache
def _origin() -> socket.socket:
    """Return the process that has imported everything; it ends with the test process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JOBS_")}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env={**kept, "PYTHONWARNINGS": "error"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    atexit.register(ours.close)
    process.returncode = 0  # no process waits for it, and Python must not warn about that
    return ours


class _Request(NamedTuple):
    arguments: list[str]
    cwd: str
    environment: dict[str, str]
    streams: list[int]


def _serve(requests: socket.socket) -> _Request | None:
    """Fork a child for each request and report its end.

    Returns the function to run in the child, and None at the end.
    """
    wake, woken = socket.socketpair()
    for end in (wake, woken):
        end.setblocking(False)
    children: dict[int, int] = {}  # where to report its end, by process
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken.fileno())
    while True:
        ready, _, _ = select.select([requests, wake], [], [])
        if wake in ready:
            wake.recv(4096)
            _report_ends(children)
        if requests not in ready:
            continue
        text, descriptors, _, _ = socket.recv_fds(requests, REQUEST, 4)
        if not text:
            signal.set_wakeup_fd(-1)
            for end in (requests, wake, woken):
                end.close()
            return None
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, before)
            for end in (requests, wake, woken):
                end.close()
            for descriptor in (*children.values(), descriptors.pop()):
                os.close(descriptor)
            return _Request(**json.loads(text), streams=descriptors)
        *streams, report = descriptors
        for descriptor in streams:
            os.close(descriptor)
        children[pid] = report
        os.write(report, struct.pack("i", pid))


def _report_ends(children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        report = children.pop(pid)
        with contextlib.suppress(OSError):  # no process may wait for it any more
            os.write(report, struct.pack("i", status))
        os.close(report)


def _import_all() -> None:
    import importlib

    from jobs_core.cli.main import GROUPS
    from jobs_core.plugins import Plugins

    modules = {module for commands in GROUPS.values() for module, _ in commands.values()}
    for name in (*(f"cli.{module}" for module in modules), "worker", "backends.sqlite", "backends.memory"):
        importlib.import_module(f"jobs_core.{name}")
    Plugins.discover()


def main() -> None:
    import runpy

    from jobs_core import failpoints

    requests = socket.socket(fileno=int(sys.argv[1]))
    _import_all()
    gc.collect()
    gc.freeze()  # a child that ends collects none of this as garbage: that would cost more than all it does
    request = _serve(requests)
    if request is None:
        return
    os.setsid()
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request.environment)
    failpoints.arm(os.environ.get("JOBS_FAILPOINT", ""))
    os.chdir(request.cwd)
    sys.path[0] = request.cwd
    sys.argv[1:] = request.arguments
    sys.orig_argv[1:] = ["-m", "jobs_core", *request.arguments]  # for a worker that restarts itself
    runpy.run_module("jobs_core", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
