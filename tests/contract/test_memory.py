"""The memory backend keeps the contract, of which it is the model."""

import pytest

from jobs_core.backends.memory import forget
from jobs_core.testing import BackendContract


class TestMemory(BackendContract):
    takes_clock = True

    @pytest.fixture
    def backend_url(self):
        forget("memory://contract")
        return "memory://contract"
