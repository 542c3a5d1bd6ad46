"""Redis Cluster and the contract: `make cluster`, until a run that failed on a busy machine is understood.

In that run every case from the model test on met BackendUnavailable; the same cases passed alone.
"""

import pytest

from jobs_core.testing import BackendContract


class TestRedisCluster(BackendContract):
    """On three masters, without the features that a cluster drops."""

    hands_out_at_once = True

    @pytest.fixture
    def backend_url(self, redis_cluster_url):
        return redis_cluster_url
