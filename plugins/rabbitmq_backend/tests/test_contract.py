"""RabbitMQ keeps the contract, on quorum queues and on classic ones."""

import pytest

from jobs_core.testing import BackendContract


class TestRabbitMQ(BackendContract):
    hands_out_at_once = True

    @pytest.fixture
    def backend_url(self, rabbitmq_url):
        return rabbitmq_url
