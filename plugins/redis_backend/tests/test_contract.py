"""Redis keeps the contract, on one server and on a cluster, by the servers' own clocks."""

import pytest

from jobs_core.testing import BackendContract


class TestRedis(BackendContract):
    @pytest.fixture
    def backend_url(self, redis_url):
        return redis_url


class TestRedisCluster(BackendContract):
    """On three masters, without the features that a cluster drops."""

    hands_out_at_once = True

    @pytest.fixture
    def backend_url(self, redis_cluster_url):
        return redis_cluster_url
