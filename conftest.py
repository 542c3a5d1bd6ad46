"""One RabbitMQ node for the whole run, whoever asks for it: it boots for seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs_core.testing.services.rabbitmq import RabbitMQNode

VHOSTS_AT_ONCE = 50


@pytest.fixture(scope="session")
def rabbitmq_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQNode]:
    with RabbitMQNode(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


@pytest.fixture(scope="session")
def _vhosts(rabbitmq_node: RabbitMQNode) -> list[str]:
    return []


@pytest.fixture
def rabbitmq_url(rabbitmq_node: RabbitMQNode, _vhosts: list[str]) -> str:
    """An empty virtual host of its own."""
    if not _vhosts:
        _vhosts += rabbitmq_node.make_vhosts(VHOSTS_AT_ONCE)
    return rabbitmq_node.url(_vhosts.pop())
