"""A private PostgreSQL: its own cluster in a temporary directory, on a free port of loopback."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import psycopg
import pytest

from jobs_core.testing.services import free_port, until

UNPRIVILEGED = "postgres"
"""The user that runs the server where the tests run as root, which the server refuses."""


class Postgres:
    """A server inside a `with` block; the parts of its `url` are what Django's DATABASES expects."""

    def __enter__(self) -> Postgres:
        programs = _programs()
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="jobs-postgres-"))
        self._user = UNPRIVILEGED if os.getuid() == 0 else None
        if self._user:
            os.chown(self.directory, pwd.getpwnam(self._user).pw_uid, -1)
        data, log = self.directory / "data", self.directory / "log"
        initdb = [programs / "initdb", "-D", data, "-U", "shop", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(initdb, user=self._user, cwd=self.directory, check=True, capture_output=True, timeout=120)
        options = ["-D", data, "-p", str(self.port), "-k", self.directory, "-h", "127.0.0.1", "-c", "fsync=off"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [programs / "postgres", *options], user=self._user, cwd=self.directory, stdout=output, stderr=output
            )
        until(self._answers, self._process, log)
        return self

    def _answers(self) -> bool:
        try:
            self.query("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def query(self, text: str) -> list[tuple[object, ...]]:
        """Return the rows of one statement, on a separate connection."""
        with psycopg.connect(host="127.0.0.1", port=self.port, user="shop", dbname="postgres", autocommit=True) as connection:
            cursor = connection.execute(text)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def database(self, name: str, template: str = "template0") -> str:
        """Create a database, empty or from a template; return Django's settings for it, as text."""
        self.query(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.settings(name)

    def settings(self, name: str) -> str:
        """Return Django's settings for a database, as text."""
        return repr(
            {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": name,
                "HOST": "127.0.0.1",
                "PORT": self.port,
                "USER": "shop",
                "OPTIONS": {"application_name": "shop"},
            }
        )

    def connections(self, name: str) -> list[int]:
        """Return the server's processes that serve Django's connections to a database."""
        rows = self.query(f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}' AND application_name = 'shop'")
        return [int(str(pid)) for (pid,) in rows]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.directory)


def _programs() -> Path:
    """Return the directory of PostgreSQL's server programs: Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    why = "PostgreSQL is not installed: apt-get install postgresql"
    if os.environ.get("CI"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)
