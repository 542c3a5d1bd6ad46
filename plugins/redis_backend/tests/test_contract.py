"""Redis keeps the contract, on one server and on a cluster, by the servers' own clocks."""

import pytest
from tests.support.proxy import Proxy

from jobs_core.ids import new_token
from jobs_core.testing import BackendContract
from jobs_core.testing.contract import stores
from jobs_core.testing.contract.rig import Outage, Rig, T
from jobs_core.testing.contract.statistics import StatisticsCases
from jobs_core.testing.services import free_port


class TestRedis(BackendContract):
    waits_for_minutes = False

    @pytest.fixture
    def backend_url(self, redis_url):
        return redis_url

    @pytest.fixture
    def shared_url(self, redis_url):
        return redis_url.partition("?")[0]

    @pytest.fixture
    def outage(self, redis_server):
        with Proxy(redis_server.port) as proxy:
            yield Outage(f"redis://127.0.0.1:{proxy.port}/0?prefix=test-{new_token()}", proxy.refuse, proxy.accept)

    @pytest.fixture
    def unreachable_url(self):
        return f"redis://127.0.0.1:{free_port()}/0"


class TestRedisByAMovableClock(StatisticsCases):
    """What statistics promise about times that are too long to wait for."""

    takes_clock = True

    @pytest.fixture
    def backend_url(self, redis_url):
        return redis_url


class TestRedisClusterByAMovableClock(StatisticsCases):
    takes_clock = hands_out_at_once = True

    @pytest.fixture
    def backend_url(self, redis_cluster_url):
        return redis_cluster_url


class TestRedisCluster(BackendContract):
    """On three masters, without the features that a cluster lacks."""

    waits_for_minutes = False
    hands_out_at_once = True

    @pytest.fixture
    def backend_url(self, redis_cluster_url):
        return redis_cluster_url

    @pytest.fixture
    def shared_url(self, redis_cluster_url):
        return redis_cluster_url.partition("?")[0]


def test_a_store_that_a_person_gives_is_as_new_for_every_case(redis_url):
    """`jobsctl contract redis://…`: wake-ups of deleted jobs are deleted with them."""
    store = Rig(redis_url, None)
    try:
        store.push_many(store.producer(), 3)
    finally:
        store.close()
    fresh = Rig(stores.fresh(redis_url), None)
    try:
        assert fresh.worker().wait([T], 0.05) is False
    finally:
        fresh.close()
