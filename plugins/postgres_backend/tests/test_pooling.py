"""Behind a proxy that pools transactions: `?pooling=transaction`."""

from __future__ import annotations

import contextlib

import psycopg
import pytest
from tests.support.project import Project, until

from jobs_core import App, Config, job
from jobs_core.backends.base import BackendOptions, State
from jobs_core.errors import BackendError
from jobs_core.registry import Registry
from jobs_core.testing.contract.settling import Settling
from jobs_core.testing.contract.waiting import Waiting
from jobs_core.testing.contract.waking import Waking
from jobs_core.testing.services.pgbouncer import PgBouncer
from jobs_postgres import outbox
from jobs_postgres.advice import advice
from jobs_postgres.backend import PostgresBackend
from jobs_postgres.connection import ServerConnection
from jobs_postgres.outbox import PostgresOutbox
from jobs_postgres.url import parse

registry = Registry()


@job(registry=registry, name="tasks.note")
def note(text: str) -> None: ...


@pytest.fixture(scope="module")
def bouncer(postgres_server):
    with PgBouncer(postgres_server, connections=3) as bouncer:
        yield bouncer


@pytest.fixture
def pooled_url(bouncer, schema):
    return f"{bouncer.url}?schema={schema}&pooling=transaction"


class TestPostgresThroughPgBouncer(Settling, Waiting, Waking):
    """What notifications and prepared statements are for; `make contract-pgbouncer` runs the whole contract."""

    @pytest.fixture
    def backend_url(self, pooled_url):
        return pooled_url


def advised(url):
    connection = ServerConnection(parse(url, "jobs"))
    connection.connect()
    try:
        return [line for line in advice(parse(url, "jobs"), connection) if "pool" in line]
    finally:
        connection.disconnect()


def test_an_idle_worker_looks_once_a_second(bouncer, pooled_url):
    backend = PostgresBackend(parse(pooled_url, "jobs"), BackendOptions())
    backend.open("worker")
    assert not backend.wait(["default"], 2.0), "looks less and less often"
    before = bouncer.statements()
    assert not backend.wait(["default"], 4.0)
    assert bouncer.statements() - before <= 5
    backend.close()


def test_no_session_is_left_on_the_server(bouncer, pooled_url):
    app = App(Config(backend=pooled_url), registry=registry)
    for n in range(10):
        app.enqueue(note.call(str(n)))
    with psycopg.connect(bouncer.url, prepare_threshold=None) as connection:
        for table in ("pg_prepared_statements", "pg_listening_channels()"):
            assert connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (0,)
    app.close()


def test_jobs_are_enqueued_in_transactions_through_the_proxy_and_wake_workers_that_are_not_behind_it(
    bouncer, pooled_url, postgres_url, monkeypatch
):
    monkeypatch.setattr("jobs_postgres.backend.LONGEST_SLEEP", 3600.0)
    app = App(Config(backend=pooled_url), registry=registry)
    worker = PostgresBackend(parse(postgres_url, "jobs"), BackendOptions())
    worker.open("worker")
    with contextlib.closing(psycopg.connect(bouncer.url, prepare_threshold=None)) as connection:
        gone = app.enqueue(note.using(transaction=connection).call("gone"))
        connection.rollback()
        kept = app.enqueue(note.using(transaction=connection).call("kept"))
        connection.commit()
    assert worker.wait(["default"], 60.0)
    assert (gone.status(), kept.status()) == (State.UNKNOWN, State.READY)
    worker.close()
    app.close()


# -- what `jobsctl check` says ---------------------------------------------------------------------


def test_check_finds_a_proxy_that_pools_transactions_unless_the_url_says_so(bouncer, postgres_server, monkeypatch):
    assert advised(postgres_server.url) == []
    monkeypatch.setattr("jobs_postgres.advice.HEARS_WITHIN", 1.0)
    (line,) = advised(bouncer.url)
    assert "add ?pooling=transaction to the URL" in line
    assert advised(f"{bouncer.url}?pooling=transaction") == []
    (line,) = advised(f"{postgres_server.url}?pooling=transaction")
    assert "there is no proxy" in line


def test_check_accepts_a_proxy_that_pools_sessions(postgres_server):
    with PgBouncer(postgres_server, mode="session") as sessions:
        assert advised(sessions.url) == []


def test_check_shows_it_for_the_backend_and_for_an_outbox(tmp_path, bouncer, schema, monkeypatch):
    monkeypatch.setattr("jobs_postgres.advice.HEARS_WITHIN", 1.0)
    project = Project(tmp_path / "project")
    url = f"{bouncer.url}?schema={schema}"
    project.configure(f'[outbox]\nurl = "{url}"', backend=f'backend = "{url}"')
    said = project.here("check", code=None)
    assert said.count("add ?pooling=transaction to the URL") == 2, said
    project.close()


def test_a_prepared_statement_that_a_proxy_has_lost_is_explained(postgres_url):
    connection = ServerConnection(parse(postgres_url, "jobs"))
    connection.connect()
    with pytest.raises(BackendError, match=r"add \?pooling=transaction to the URL"):
        connection.rows("EXECUTE lost")
    connection.disconnect()


def test_another_kind_of_pooling_is_refused():
    with pytest.raises(BackendError, match="expected session or transaction"):
        parse("postgresql://localhost/shop?pooling=statement", "jobs")


# -- the carrier of an outbox ------------------------------------------------------------------------


def opened(url):
    made = PostgresOutbox(parse(url, "jobs"))
    made.open()
    return made


def test_one_carrier_works_at_a_time_on_both_sides_of_the_proxy(pooled_url, postgres_url, monkeypatch):
    monkeypatch.setattr(outbox, "LEASE", 600.0)
    one, other, direct = opened(pooled_url), opened(pooled_url), opened(postgres_url)
    assert one.lead()
    assert one.lead()
    assert not other.lead()
    assert not direct.lead()
    one.close()
    assert direct.lead(), "it has asked before"
    assert not other.lead()
    direct.close()
    until(other.lead)
    other.close()


def test_a_carrier_without_a_session_that_was_killed_is_replaced_when_its_lease_ends(pooled_url, monkeypatch):
    monkeypatch.setattr(outbox, "LEASE", 0.5)
    killed, other = opened(pooled_url), opened(pooled_url)
    assert killed.lead()
    monkeypatch.setattr(outbox, "LEASE", 600.0)
    until(other.lead)
    assert not killed.lead()
    for each in (killed, other):
        each.close()
