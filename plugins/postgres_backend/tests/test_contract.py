"""PostgreSQL keeps the contract, by the server's own clock."""

from __future__ import annotations

import pytest
from tests.support.proxy import Proxy

from jobs_core.ids import new_token
from jobs_core.testing import BackendContract
from jobs_core.testing.contract.rig import Outage
from jobs_core.testing.services import free_port


class TestPostgres(BackendContract):
    @pytest.fixture
    def backend_url(self, postgres_url):
        return postgres_url

    @pytest.fixture
    def shared_url(self, postgres_server):
        return f"{postgres_server.url}"

    @pytest.fixture
    def outage(self, postgres_server, schema):
        with Proxy(postgres_server.port) as proxy:
            url = f"postgresql://jobs@127.0.0.1:{proxy.port}/postgres?schema={schema}"
            yield Outage(url, proxy.refuse, proxy.accept)

    @pytest.fixture
    def unreachable_url(self):
        return f"postgresql://jobs@127.0.0.1:{free_port()}/postgres?schema=test_{new_token(4).lower()}"
