"""`jobsctl setup`: tables that somebody else creates, and roles with fewer permissions."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
from pathlib import Path

import psycopg
import pytest
from tests.support.project import Project, until

from jobs_core import App, Config, Flow, set_current_app
from jobs_core.backends.base import BackendOptions, State
from jobs_core.config import Outbox
from jobs_core.errors import BackendError, ResultTimeout
from jobs_core.job import job
from jobs_core.registry import Registry
from jobs_postgres.backend import PostgresBackend
from jobs_postgres.connection import SCHEMA_VERSION, ServerConnection
from jobs_postgres.url import parse

registry = Registry()


@job(registry=registry, name="tasks.note")
def note(text: str = "x") -> None: ...


@pytest.fixture
def project(tmp_path, postgres_url):
    made = Project(tmp_path / "project")
    made.configure(backend=f'backend = "{postgres_url}"')
    yield made
    made.close()


@pytest.fixture
def roles(postgres_server, schema):
    """A producer and a worker, without any right."""
    names = f"{schema}_web", f"{schema}-worker"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        for name in names:
            connection.execute(f'CREATE ROLE "{name}" LOGIN'.encode())
    yield names
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        for name in names:
            connection.execute(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"'.encode())


def test_a_start_that_waited_for_the_tables_of_another_one_changes_nothing(postgres_url):
    """The other one works already, and would wait for the locks of these statements, as they would for its."""
    first, second = ServerConnection(parse(postgres_url, "jobs")), ServerConnection(parse(postgres_url, "jobs"))
    first.connect()
    second.connect()
    waits = threading.Thread(target=second.prepare_store)
    again: list[str] = []

    def scripts() -> list[str]:
        again.append("scripts")
        return []

    second.scripts = scripts  # type: ignore[method-assign]
    asked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid = %s"

    def make() -> None:
        for statements in first.scripts():
            first.raw.execute(statements.encode())
        waits.start()
        until(lambda: first.value(asked, (second.raw.info.backend_pid,)))

    try:
        assert second.version() is None
        with first.raw.transaction():
            first.value("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"jobs setup {first.target.schema}",))
            make()
        waits.join()
        assert second.version() == first.version() == SCHEMA_VERSION
        assert not again
    finally:
        first.disconnect()
        second.disconnect()


@contextlib.contextmanager
def application(server, schema, role):
    app = App(Config(backend=f"{server.url_of(role, 'postgres')}?schema={schema}"), registry=registry)
    set_current_app(app)
    try:
        yield app
    finally:
        set_current_app(None)
        app.close()


def test_what_producers_without_rights_and_open_transactions_push_is_counted_and_nobody_waits(
    project, postgres_server, schema, roles
):
    producer, _ = roles
    text = project.here("setup", "--sql", "--producer", producer)
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(text.encode())
    reader = PostgresBackend(parse(f"{postgres_server.url}?schema={schema}", "jobs"), BackendOptions())
    reader.open(None)

    def counted():
        found = reader.counts(["default"])["default"]
        return found.pushed, found.refused

    url = postgres_server.url_of(producer, "postgres")
    with application(postgres_server, schema, producer) as app:
        with psycopg.connect(url) as one, psycopg.connect(url) as other:
            for connection in (one, other):
                app.enqueue(note.using(transaction=connection, unique=f"{id(connection)}").call("in a transaction"))
            app.enqueue_many([note.call(str(n)) for n in range(3)])
            reader.housekeep(10)
            assert counted() == (3, 0), "of open transactions nothing"
            one.rollback()
        assert counted() == (4, 0)
        app.enqueue(note.using(unique=f"{id(other)}").call("again"))
        with Flow() as flow:
            flow.add(note.call("in a flow"))
        for n in range(40):
            app.enqueue(note.call(f"one by one {n}"))
    for _ in range(2):
        reader.housekeep(10)
        assert counted() == (45, 1), "all at the latest when the producer disconnects"
    with psycopg.connect(postgres_server.url) as connection:
        (left,) = connection.execute(f'SELECT count(*) FROM "{schema}".pushed'.encode()).fetchone() or (None,)
    assert left == 0
    reader.close()


def test_the_printed_sql_is_all_that_a_database_needs_and_may_be_repeated(project, postgres_server, schema, roles):
    producer, worker = roles
    text = project.here("setup", "--sql", "--producer", producer, "--worker", worker)
    for _ in range(2):
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(text.encode())
    with application(postgres_server, schema, producer) as app:
        app.enqueue(note.call("one by one"))
        app.enqueue(note.using(unique="only").call("unique"))
        with Flow() as flow:
            first = flow.add(note.call("first"))
            flow.add(note.call("then"), after=first)
        with psycopg.connect(postgres_server.url_of(producer, "postgres")) as connection:
            app.enqueue(note.using(transaction=connection).call("in a transaction"))
            with Flow(transaction=connection) as flow:
                flow.add(note.call("in a flow"))
        with pytest.raises(BackendError, match="lacks a permission"):
            app.operate(lambda backend: backend.browse("default", State.READY, 10))
        with pytest.raises(BackendError, match="lacks a permission"):
            app.operate(lambda backend: backend.purge("default", State.READY))
    url = f"{postgres_server.url_of(worker, 'postgres')}?schema={schema}"
    done = project.run("worker", "--drain", JOBS_BACKEND=url)
    assert done.returncode == 0, done.stderr
    assert sorted(line.removeprefix("note ") for line in project.ledger()) == [
        "first", "in a flow", "in a transaction", "one by one", "then", "unique",
    ]  # fmt: skip
    with psycopg.connect(postgres_server.url) as connection:
        owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = %s"
        assert connection.execute(owners.encode(), (schema,)).fetchall() == [("jobs",)]


def test_the_documented_rights_suffice_to_enqueue_in_a_transaction(postgres_server, schema, roles):
    page = (Path(__file__).parents[3] / "docs" / "transactions.md").read_text(encoding="utf-8")
    [rights] = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    backend = PostgresBackend(parse(f"{postgres_server.url}?schema={schema}", "jobs"), BackendOptions())
    backend.open(None)
    backend.close()
    ours = (
        rights.replace("SCHEMA jobs", f'SCHEMA "{schema}"')
        .replace("jobs.", f'"{schema}".')
        .replace("shop_web", f'"{roles[0]}"')
    )
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(ours.encode())
    with application(postgres_server, schema, roles[0]) as app:
        with psycopg.connect(postgres_server.url_of(roles[0], "postgres")) as connection:
            app.enqueue(note.using(transaction=connection).call("in a transaction"))
        with pytest.raises(BackendError, match="--producer ROLE"):
            app.enqueue(note.call("by itself"))


def test_the_documented_permissions_suffice_to_read_states_and_to_wait_for_results(project, postgres_server, schema, roles):
    page = (Path(__file__).parents[3] / "docs" / "postgres.md").read_text(encoding="utf-8")
    [grants] = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    ours = (
        grants.replace("SCHEMA jobs", f'SCHEMA "{schema}"')
        .replace("jobs.", f'"{schema}".')
        .replace("shop_web", f'"{roles[0]}"')
    )
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(project.here("setup", "--sql", "--producer", roles[0]).encode())
        connection.execute(ours.encode())
    with application(postgres_server, schema, roles[0]) as app:
        handle = app.enqueue(note.using(store_result=True).call("waits"))
        assert handle.status() == State.READY
        with pytest.raises(ResultTimeout):
            handle.result(timeout=0.1)


def test_a_role_that_does_not_own_the_outbox_is_told_what_to_do(tmp_path, postgres_server, schema, roles):
    def outbox_as(url):
        outbox = Outbox(url=f"{url}?schema={schema}")
        return App(
            Config(backend=f"sqlite:///{tmp_path}/queue.db", outbox=outbox, base_dir=tmp_path), registry=registry
        ).new_outbox()

    outbox_as(postgres_server.url).setup()
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO "{roles[0]}"'.encode())
    with contextlib.closing(outbox_as(postgres_server.url_of(roles[0], "postgres"))) as outbox:
        outbox.open()
        with pytest.raises(BackendError, match=r"the role in outbox\.url lacks a permission: .* owns the tables of the outbox"):
            outbox.state()


def test_setup_and_the_printed_sql_make_the_same(project, postgres_server, schema):
    def made(name):
        with psycopg.connect(postgres_server.url) as connection:
            columns = "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = %s"
            functions = "SELECT proname, prosecdef FROM pg_proc WHERE pronamespace = %s::regnamespace"
            rows = connection.execute(columns.encode(), (name,)).fetchall()
            return sorted([*rows, *connection.execute(functions.encode(), (f'"{name}"',)).fetchall()])

    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(project.here("setup", "--sql").encode())
        printed = made(schema)
        connection.execute(f'DROP SCHEMA "{schema}" CASCADE'.encode())
    project.here("setup")
    assert made(schema) == printed


def test_nobody_else_may_enqueue(postgres_server, schema, roles):
    backend = PostgresBackend(parse(f"{postgres_server.url}?schema={schema}", "jobs"), BackendOptions())
    backend.open(None)
    backend.close()
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO PUBLIC'.encode())
    with application(postgres_server, schema, roles[0]) as app, pytest.raises(BackendError, match="lacks a permission"):
        app.enqueue(note.call())


def test_wrong_use_of_setup_is_explained(project):
    assert "belong to --sql" in project.here("setup", "--worker", "x", code=2)
    project.configure()
    assert "is not set up by SQL" in project.here("setup", "--sql", code=2)


def test_psql_takes_the_printed_sql(project, postgres_server, schema):
    """In the form in which people review and run it."""
    text = project.here("setup", "--sql")
    from jobs_core.testing.services.postgres import programs

    psql = programs() / "psql"
    with psycopg.connect(
        postgres_server.url, autocommit=True
    ) as connection:  # a function of somebody else, which it does not call
        connection.execute(f'CREATE SCHEMA "{schema}_trap"'.encode())
        trap = "(text, regprocedure, text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''caught''; END'"
        connection.execute(f'CREATE FUNCTION "{schema}_trap".format{trap}'.encode())
    done = subprocess.run(
        [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", postgres_server.url], input=text, text=True, capture_output=True,
        timeout=60, env={**os.environ, "PGOPTIONS": f"-c search_path={schema}_trap"},
    )  # fmt: skip
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'DROP SCHEMA "{schema}_trap" CASCADE'.encode())
    assert done.returncode == 0, done.stderr
