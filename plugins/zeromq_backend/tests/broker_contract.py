"""The whole contract again with brokers as processes of their own: `make contract-zeromq`."""

import pytest

from jobs_core.testing import BackendContract

from .test_contract import DEATHS


class TestBrokerOfItsOwn(BackendContract):
    """`jobsctl broker` as a process, over TCP."""

    @pytest.fixture
    def backend_url(self, service):
        service.start()
        yield service.url
        assert service.stop() == 0


class TestBrokerOverASocket(BackendContract):
    """The same over a socket in the file system."""

    @pytest.fixture
    def backend_url(self, tmp_path):
        from jobs_core.testing.services.broker import BrokerService

        service = BrokerService(tmp_path / "b", backend=f"zmq+ipc://{tmp_path}/b/s/broker.sock")
        service.start()
        yield service.url
        assert service.stop() == 0


class TestBrokerThatIsKilled(BackendContract):
    """SIGKILL between commit and confirm."""

    @pytest.fixture
    def backend_url(self, service):
        service.revive(DEATHS)
        return service.url
