"""The ZeroMQ broker of jobs-zeromq as a process of its own, on a free port, in a directory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from . import PATIENCE, free_port

PROGRAM = """
import os, sys
from jobs_zeromq.broker.__main__ import main
os.write(int(os.environ["JOBS_READY_FD"]), b"i")
sys.exit(sys.stdin.readline() and main())
"""
"""`python -m jobs_zeromq.broker`, which says that it has imported, and waits for a line before it begins."""


class BrokerService:
    """A broker to start, kill and start again at the same place; with `revive`, it is started again whenever it dies."""

    def __init__(self, directory: Path, *, backend: str = "", toml: str = "") -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.port = free_port()
        self.url = backend or f"zmq+tcp://127.0.0.1:{self.port}"
        (directory / "jobs.toml").write_text(f'backend = "{self.url}"\n{toml}\n')
        self.starts = 0
        self._process: _Broker | None = None
        self._reviver: threading.Thread | None = None
        self._closing = False
        self._turn = threading.Lock()

    def start(self, **environment: str) -> None:
        """Start it, and come back when it serves; fails with its log if it ends instead."""
        self._begin(_Broker(self.directory, environment))

    def _begin(self, broker: _Broker) -> None:
        self._process = broker
        self.starts += 1
        if not broker.begin():
            broker.process.wait(PATIENCE)
            raise AssertionError(f"the broker did not start:\n{self.log}")

    def revive(self, failpoints: Sequence[str] = (), *, ever_after: str = "") -> None:
        """Start it, and again whenever it dies, until `stop`: each time with the next fail points, then `ever_after`.

        Successors wait, ready to begin: on a busy machine Python starts slower than a client gives up.
        """

        def successor(number: int) -> _Broker:
            points = failpoints[number] if number < len(failpoints) else ever_after
            return _Broker(self.directory, {"JOBS_FAILPOINT": points} if points else {})

        spares = [successor(number) for number in range(len(failpoints) + 1)]
        for spare in spares:
            spare.until_imported()

        def look_after() -> None:
            while True:
                spares.append(successor(self.starts + len(spares)))
                self.wait(None)
                with self._turn:
                    if self._closing:
                        for spare in spares:
                            spare.discard()
                        return
                    self._begin(spares.pop(0))

        self._begin(spares.pop(0))
        self._reviver = threading.Thread(target=look_after, daemon=True)
        self._reviver.start()

    @property
    def log(self) -> str:
        return (self.directory / "broker.log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.process.pid

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, timeout: float | None = PATIENCE) -> int:
        """Its exit code."""
        assert self._process is not None
        return self._process.process.wait(timeout)

    def stop(self) -> int:
        """Ask it to stop, kill it if it will not; its exit code."""
        with self._turn:  # not while it is started anew
            self._closing = True
        if self._process is None:
            return 0
        self.signal(signal.SIGTERM)
        try:
            code = self.wait(10)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            code = self.wait()
        if self._reviver is not None:
            self._reviver.join(PATIENCE)
        return code


class _Broker:
    """One process, which begins to serve when it is told to."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("JOBS_")}
        self._may_die = "JOBS_FAILPOINT" in environment
        ready, told = os.pipe()
        self._ready = os.fdopen(ready, "rb", buffering=0)
        self._imported = False
        with (directory / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                cwd=directory,
                env={**kept, **environment, "JOBS_READY_FD": str(told)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[told],
            )
        os.close(told)

    def until_imported(self) -> None:
        """Wait until it could begin at once."""
        self._imported = self._imported or self._ready.read(1) == b"i"

    def begin(self) -> bool:
        """Have it serve; False if it ends instead and no fail point asked it to."""
        self.until_imported()
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.close()
        with self._ready as ready:
            return ready.read(1) == b"\n" or self._may_die

    def discard(self) -> None:
        """End it before it has begun."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._ready.close()
        self.process.wait()
