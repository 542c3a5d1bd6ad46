"""PostgreSQL keeps the contract, by the server's own clock."""

from __future__ import annotations

import psycopg
import pytest
from tests.support.proxy import Proxy

from jobs_core.backends.base import Outgoing
from jobs_core.ids import new_id, new_token
from jobs_core.testing import BackendContract
from jobs_core.testing.contract.fairness import Fairness
from jobs_core.testing.contract.limits import LimitCases
from jobs_core.testing.contract.rig import ManualClock, Outage, Rig
from jobs_core.testing.contract.statistics import StatisticsCases
from jobs_core.testing.contract.together import Togetherness
from jobs_core.testing.services import free_port

from .emptied import EmptiedStore


@pytest.fixture(scope="module")
def store(postgres_server):
    store = EmptiedStore(postgres_server)
    yield store
    store.close()


@pytest.fixture(scope="module")
def store_with_a_clock(postgres_server):
    store = EmptiedStore(postgres_server, lambda schema: ServerClock.install(postgres_server.url, schema))
    yield store
    store.close()


class TestPostgres(BackendContract):
    waits_for_minutes = False

    @pytest.fixture
    def schema(self, store):
        return store.take()

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


class ServerClock(ManualClock):
    """A clock that stands still in the database, where the store reads it."""

    def __init__(self, url: str, schema: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._schema = schema

    @classmethod
    def install(cls, url: str, schema: str) -> None:
        """Let the store in this schema read the clock."""
        clock = cls(url, schema)
        clock._run("CREATE TABLE {}.clock (time double precision)")
        clock._run("INSERT INTO {}.clock VALUES (1800000000)")
        body = "LANGUAGE sql VOLATILE AS $$ SELECT time FROM {}.clock $$"
        clock._run("CREATE OR REPLACE FUNCTION {}.now_() RETURNS double precision " + body)
        clock.close()

    def _run(self, statement: str, *parameters: float) -> psycopg.Cursor[tuple[float]]:
        return self._connection.execute(statement.replace("{}", f'"{self._schema}"').encode(), parameters)

    @property
    def time(self) -> float:
        (found,) = self._run("SELECT time FROM {}.clock").fetchall()
        return found[0]

    @time.setter
    def time(self, value: float) -> None:
        self._run("UPDATE {}.clock SET time = %s", value)

    def close(self) -> None:
        self._connection.close()


class TestPostgresByAMovableClock(LimitCases, Fairness, Togetherness, StatisticsCases):
    """What limits, turns and statistics promise about times that are too long to wait for."""

    takes_clock = True

    @pytest.fixture
    def schema(self, store_with_a_clock):
        return store_with_a_clock.take()

    @pytest.fixture
    def backend_url(self, postgres_url):
        return postgres_url

    @pytest.fixture
    def rig(self, backend_url, postgres_server, schema):
        clock = ServerClock(postgres_server.url, schema)
        rig = Rig(backend_url, clock)
        yield rig
        rig.close()
        clock.close()

    def test_a_single_job_follows_the_clock_like_others(self, rig):
        rig.producer().push([Outgoing(new_id(), "t", b"{}", delay=5.0)], rig.request())
        counts = rig.producer().counts(["t"])["t"]
        assert (counts.ready, counts.scheduled) == (0, 1)
