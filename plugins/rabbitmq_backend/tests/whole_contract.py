"""The whole contract on what is not the default: pairs with a store of results, and classic queues."""

import pytest

from jobs_core.testing import BackendContract


class TestSqliteBeside(BackendContract):
    hands_out_at_once = True

    @pytest.fixture
    def backend_url(self, rabbitmq_url):
        return rabbitmq_url

    @pytest.fixture
    def results_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/results.db"


class TestRedisBeside(BackendContract):
    hands_out_at_once = True

    @pytest.fixture
    def backend_url(self, rabbitmq_url):
        return rabbitmq_url

    @pytest.fixture
    def results_url(self, redis_url):
        return redis_url


class TestClassicQueues(BackendContract):
    hands_out_at_once = True

    @pytest.fixture
    def backend_url(self, rabbitmq_url):
        return f"{rabbitmq_url}?queues=classic"
