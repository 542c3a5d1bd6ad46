"""The parts of the contract that `make test` leaves out: with results beside the queue, and on classic queues."""

import pytest

from jobs_core.testing import BackendContract

from .helpers import OnRabbitMQ


class TestSqliteBeside(OnRabbitMQ, BackendContract):
    @pytest.fixture
    def results_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/results.db"


class TestRedisBeside(OnRabbitMQ, BackendContract):
    @pytest.fixture
    def results_url(self, redis_url):
        return redis_url


class TestPostgresBeside(OnRabbitMQ, BackendContract):
    @pytest.fixture
    def results_url(self, postgres_url):
        return postgres_url


class TestClassicQueues(OnRabbitMQ, BackendContract):
    @pytest.fixture
    def backend_url(self, rabbitmq_url):
        return f"{rabbitmq_url}?queues=classic"
