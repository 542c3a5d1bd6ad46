"""The whole contract with brokers as separate processes: `make contract-zeromq`."""

import os
import signal
import subprocess
import sys

import pytest

from jobs_core.testing import BackendContract
from jobs_core.testing.contract.rig import Rig
from jobs_core.testing.services import PATIENCE, free_port, until
from jobs_core.testing.services.broker import BrokerService

from .test_killed import DEATHS


class TestBrokerOfItsOwn(BackendContract):
    """`jobsctl broker` as a process, over TCP."""

    @pytest.fixture
    def backend_url(self, service):
        service.revive()
        yield service.url
        assert service.stop() == 0


class TestBrokerOverASocket(BackendContract):
    """The same over a socket in the file system."""

    @pytest.fixture
    def backend_url(self, tmp_path):
        service = BrokerService(tmp_path / "b", backend=f"zmq+ipc://{tmp_path}/b/s/broker.sock")
        service.revive()
        yield service.url
        assert service.stop() == 0


class TestBrokerThatIsKilled(BackendContract):
    """SIGKILL between commit and confirm."""

    @pytest.fixture
    def backend_url(self, service, patient):
        service.revive(DEATHS)
        return service.url


class TestEmbeddedBrokerThatIsKilled(BackendContract):
    """`jobsctl start` with `[broker] embedded = true`.

    Every broker dies at its 100th commit, before it confirms it, and the supervisor starts the next. The supervisor's own
    workers serve a topic that no case uses.
    """

    @pytest.fixture
    def backend_url(self, tmp_path, patient):
        directory = tmp_path / "embedding"
        directory.mkdir()
        url = f"zmq+tcp://127.0.0.1:{free_port()}"
        toml = f'backend = "{url}"\nbroker.embedded = true\npools.default.topics = ["nobody.s"]\n'
        (directory / "jobs.toml").write_text(toml)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("JOBS_")}
        log = directory / "log"
        with log.open("wb") as output:
            supervisor = subprocess.Popen(
                [sys.executable, "-m", "jobs_core", "start"],
                cwd=directory,
                env={**kept, "JOBS_FAILPOINT": "broker.after_commit=kill@100"},
                stdout=output,
                stderr=output,
            )
        until(lambda: " ready: " in log.read_text(), supervisor, log)
        yield url
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(PATIENCE) == 0

    @pytest.fixture
    def rig(self, backend_url):
        rig = Rig(backend_url, None)
        rig.lease = 5.0  # the supervisor does housekeeping too: no case may be silent for longer
        yield rig
        rig.close()
