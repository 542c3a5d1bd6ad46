"""Fixtures for the fault tests of the brokers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from jobs_core.backends.base import BackendOptions
from jobs_core.testing.services.broker import BrokerService
from jobs_core.testing.services.rabbitmq import RabbitMQNode
from jobs_core.testing.services.redis import RedisServer
from jobs_zeromq.backend import ZeromqBackend

from ..support.project import Project


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A private Redis server."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def node(rabbitmq_node: RabbitMQNode) -> Iterator[RabbitMQNode]:
    """The node of the test run, which has to serve when the test is over."""
    yield rabbitmq_node
    assert rabbitmq_node.serves()


@pytest.fixture
def rabbit_project(project: Project, rabbitmq_url: str) -> Project:
    """A project whose jobs are in its own virtual host."""
    project.configure(backend=f'backend = "{rabbitmq_url}"')
    return project


@pytest.fixture
def channel(rabbitmq_url: str) -> Iterator[BlockingChannel]:
    """A channel of a bare pika client, on the project's virtual host."""
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerService]:
    """A private ZeroMQ broker."""
    service = BrokerService(tmp_path / "broker")
    service.start()
    yield service
    service.stop()


@pytest.fixture
def broker_project(project: Project, broker: BrokerService) -> Project:
    """A project on that broker, with a lease of one second."""
    project.configure('lease = "1s"', backend=f'backend = "{broker.url}"')
    return project


@pytest.fixture
def connect() -> Iterator[Callable[..., ZeromqBackend]]:
    """Return a function that opens bare connections: `connect(url, owner=None)`."""
    opened: list[ZeromqBackend] = []

    def connected(url: str, owner: str | None = None) -> ZeromqBackend:
        backend = ZeromqBackend(url, BackendOptions())
        backend.open(owner)
        opened.append(backend)
        return backend

    yield connected
    for backend in opened:
        backend.close()
