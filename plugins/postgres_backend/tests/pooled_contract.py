"""The whole contract through a pgbouncer that pools transactions: `make contract-pgbouncer`."""

from __future__ import annotations

import pytest
from tests.support.proxy import Proxy

from jobs_core.ids import new_token
from jobs_core.testing import BackendContract
from jobs_core.testing.contract.rig import Outage
from jobs_core.testing.services import free_port
from jobs_core.testing.services.pgbouncer import PgBouncer


@pytest.fixture(scope="module")
def bouncer(postgres_server):
    with PgBouncer(postgres_server, connections=3) as bouncer:
        yield bouncer


class TestPostgresThroughPgBouncer(BackendContract):
    @pytest.fixture
    def backend_url(self, bouncer, schema):
        return f"{bouncer.url}?schema={schema}&pooling=transaction"

    @pytest.fixture
    def shared_url(self, bouncer):
        return f"{bouncer.url}?pooling=transaction"

    @pytest.fixture
    def outage(self, bouncer, schema):
        with Proxy(bouncer.port) as proxy:
            url = f"postgresql://jobs@127.0.0.1:{proxy.port}/postgres?schema={schema}&pooling=transaction"
            yield Outage(url, proxy.refuse, proxy.accept)

    @pytest.fixture
    def unreachable_url(self):
        return f"postgresql://jobs@127.0.0.1:{free_port()}/postgres?schema=test_{new_token(4).lower()}&pooling=transaction"
