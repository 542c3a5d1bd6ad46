"""Backends on the RabbitMQ node of the test run, and a Redis and a PostgreSQL for results beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs_core.backends.base import BackendOptions
from jobs_core.ids import new_token
from jobs_core.testing.services.postgres import PostgresServer
from jobs_core.testing.services.redis import RedisServer
from jobs_rabbitmq import _create

from .helpers import TOPIC


@pytest.fixture(scope="session")
def results_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("results")) as server:
        yield server


@pytest.fixture
def redis_url(results_redis: RedisServer) -> str:
    return f"redis://127.0.0.1:{results_redis.port}/0?prefix=test-{new_token()}"


@pytest.fixture(scope="session")
def results_postgres() -> Iterator[PostgresServer]:
    with PostgresServer("-c", "fsync=off") as server:
        yield server


@pytest.fixture
def postgres_url(results_postgres: PostgresServer) -> str:
    return f"{results_postgres.url}?schema=test_{new_token(6).lower().replace('-', '_')}"


@pytest.fixture
def connect(rabbitmq_url):
    opened = []

    def connected(owner=None, url=rabbitmq_url):
        backend = _create(url, BackendOptions(topics=(TOPIC,)))
        backend.open(owner)
        opened.append(backend)
        return backend

    yield connected
    for backend in opened:
        backend.close()
