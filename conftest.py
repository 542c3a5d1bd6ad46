"""What holds for all tests, of the core and of plugins: Hypothesis on a busy machine, and one RabbitMQ node for the run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from jobs_core.testing.services.rabbitmq import RabbitMQNode

settings.register_profile("jobs", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("jobs")

VHOSTS_AT_ONCE = 30


@pytest.fixture(scope="session")
def rabbitmq_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQNode]:
    """A node boots for seconds: whoever asks for one gets this."""
    with RabbitMQNode(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


@pytest.fixture(scope="session")
def _vhosts(rabbitmq_node: RabbitMQNode) -> Iterator[str]:
    """New virtual hosts, made so many at a time, those that were used being deleted."""

    def fresh() -> Iterator[str]:
        used: list[str] = []
        while True:
            made = rabbitmq_node.make_vhosts(VHOSTS_AT_ONCE, instead_of=used)
            yield from made
            used = made

    return fresh()


@pytest.fixture
def rabbitmq_url(rabbitmq_node: RabbitMQNode, _vhosts: Iterator[str]) -> str:
    """An empty virtual host of its own."""
    return rabbitmq_node.url(next(_vhosts))
