"""Setups on stores of an earlier release, and setups that are interrupted."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import pytest

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement, State
from jobs_core.errors import BackendError
from jobs_core.ids import new_id, new_token
from jobs_postgres.backend import PostgresBackend
from jobs_postgres.connection import ServerConnection
from jobs_postgres.url import parse

VERSION_1 = Path(__file__).parent / "fixtures" / "schema_1.sql"

CATALOGUE = (
    """SELECT table_name, column_name, data_type, collation_name, is_nullable, column_default, is_identity
         FROM information_schema.columns WHERE table_schema = %(schema)s""",
    "SELECT relname, relkind::text, reloptions, relacl::text FROM pg_class WHERE relnamespace = %(name)s::regnamespace",
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = %(schema)s",
    """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = %(name)s::regnamespace AND contype IN ('p', 'u', 'c', 'f')""",
    """SELECT proname::text, pg_get_functiondef(oid),
              (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(coalesce(proacl, acldefault('f', proowner))) AS a)
         FROM pg_proc WHERE pronamespace = %(name)s::regnamespace""",
    """SELECT tgrelid::regclass::text, pg_get_triggerdef(pg_trigger.oid) FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
        WHERE relnamespace = %(name)s::regnamespace AND NOT tgisinternal""",
)
"""What a schema consists of; columns in any order."""


def made(server, schema):
    """Return all that a schema consists of."""
    with psycopg.connect(server.url) as connection:
        facts = {"schema": schema, "name": f'"{schema}"'}
        found = [connection.execute(query.encode(), facts).fetchall() for query in CATALOGUE]
    return [sorted(map(repr, rows)) for rows in found]


def executed(server, *statements):
    with psycopg.connect(server.url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def opened(url, owner=None):
    backend = PostgresBackend(parse(url, "jobs"), BackendOptions())
    backend.open(owner)
    return backend


@pytest.fixture
def version_1(postgres_server, schema):
    executed(postgres_server, VERSION_1.read_text(encoding="utf-8").replace("{s}", f'"{schema}"'))


def test_a_store_of_version_1_becomes_what_a_new_one_is(postgres_server, postgres_url, schema, version_1):
    opened(postgres_url).close()
    migrated = made(postgres_server, schema)
    executed(postgres_server, f'DROP SCHEMA "{schema}" CASCADE')
    opened(postgres_url).close()
    for before, after in zip(migrated, made(postgres_server, schema), strict=True):
        assert before == after


def test_the_jobs_of_a_store_of_version_1_are_kept_and_run(postgres_url, version_1):
    backend = opened(postgres_url, "worker")
    states = {each: backend.get(each).state for each in ("ready-0", "later-1", "dead-1", "done-1", "held-1", "unique-1")}
    assert states == {
        "ready-0": State.READY, "later-1": State.SCHEDULED, "dead-1": State.DEAD, "done-1": State.DONE,
        "held-1": State.RESERVED, "unique-1": State.READY,
    }  # fmt: skip
    assert backend.paused() == {"other"}
    assert backend.document("note", "a").data == b"{}"
    assert backend.release_owner("an-owner", [], b"") == 1
    assert backend.requeue(["dead-1"]) == 1
    found = backend.reserve(["mail"], 10, new_token())
    assert {each.id for each in found} == {"ready-0", "ready-1", "ready-2", "held-1", "unique-1", "dead-1"}
    backend.settle([Settlement(each.id, each.token, Outcome.DONE) for each in found], new_token())
    assert backend.counts(["mail"])["mail"].ready == 0
    backend.close()


def test_functions_with_other_results_or_arguments_are_replaced_and_keep_their_rights(postgres_server, postgres_url, schema):
    opened(postgres_url).close()
    new = made(postgres_server, schema)
    role = f"{schema}_web"
    executed(
        postgres_server,
        f'CREATE ROLE "{role}"',
        f'DROP FUNCTION "{schema}".place()',
        f'CREATE FUNCTION "{schema}".place() RETURNS integer LANGUAGE sql AS $$ SELECT 1 $$',
        f'REVOKE EXECUTE ON FUNCTION "{schema}".place FROM PUBLIC',
        f'GRANT EXECUTE ON FUNCTION "{schema}".place TO "{role}"',
        f'CREATE FUNCTION "{schema}".push(text) RETURNS text LANGUAGE sql AS $$ SELECT 1::text $$',
    )
    backend = opened(postgres_url)
    try:
        backend.setup()
        backend.push([Outgoing(new_id(), "t", b"{}")], new_token())
        with psycopg.connect(postgres_server.url) as connection:
            may = f"SELECT has_function_privilege('{role}', '\"{schema}\".place()', 'EXECUTE')"
            assert connection.execute(may.encode()).fetchone() == (True,)
            assert connection.execute(may.replace(role, "public").encode()).fetchone() == (False,)
    finally:
        backend.close()
        executed(postgres_server, f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')
    executed(postgres_server, f'GRANT EXECUTE ON FUNCTION "{schema}".place TO PUBLIC')
    for before, after in zip(new, made(postgres_server, schema), strict=True):
        assert before == after, "and nothing is left"


@pytest.mark.parametrize("done", [3, 9, -1], ids=["tables", "functions", "all but the commit"])
def test_a_setup_that_is_interrupted_leaves_the_store_as_it_was(postgres_server, postgres_url, schema, version_1, done):
    before = made(postgres_server, schema)
    scripts = ServerConnection(parse(postgres_url, "jobs")).scripts()
    with psycopg.connect(postgres_server.url) as connection:
        for script in scripts[:done]:
            connection.execute(script.encode())
        executed(postgres_server, f"SELECT pg_terminate_backend({connection.info.backend_pid})")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert made(postgres_server, schema) == before
    backend = opened(postgres_url)
    assert backend.counts(["mail"])["mail"].ready == 4
    backend.close()


def test_jobs_arrive_and_run_while_others_repeat_the_setup(postgres_url):
    worker = opened(postgres_url, "worker")
    setting_up = [opened(postgres_url) for _ in range(2)]
    threads = [threading.Thread(target=each.setup) for each in setting_up]
    for thread in threads:
        thread.start()
    n = 0
    while n < 20 or any(thread.is_alive() for thread in threads):
        worker.push([Outgoing(new_id(), "t", b"{}")], new_token())
        (delivery,) = worker.reserve(["t"], 1, new_token())
        worker.settle([Settlement(delivery.id, delivery.token, Outcome.DONE)], new_token())
        n += 1
    for backend in (worker, *setting_up):
        backend.close()


def test_a_role_that_may_not_change_the_tables_is_told_so_and_nothing_changes(postgres_server, postgres_url, schema, version_1):
    before = made(postgres_server, schema)
    executed(
        postgres_server,
        f'CREATE ROLE "{schema}" LOGIN',
        f'GRANT USAGE ON SCHEMA "{schema}" TO "{schema}"',
        f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO "{schema}"',
    )
    try:
        with pytest.raises(BackendError, match="jobsctl setup"):
            opened(f"{postgres_server.url_of(schema, 'postgres')}?schema={schema}")
    finally:
        executed(postgres_server, f'DROP OWNED BY "{schema}"', f'DROP ROLE "{schema}"')
    assert made(postgres_server, schema)[0] == before[0]
