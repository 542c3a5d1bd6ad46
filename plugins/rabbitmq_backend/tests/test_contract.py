"""RabbitMQ keeps the contract; a store beside it keeps what the contract says of results, status, cancelling and keys.

The whole contract on pairs and on classic queues is in whole_contract.py, `make contract-rabbitmq`.
"""

import pytest

from jobs_core.testing import BackendContract
from jobs_core.testing.contract.operators import Operators
from jobs_core.testing.contract.uniqueness import Uniqueness


class TestRabbitMQ(BackendContract):
    hands_out_at_once = True

    @pytest.fixture
    def backend_url(self, rabbitmq_url):
        return rabbitmq_url


class _Beside(Operators, Uniqueness):
    hands_out_at_once = True

    @pytest.fixture
    def backend_url(self, rabbitmq_url):
        return rabbitmq_url


class TestSqliteBeside(_Beside):
    @pytest.fixture
    def results_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/results.db"


class TestRedisBeside(_Beside):
    @pytest.fixture
    def results_url(self, redis_url):
        return redis_url
