"""A private pgbouncer in front of a PostgreSQL server, on a free port of loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from . import PATIENCE, free_port, program, until
from .postgres import UNPRIVILEGED, PostgresServer, accepts, programs


class PgBouncer:
    """One pgbouncer process; each `start` uses the same port. It connects to the server as the server's own user.

    `connections` bounds how many connections to the server its clients share.
    """

    def __init__(self, server: PostgresServer, *, mode: str = "transaction", connections: int = 20) -> None:
        self.server = server
        self.port = free_port()
        self._mode, self._connections = mode, connections
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PgBouncer:
        self.directory = Path(tempfile.mkdtemp(prefix="jobs-pgbouncer-"))  # pytest's own are closed to its user
        self.log = self.directory / "log"
        self._configuration.write_text(
            f"""
[databases]
* = host=127.0.0.1 port={self.server.port} user={self.server.user}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = any
admin_users = {self.server.user}
pool_mode = {self._mode}
default_pool_size = {self._connections}
server_login_retry = 1
"""
        )
        self.directory.chmod(0o755)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.directory)

    @property
    def _configuration(self) -> Path:
        return self.directory / "pgbouncer.ini"

    @property
    def url(self) -> str:
        """The URL of the server's database through this proxy."""
        return f"postgresql://{self.server.user}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start the proxy, and return when it is serving."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [program("pgbouncer", "pgbouncer"), str(self._configuration)],
                user=UNPRIVILEGED if os.getuid() == 0 else None,  # it refuses to run as root
                group=pwd.getpwnam(UNPRIVILEGED).pw_gid if os.getuid() == 0 else None,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until(self.serves, self._process, self.log)

    def serves(self) -> bool:
        """Return whether the proxy accepts connections."""
        return accepts(self.port)

    def statements(self) -> int:
        """Return how many statements and transactions of several statements have passed since the start."""
        console = f"postgresql://{self.server.user}@127.0.0.1:{self.port}/pgbouncer"
        ask = [str(programs() / "psql"), "-X", "-A", "-c", "SHOW STATS", console]
        said = subprocess.run(ask, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
        names, *rows = (line.split("|") for line in said.splitlines() if "|" in line)
        found = (dict(zip(names, row, strict=True)) for row in rows)
        return sum(int(row["total_xact_count"]) for row in found if row["database"] == "postgres")

    def kill(self) -> None:
        """Kill the proxy: every connection through it breaks."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE)
