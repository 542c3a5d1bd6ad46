"""The ZeroMQ backend keeps the contract, also when its broker dies between commit and confirm: here in the test's own process.

With real brokers and SIGKILL: test_killed.py, and the whole contract with brokers of every kind, `make contract-zeromq`.
"""

import pytest

from jobs_core.testing import BackendContract
from jobs_core.testing.contract.rig import ManualClock, Rig


class TestOnAClockThatIsMoved(BackendContract):
    """Answers equal the model's to the letter, in whatever order Hypothesis asks, and though the broker dies often."""

    takes_clock = True

    @pytest.fixture
    def backend_url(self, dies_often, in_process):
        return in_process.url

    @pytest.fixture
    def rig(self, backend_url, borrowed_clock):
        borrowed_clock.clock = ManualClock()
        rig = Rig(backend_url, borrowed_clock.clock)
        yield rig
        rig.close()
