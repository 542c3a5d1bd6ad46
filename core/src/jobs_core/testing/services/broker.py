"""The ZeroMQ broker of jobs-zeromq as a program of its own, on a free port, in a directory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from . import PATIENCE, free_port


class BrokerService:
    """A broker to start, kill and start again at the same place; with `revive`, it is started again whenever it dies."""

    def __init__(self, directory: Path, *, backend: str = "", toml: str = "") -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.url = backend or f"zmq+tcp://127.0.0.1:{free_port()}"
        (directory / "jobs.toml").write_text(f'backend = "{self.url}"\n{toml}\n')
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._reviver: threading.Thread | None = None
        self._closing = False

    def start(self, **environment: str) -> None:
        """Start it, and come back when it serves; fails with its log if it ends instead."""
        self._start(environment)

    def _start(self, environment: dict[str, str]) -> None:
        read, write = os.pipe()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("JOBS_")}
        with (self.directory / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jobs_zeromq.broker"],
                cwd=self.directory,
                env={**kept, **environment, "JOBS_READY_FD": str(write)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[write],
            )
        os.close(write)
        self.starts += 1
        with os.fdopen(read, "rb") as ready:
            serves = ready.read(1) == b"\n"
        if not serves and not environment.get("JOBS_FAILPOINT"):
            raise AssertionError(f"the broker did not start:\n{self.log}")

    def revive(self, **environment: str) -> None:
        """Start it, and again whenever it dies, until `stop`."""
        self._start(environment)

        def look_after() -> None:
            while not self._closing:
                assert self._process is not None
                self._process.wait()
                if not self._closing:
                    self._start(environment)

        self._reviver = threading.Thread(target=look_after, daemon=True)
        self._reviver.start()

    @property
    def log(self) -> str:
        return (self.directory / "broker.log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def stop(self) -> int:
        """Ask it to stop, kill it if it will not; its exit code."""
        self._closing = True
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait(PATIENCE)
        if self._reviver is not None:
            self._reviver.join(PATIENCE)
        return code
