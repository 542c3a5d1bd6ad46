"""One server for the whole test run, with its own prefix for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs_core.ids import new_token
from jobs_core.testing.services.redis import RedisServer, cluster, urls


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def small_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server whose memory is full after a few thousand jobs."""
    with RedisServer(tmp_path_factory.mktemp("small"), "--maxmemory", "6mb", "--maxmemory-policy", "noeviction") as server:
        yield server


@pytest.fixture
def small_url(small_redis_server: RedisServer) -> str:
    """The small server, empty: a test that filled it leaves it full for the next one of this process."""
    small_redis_server.command("FLUSHALL")
    return f"redis://127.0.0.1:{small_redis_server.port}/0?prefix=test-{new_token()}"


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    return f"redis://127.0.0.1:{redis_server.port}/0?prefix=test-{new_token()}"


@pytest.fixture
def redis_directory(tmp_path: Path) -> Path:
    return tmp_path / "redis"


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    nodes = cluster(tmp_path_factory.mktemp("cluster"))
    for node in nodes:  # none is down because a busy machine stands still
        assert node.command("CONFIG", "SET", "cluster-node-timeout", "60000") == b"+OK"
    yield nodes
    for node in nodes:
        node.kill()


@pytest.fixture
def redis_cluster_url(redis_cluster: list[RedisServer]) -> str:
    return f"redis+cluster://{urls(redis_cluster)}?prefix=test-{new_token()}"
