"""The whole contract on RabbitMQ with results in SQLite beside it, and with Redis what the store beside it is for.

The whole of it with Redis, and on classic queues, is in whole_contract.py, `make contract-rabbitmq`.
"""

import pytest

from jobs_core.testing import BackendContract
from jobs_core.testing.contract.operators import Operators
from jobs_core.testing.contract.uniqueness import Uniqueness

from .helpers import OnRabbitMQ


class TestSqliteBeside(OnRabbitMQ, BackendContract):
    @pytest.fixture
    def results_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/results.db"


class TestRedisBeside(OnRabbitMQ, Operators, Uniqueness):
    @pytest.fixture
    def results_url(self, redis_url):
        return redis_url
