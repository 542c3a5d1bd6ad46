"""The stores: each with a server of its own, and a way to count what it is asked."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from jobs_core.testing.services.postgres import PostgresServer
from jobs_core.testing.services.redis import RedisServer

Asked = Callable[[], int]
"""Returns how many statements, or scripts, the server has carried out since its start."""

Store = tuple[str, Asked | None]
"""The URL of a backend, and the counter of its server; None without a server."""


@contextlib.contextmanager
def sqlite(directory: Path) -> Iterator[Store]:
    yield f"sqlite:///{directory}/jobs.db", None


@contextlib.contextmanager
def redis(directory: Path) -> Iterator[Store]:
    with RedisServer(directory, "--appendfsync", "everysec") as server:
        yield f"redis://127.0.0.1:{server.port}/0", lambda: _scripts(server.text("INFO", "commandstats"))


def _scripts(statistics: str) -> int:
    """Return how many scripts were called; what they call themselves is counted among the commands."""
    return sum(map(int, re.findall(r"cmdstat_(?:evalsha|fcall):calls=(\d+)", statistics)))


@contextlib.contextmanager
def postgresql(directory: Path) -> Iterator[Store]:
    import psycopg

    counted = "shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track=top"
    with (
        PostgresServer("-c", counted[0], "-c", counted[1], "-c", "shared_buffers=256MB") as server,
        psycopg.connect(server.url, autocommit=True) as watching,
    ):
        watching.execute("CREATE EXTENSION pg_stat_statements")

        def asked() -> int:
            found = watching.execute("SELECT sum(calls) FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat%'").fetchone()
            return int(found[0] or 0) if found else 0

        yield server.url, asked


STORES = {"sqlite": sqlite, "redis": redis, "postgresql": postgresql}
