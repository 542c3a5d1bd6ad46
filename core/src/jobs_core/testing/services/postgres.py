"""Private PostgreSQL servers: each its own cluster in its own directory, on a free port of loopback.

JOBS_TEST_POSTGRES names the directory of other server programs than the newest of Debian's, or those on the path.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from . import PATIENCE, fail, free_port, program, until

PROGRAMS = "JOBS_TEST_POSTGRES"
USER = "jobs"
"""The superuser of a cluster, if no other is named; no password is needed."""

UNPRIVILEGED = "postgres"
"""The user that runs the server where the tests run as root, which the server refuses."""


def programs() -> Path:
    """Return the directory of the server programs: Debian keeps them off the path. If they are missing, skip the test."""
    if os.environ.get(PROGRAMS):
        return Path(os.environ[PROGRAMS])
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else Path(program("initdb", "postgresql")).resolve().parent


def accepts(port: int) -> bool:
    """Return whether a server, or a proxy in front of one, accepts connections at this port of the loopback interface."""
    ready = [str(programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    return subprocess.run(ready, timeout=PATIENCE).returncode == 0


class PostgresServer:
    """One server process; each `start` uses the same port and directory. Its cluster is made when the block is entered.

    With a `primary`, it is a standby of that server, with its data. `log_in` is a directory for the write-ahead log, which then
    has files of 1 MiB. `environment` is added to that of the server's processes.
    """

    def __init__(
        self,
        *options: str,
        port: int = 0,
        user: str = USER,
        primary: PostgresServer | None = None,
        log_in: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.user = user
        self.port = port or free_port()
        self._options = options
        self._primary, self._log_in = primary, log_in
        self._environment = {**os.environ, **environment} if environment else None
        self._user = UNPRIVILEGED if os.getuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PostgresServer:
        self.directory = Path(tempfile.mkdtemp(prefix="jobs-postgres-"))  # pytest's own are closed to the server's user
        self.log = self.directory / "log"
        self.own(self.directory)
        if self._primary is not None:
            source = ["-h", "127.0.0.1", "-p", str(self._primary.port), "-U", self.user]
            self.run("pg_basebackup", "-D", str(self._data), *source, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        else:
            log = ["--waldir", str(self._log_in), "--wal-segsize", "1"] if self._log_in else []
            common = ["-U", self.user, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
            self.run("initdb", "-D", str(self._data), *common, *log)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    @property
    def url(self) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/postgres"

    def url_of(self, user: str, database: str) -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        assert self._process, "the server does not run"
        return self._process.pid

    def run(self, name: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as the user of the server; fail with what it says."""
        command = [str(programs() / name), *arguments]
        done = subprocess.run(command, user=self._user, cwd=self.directory, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode:
            fail(f"{name} failed: {done.stderr}")

    def own(self, directory: Path) -> None:
        """Give a directory to the user of the server."""
        if self._user:
            os.chown(directory, pwd.getpwnam(self._user).pw_uid, -1)

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def start(self, *more: str) -> None:
        """Start the server, and return when it is serving; the options `more` apply to this start only."""
        options = ["-D", str(self._data), "-p", str(self.port), "-k", str(self.directory), "-h", "127.0.0.1"]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [programs() / "postgres", *options, *self._options, *more],
                user=self._user,
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until(self.serves, self._process, self.log)

    def serves(self) -> bool:
        """Return whether the server accepts connections."""
        return accepts(self.port)

    def has_ended(self) -> bool:
        """Return whether the server has ended by itself, as it does if it cannot recover."""
        return self._process is None or self._process.poll() is not None

    def promote(self) -> None:
        """Make a standby the primary, by hand."""
        self.run("pg_ctl", "promote", "-w", "-D", str(self._data))

    def stop(self) -> None:
        """End all connections and the server."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """End all processes at once, without saving anything; the next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """Kill the first process, and wait until its children have noticed: until then, no other server can start here."""
        children = self.processes()
        self._end(signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while any(_is_alive(pid) for pid in children) and time.monotonic() < deadline:
            time.sleep(0.01)  # they are not ours: no event tells of their end

    def processes(self) -> list[int]:
        """Return the server's child processes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def kill_one(self) -> None:
        """Kill the process of one connection of `jobs`; the server ends all others, too, and recovers."""
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if f"postgres: {self.user} " in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)
                    return

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all processes of the server inside the block."""
        stopped = [self.pid, *self.processes()]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        process.kill()
        process.wait()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
