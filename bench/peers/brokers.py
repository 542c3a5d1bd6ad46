"""The servers that peers share: each private, on a free port, in its own directory, and ended after the measurement."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import psycopg

from jobs_core.testing.services.postgres import PostgresServer
from jobs_core.testing.services.rabbitmq import RabbitMQNode
from jobs_core.testing.services.redis import RedisServer


class Running(NamedTuple):
    url: str
    directory: Path
    """Named by the command or the environment of the server's first process."""


Broker = Callable[[Path], AbstractContextManager[Running]]
"""Takes a directory that it may use; yields a server that runs inside the context, with nothing in it."""


@contextlib.contextmanager
def redis(directory: Path) -> Iterator[Running]:
    """Run Redis with an append-only file that is synced every second: as careful operators do, and the same for every peer."""
    with RedisServer(directory / "redis", "--appendfsync", "everysec") as server:
        yield Running(f"redis://127.0.0.1:{server.port}/0", directory)


@contextlib.contextmanager
def rabbitmq(directory: Path) -> Iterator[Running]:
    """Make a virtual host on the node that all measurements of this process share, and delete it in the end."""
    with _first:
        node = _rabbitmq()
    vhost = node.make_vhost()
    try:
        yield Running(node.url(vhost), node.directory)
    finally:
        node.control("delete_vhost", vhost)


@functools.cache
def _rabbitmq() -> RabbitMQNode:
    """Start a node with its defaults."""
    directory = tempfile.TemporaryDirectory(prefix="jobs-broker-")
    node = RabbitMQNode(Path(directory.name))
    atexit.register(directory.cleanup)
    atexit.register(node.close)  # before that
    node.start()
    return node


@contextlib.contextmanager
def postgres(directory: Path) -> Iterator[Running]:
    """Make a database on the server that all measurements of this process share, and drop it in the end."""
    with _first:
        server = _postgres()
    database = f"bench{next(_numbers)}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_statements_reset()")
        connection.execute("CHECKPOINT")  # what an earlier measurement wrote does not burden this one
        connection.execute(f"CREATE DATABASE {database}")
    try:
        yield Running(server.url_of(server.user, database), server.directory)
    finally:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {database} WITH (FORCE)")


@functools.cache
def _postgres() -> PostgresServer:
    """Start a server with its defaults, so with fsync, but for more memory, room for connections and counts of statements."""
    server = PostgresServer(
        "-c", "shared_buffers=1GB", "-c", "max_wal_size=8GB", "-c", "max_connections=200",
        "-c", "shared_preload_libraries=pg_stat_statements",
    )  # fmt: skip
    server.__enter__()
    atexit.register(server.__exit__)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
    return server


_numbers = itertools.count()
_first = threading.Lock()
"""Held while a shared server starts."""

BROKERS: dict[str, Broker] = {"redis": redis, "rabbitmq": rabbitmq, "postgres": postgres}
