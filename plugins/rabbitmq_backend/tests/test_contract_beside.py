"""The contract on RabbitMQ with results in SQLite beside it, without order, waiting and concurrency, in which the store
beside it has no part; and with Redis, the cases that the store is for.

The whole contract with both stores, and on classic queues, is in whole_contract.py, `make contract-rabbitmq`.
"""

import pytest

from jobs_core.testing.contract.checkpoints import Checkpoints
from jobs_core.testing.contract.crashes import Crashes
from jobs_core.testing.contract.documents import DocumentCases
from jobs_core.testing.contract.leases import Leases
from jobs_core.testing.contract.leaving import Leaving
from jobs_core.testing.contract.machine import Machine
from jobs_core.testing.contract.operators import Operators
from jobs_core.testing.contract.pushing import Pushing
from jobs_core.testing.contract.settling import Settling
from jobs_core.testing.contract.statistics import StatisticsCases
from jobs_core.testing.contract.trouble import Trouble
from jobs_core.testing.contract.uniqueness import Uniqueness

from .helpers import OnRabbitMQ


class TestSqliteBeside(
    OnRabbitMQ, Pushing, Settling, Checkpoints, Uniqueness, Leases, Leaving, Operators, Crashes, Trouble, Machine,
    DocumentCases, StatisticsCases,
):  # fmt: skip
    @pytest.fixture
    def results_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/results.db"


class TestRedisBeside(OnRabbitMQ, Operators, Checkpoints, Uniqueness, DocumentCases):
    @pytest.fixture
    def results_url(self, redis_url):
        return redis_url
