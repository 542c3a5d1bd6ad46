"""The ZeroMQ backend keeps the contract, whatever happens to its broker meanwhile."""

import pytest

from jobs_core.testing import BackendContract
from jobs_core.testing.contract.rig import ManualClock, Rig
from jobs_core.testing.services.broker import BrokerService


class TestOnAClockThatIsMoved(BackendContract):
    """Answers equal the model's to the letter, in whatever order Hypothesis asks."""

    takes_clock = True

    @pytest.fixture
    def backend_url(self, in_process):
        return in_process.url

    @pytest.fixture
    def rig(self, backend_url, borrowed_clock):
        borrowed_clock.clock = ManualClock()
        rig = Rig(backend_url, borrowed_clock.clock)
        yield rig
        rig.close()


class TestBrokerOfItsOwn(BackendContract):
    """`jobs broker` as a process, over TCP."""

    @pytest.fixture
    def backend_url(self, tmp_path):
        service = BrokerService(tmp_path)
        service.start()
        yield service.url
        assert service.stop() == 0
