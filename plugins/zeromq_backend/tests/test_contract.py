"""The ZeroMQ backend keeps the contract, also when its broker dies between commit and confirm: here inside the test's
process.

With real brokers and SIGKILL: test_killed.py, and the whole contract with brokers of every kind, `make contract-zeromq`.
"""

from urllib.parse import urlsplit

import pytest
from tests.support.proxy import Proxy

from jobs_core.testing import BackendContract
from jobs_core.testing.contract.machine import EXAMPLES
from jobs_core.testing.contract.rig import ManualClock, Outage, Rig


class TestOnAClockThatIsMoved(BackendContract):
    """Answers equal the model's exactly, in whatever order Hypothesis asks, although the broker dies often."""

    takes_clock = loses_answers = True
    # Two thirds of the examples: each of thousands of requests wakes several threads in turn, which takes more than a
    # minute on a busy machine. SQLite's contract tries all of them on the same store.
    examples = EXAMPLES * 2 // 3

    @pytest.fixture
    def backend_url(self, dies_often, in_process):
        return in_process.url

    @pytest.fixture
    def outage(self, in_process):
        server = urlsplit(in_process.url)
        with Proxy(server.port) as proxy:
            yield Outage(f"zmq+tcp://127.0.0.1:{proxy.port}", proxy.refuse, proxy.accept)

    @pytest.fixture
    def rig(self, backend_url, borrowed_clock):
        borrowed_clock.clock = ManualClock()
        rig = Rig(backend_url, borrowed_clock.clock)
        yield rig
        rig.close()
