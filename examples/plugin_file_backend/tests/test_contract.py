"""The whole contract: pushes, order, leases, crashes at every boundary, processes, outages."""

import pytest

from jobs_core.testing import BackendContract


class TestContract(BackendContract):
    takes_clock = True

    @pytest.fixture
    def backend_url(self, tmp_path):
        return f"file://{tmp_path}/queue"
