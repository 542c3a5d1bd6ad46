"""On redis-py's own connection, without anything of ours beneath a command, the backend keeps what it promises."""

import importlib.util

import pytest
from tests.support.proxy import Proxy

from jobs_core.ids import new_token
from jobs_core.testing.contract.pushing import Pushing
from jobs_core.testing.contract.rig import Outage
from jobs_core.testing.contract.settling import Settling
from jobs_core.testing.contract.trouble import Trouble
from jobs_core.testing.contract.waking import Waking
from jobs_core.testing.services import free_port
from jobs_redis import transport


@pytest.fixture(scope="class")
def library():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOBS_TRANSPORT", "library")
        assert transport.use_library()
        yield


@pytest.mark.usefixtures("library")
class TestOnTheClientsOwn(Pushing, Settling, Waking, Trouble):
    """The way of a job, and what may go wrong on it."""

    @pytest.fixture
    def backend_url(self, redis_url):
        return redis_url

    @pytest.fixture
    def shared_url(self, redis_url):
        return redis_url.partition("?")[0]

    @pytest.fixture
    def outage(self, redis_server):
        with Proxy(redis_server.port) as proxy:
            yield Outage(f"redis://127.0.0.1:{proxy.port}/0?prefix=test-{new_token()}", proxy.refuse, proxy.accept)

    @pytest.fixture
    def unreachable_url(self):
        return f"redis://127.0.0.1:{free_port()}/0"


def test_without_hiredis_the_clients_own_serves(monkeypatch):
    monkeypatch.delenv("JOBS_TRANSPORT", raising=False)
    assert not transport.use_library()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert transport.use_library()
