"""RabbitMQ keeps the contract; what it lacks is weaker, as `features` says. Pairs are in test_contract_beside.py."""

import pytest

from jobs_core.testing import BackendContract


class TestRabbitMQ(BackendContract):
    hands_out_at_once = True

    @pytest.fixture
    def backend_url(self, rabbitmq_url):
        return rabbitmq_url
