"""The ZeroMQ backend keeps the contract, also when its broker dies between commit and confirm.

The whole contract with a broker by SIGKILL, separate and embedded, is broker_contract.py: `make contract-zeromq`.
"""

import pytest

from jobs_core.testing import BackendContract
from jobs_core.testing.contract.rig import ManualClock, Rig
from jobs_core.testing.contract.settling import Settling

CHANGES = ("cancel", "discard", "drop", "pause", "purge", "release", "requeue", "resume")


def killed_after(*requests):
    """Fail points at which a broker dies: the first of each of these requests is committed, and not confirmed."""
    return ",".join(f"broker.{name}.after_commit=kill" for name in requests)


DEATHS = [killed_after("push"), killed_after("reserve", *CHANGES), killed_after("settle", "close")]
"""After a case's first push, after its first reserve or change, after its first settlement; the next broker stays."""


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


class TestBrokerThatIsKilled(Settling):
    """A broker of its own, over TCP, and SIGKILL between commit and confirm. Nobody but the broker's log can tell."""

    @pytest.fixture
    def backend_url(self, service, patient):
        service.revive(DEATHS)
        return service.url
