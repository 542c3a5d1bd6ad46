"""The servers that peers share: each private, on a free port, in a directory of its own, ended after the measurement."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from jobs_core.testing.services.rabbitmq import RabbitMQNode
from jobs_core.testing.services.redis import RedisServer

Broker = Callable[[Path], AbstractContextManager[str]]
"""Given a directory, the URL of a server that runs while the context lasts."""


@contextlib.contextmanager
def redis(directory: Path) -> Iterator[str]:
    """Append-only file, synced every second: what a careful operator runs, and the same for everybody."""
    with RedisServer(directory / "redis", "--appendfsync", "everysec") as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@contextlib.contextmanager
def rabbitmq(directory: Path) -> Iterator[str]:
    """A node as it comes; it boots for five seconds, which nobody is charged for."""
    with RabbitMQNode(directory) as node:
        yield node.url("%2F")


BROKERS: dict[str, Broker] = {"redis": redis, "rabbitmq": rabbitmq}
