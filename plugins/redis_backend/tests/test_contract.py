"""Redis keeps the contract: on the server's clock unchanged, and against the model on one that is moved."""

import pytest

from jobs_core.testing import BackendContract


class TestRedis(BackendContract):
    @pytest.fixture
    def backend_url(self, redis_url):
        return redis_url
