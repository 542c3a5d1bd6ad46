"""The ZeroMQ broker of jobs-zeromq as a separate process, on a free port and in its own directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from . import PATIENCE, free_port, until_frozen
from .fork_server import ForkedBroker, fork_server


class BrokerService:
    """A broker that can be killed and started again with the same port and directory; `revive` restarts it when it dies."""

    def __init__(self, directory: Path, *, backend: str = "", toml: str = "") -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.port = free_port()
        self.url = backend or f"zmq+tcp://127.0.0.1:{self.port}"
        (directory / "jobs.toml").write_text(f'backend = "{self.url}"\n{toml}\n')
        self.starts = 0
        self._log = directory / "broker.log"
        self._process: subprocess.Popen[bytes] | ForkedBroker | None = None
        self._reviver: threading.Thread | None = None
        self._closing = False
        self._turn = threading.Lock()

    def start(self, **environment: str) -> None:
        """Start the broker, and return when it is serving; fail with its log if it ends instead."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("JOBS_")}
        ready, told = os.pipe()
        with self._log.open("ab") as log, os.fdopen(ready, "rb", buffering=0) as hears:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "jobs_zeromq.broker"],
                    cwd=self.directory,
                    env={**kept, **environment, "JOBS_READY_FD": str(told)},
                    stdout=log,
                    stderr=log,
                    pass_fds=[told],
                )
            finally:
                os.close(told)
            self.starts += 1
            if hears.read(1) != b"\n":
                self._process.wait(PATIENCE)
                raise AssertionError(f"the broker did not start:\n{self.log}")

    def revive(self, failpoints: Sequence[str] = (), *, ever_after: str = "") -> None:
        """Start the broker and restart it whenever it dies, each time with the next fail points, then with `ever_after`."""

        def begin() -> None:
            points = failpoints[self.starts] if self.starts < len(failpoints) else ever_after
            born = self._process = fork_server().bear(self.directory, self._log, {"JOBS_FAILPOINT": points} if points else {})
            self.starts += 1
            if not born.serves() and not points:
                raise AssertionError(f"the broker did not start:\n{self.log}")

        def look_after() -> None:
            while True:
                self.wait(None)
                with self._turn:
                    if self._closing:
                        return
                    begin()

        begin()
        self._reviver = threading.Thread(target=look_after, daemon=True)
        self._reviver.start()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            until_frozen(self._process.pid)

    def kill(self) -> None:
        """Kill the broker with SIGKILL, and wait for its end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, timeout: float | None = PATIENCE) -> int:
        """Wait for the end of the broker; return its exit code."""
        assert self._process is not None
        return self._process.wait(timeout)

    def stop(self) -> int:
        """Stop the broker, or kill it if it does not end within 60 s, as on a busy machine; return its exit code."""
        with self._turn:  # not while it is being restarted
            self._closing = True
        if self._process is None:
            return 0
        self.signal(signal.SIGTERM)
        try:
            code = self.wait(60)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            code = self.wait()
        if self._reviver is not None:
            self._reviver.join(PATIENCE)
        return code
