"""A Redis for results, beside the RabbitMQ node of the run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs_core.ids import new_token
from jobs_core.testing.services.redis import RedisServer


@pytest.fixture(scope="session")
def results_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("results")) as server:
        yield server


@pytest.fixture
def redis_url(results_redis: RedisServer) -> str:
    return f"redis://127.0.0.1:{results_redis.port}/0?prefix=test-{new_token()}"
