"""Fixtures for the fault tests of RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from jobs_core.testing.services.rabbitmq import RabbitMQNode

from ..support.project import Project


@pytest.fixture
def node(rabbitmq_node: RabbitMQNode) -> Iterator[RabbitMQNode]:
    """The run's node, which has to serve when the test is over."""
    yield rabbitmq_node
    assert rabbitmq_node.serves()


@pytest.fixture
def rabbit_project(project: Project, rabbitmq_url: str) -> Project:
    """A project whose jobs wait in a virtual host of its own."""
    project.configure(backend=f'backend = "{rabbitmq_url}"')
    return project


@pytest.fixture
def channel(rabbitmq_url: str) -> Iterator[BlockingChannel]:
    """A bare client of pika's own, on the project's virtual host."""
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
