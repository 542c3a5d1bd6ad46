"""The servers that peers share: each private, on a free port, in its own directory, and ended after the measurement."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from jobs_core.testing.services.rabbitmq import RabbitMQNode
from jobs_core.testing.services.redis import RedisServer

Broker = Callable[[Path], AbstractContextManager[str]]
"""Takes a directory; yields the URL of a server that runs inside the context."""


@contextlib.contextmanager
def redis(directory: Path) -> Iterator[str]:
    """Run Redis with an append-only file that is synced every second: as careful operators do, and the same for every peer."""
    with RedisServer(directory / "redis", "--appendfsync", "everysec") as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@contextlib.contextmanager
def rabbitmq(directory: Path) -> Iterator[str]:
    """Run a RabbitMQ node with its defaults; its boot of five seconds is not measured."""
    with RabbitMQNode(directory) as node:
        yield node.url("%2F")


BROKERS: dict[str, Broker] = {"redis": redis, "rabbitmq": rabbitmq}
