"""The tables: who makes them, and what is said when they cannot be used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from tests.support.project import Project, until
from tests.support.supervised import Supervised

from jobs_core.backends.base import Answer, BackendOptions, Outcome, Outgoing, Settlement, State
from jobs_core.errors import BackendError, BackendUnavailable
from jobs_core.ids import new_id, new_token
from jobs_core.testing.services.postgres import PostgresServer
from jobs_postgres.backend import PostgresBackend
from jobs_postgres.rows import token
from jobs_postgres.settling import _item as item
from jobs_postgres.url import parse


def opened(url, owner=None):
    backend = PostgresBackend(parse(url, "jobs"), BackendOptions())
    backend.open(owner)
    return backend


def test_any_number_of_processes_may_make_the_tables_at_once(postgres_url):
    with ThreadPoolExecutor(8) as threads:
        backends = list(threads.map(lambda _: opened(postgres_url), range(8)))
    for backend in backends:
        backend.push([Outgoing(new_id(), "t", b"{}")], new_token())
    assert backends[0].counts(["t"])["t"].ready == 8
    for backend in backends:
        backend.close()


def test_setup_may_be_repeated_and_keeps_the_jobs(postgres_url):
    backend = opened(postgres_url)
    backend.push([Outgoing(new_id(), "t", b"{}")], new_token())
    backend.setup()
    assert backend.counts(["t"])["t"].ready == 1
    backend.close()


@pytest.fixture
def database(postgres_server, schema):
    """Return what creates a database with these options and settings, and returns its URL."""

    def create(options="", *settings):
        for statement in (f"CREATE DATABASE {schema} {options}", *(f"ALTER DATABASE {schema} SET {each}" for each in settings)):
            connection.execute(statement.encode())
        return postgres_server.url_of("jobs", schema)

    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        yield create
        connection.execute(f"DROP DATABASE {schema} WITH (FORCE)".encode())


def test_functions_of_others_and_settings_of_the_database_change_nothing(database):
    """What others create in a schema on the search_path would run with the permissions of jobs, and in setups of its owner."""
    url = database(
        "",
        "search_path = trap, public", "standard_conforming_strings = off", "bytea_output = escape", "array_nulls = off",
        "transform_null_equals = on", "default_transaction_isolation = serializable", "client_encoding = latin1",
        "statement_timeout = '1ms'", "idle_in_transaction_session_timeout = '1ms'", "plan_cache_mode = force_custom_plan",
    )  # fmt: skip
    traps = (
        "cardinality(text[]) RETURNS integer",
        "cardinality(bigint[]) RETURNS integer",
        "format(text, regprocedure, text) RETURNS text",
    )
    with psycopg.connect(url, autocommit=True, options="-c statement_timeout=0") as connection:
        connection.execute("CREATE SCHEMA trap")
        for trap in traps:
            connection.execute(f"CREATE FUNCTION trap.{trap} LANGUAGE plpgsql AS 'BEGIN RAISE ''caught''; END'".encode())
    payloads = [b"\0\\x61", b'{"a": "\\u0000"}', b"{}"]
    backend = opened(url, "worker")
    backend.push([Outgoing(new_id(), "t", payload, key="schlüssel 日本") for payload in payloads], new_token())
    taken = backend.reserve(["t"], 10, new_token())
    assert [each.payload for each in taken] == payloads
    dead = [Settlement(each.id, each.token, Outcome.DEAD, error=each.payload, reason="日本") for each in taken]
    assert backend.settle(dead, new_token()) == [Answer.SETTLED] * 3
    assert sorted(letter.errors for letter in backend.browse("t", State.DEAD, 10)) == sorted((each,) for each in payloads)
    backend.close()


def test_a_database_of_another_encoding_is_refused_with_the_fix(database):
    url = database("ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    with pytest.raises(BackendError, match=r"the encoding of this database is LATIN1, .* ENCODING 'UTF8'"):
        opened(url)


def test_tables_of_a_newer_release_are_refused_with_the_fix(postgres_url, postgres_server, schema):
    opened(postgres_url).close()
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"UPDATE \"{schema}\".meta SET value = 99 WHERE key = 'schema'".encode())
    with pytest.raises(BackendError, match=r"of a newer release .* update jobs-postgres"):
        opened(postgres_url)


def test_the_pause_of_a_housekeeper_is_no_outage(tmp_path, postgres_url):
    project = Project(tmp_path / "project")
    project.configure(backend=f'backend = "{postgres_url}"')
    supervisor = Supervised(project)
    supervisor.until(lambda board: board.backlog and board.backlog.answered_at)
    first = supervisor.board().backlog.answered_at
    supervisor.until(lambda board: board.backlog.answered_at > first + 2)
    assert supervisor.stop() == 0
    assert "cannot be reached" not in supervisor.process.output
    project.close()


def test_a_user_without_rights_is_told_what_to_do(postgres_url, postgres_server, schema):
    opened(postgres_url).close()
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{schema}" LOGIN'.encode())
    try:
        with pytest.raises(BackendError, match="lacks a permission"):
            opened(f"postgresql://{schema}@127.0.0.1:{postgres_server.port}/postgres?schema={schema}")
    finally:
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(f'DROP ROLE "{schema}"'.encode())


def test_a_user_without_a_free_connection_is_told_so_and_may_try_again(tmp_path, postgres_url, postgres_server, schema):
    opened(postgres_url).close()
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{schema}" LOGIN CONNECTION LIMIT 0'.encode())
    try:
        url = f"postgresql://{schema}@127.0.0.1:{postgres_server.port}/postgres?schema={schema}"
        with pytest.raises(BackendUnavailable, match="no connection is left for jobs: close some, or raise max_connections"):
            opened(url)
        project = Project(tmp_path / "project")
        project.configure(backend=f'backend = "{url}"')
        assert "no connection is left for jobs" in project.here("check", code=None)
        project.close()
    finally:
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(f'DROP ROLE "{schema}"'.encode())


@pytest.mark.parametrize(
    ("url", "error", "fix"),
    [
        ("postgresql://jobs@127.0.0.1:{port}/nosuch", BackendError, "create it"),
        ("postgresql://nobody@127.0.0.1:{port}/postgres", BackendError, "wrong user"),
        ("postgresql://jobs@127.0.0.1:1/postgres", BackendUnavailable, "cannot be reached"),
    ],
)
def test_a_wrong_url_says_what_is_wrong(postgres_server, url, error, fix):
    with pytest.raises(error, match=fix):
        opened(url.format(port=postgres_server.port))


@pytest.mark.parametrize("url", ["postgresql://h/d?schema=A%22", "postgresql://h/d?nosuch=1", "postgresql://h:port/d"])
def test_an_invalid_url_shows_the_forms(url):
    with pytest.raises(BackendError, match="Forms: postgresql://"):
        parse(url, "jobs")


def test_a_stopped_server_is_unavailable_and_back_after_its_start():
    with PostgresServer("-c", "fsync=off") as server:
        backend = opened(server.url, new_token())
        server.stop()
        with pytest.raises(BackendUnavailable):
            backend.push([Outgoing(new_id(), "t", b"{}")], new_token())
        server.start()
        backend.push([Outgoing(new_id(), "t", b"{}")], new_token())
        (delivery,) = backend.reserve(["t"], 1, new_token())
        assert delivery.payload == b"{}"
        backend.close()


def test_a_settlement_that_is_repeated_while_its_first_try_still_waits_settles_once(postgres_url, postgres_server, schema):
    owner, request = new_token(), new_token()
    first, second = opened(postgres_url, owner), opened(postgres_url, owner)
    first.push([Outgoing(new_id(), "t", b"{}")], new_token())
    (delivery,) = first.reserve(["t"], 1, new_token())
    settlements = [Settlement(delivery.id, delivery.token, Outcome.DONE)]
    second._settling = request  # it has sent this before
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
    with ThreadPoolExecutor(2) as threads, psycopg.connect(postgres_server.url, autocommit=True) as look:
        with psycopg.connect(postgres_server.url) as other:
            other.execute(f'SELECT FROM "{schema}".reserved FOR UPDATE'.encode())
            tries = []
            for number, backend in enumerate((first, second), 1):
                tries.append(threads.submit(backend.settle, settlements, request))
                until(lambda number=number: look.execute(waiting, (f"%{schema}%",)).fetchone() == (number,))
        answers = [answer for each in tries for answer in each.result()]
    assert answers == [Answer.SETTLED, Answer.ALREADY]
    first.close()
    second.close()


def test_a_settlement_reads_no_rows_that_vacuum_could_not_remove(postgres_url, postgres_server, schema):
    backend = opened(postgres_url, "worker")
    jobs = 10
    with psycopg.connect(postgres_server.url) as old, psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("SET plan_cache_mode = force_custom_plan")
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM pg_class")
        connection.execute(
            f'INSERT INTO "{schema}".reserved (seq, at, owner, request, topic)'
            " SELECT n, 0, 'gone', 'gone', 't' FROM generate_series(1000000, 1100000) AS n".encode()
        )
        connection.execute(f"DELETE FROM \"{schema}\".reserved WHERE owner = 'gone'".encode())
        connection.execute(
            f'INSERT INTO "{schema}".job (seq, id, topic, rank, since, pushed_at, payload)'
            " SELECT n, n, 'gone', 0, 0, 0, '' FROM generate_series(1000000, 1100000) AS n".encode()
        )
        connection.execute(f"DELETE FROM \"{schema}\".job WHERE topic = 'gone'".encode())
        pages = []
        for _ in range(2):  # the first one also reads catalogs
            backend.push([Outgoing(new_id(), "t", b"{}") for _ in range(jobs)], new_token())
            tokens = [token(each.token) for each in backend.reserve(["t"], jobs, new_token())]
            connection.execute(
                f'ANALYZE "{schema}".reserved, "{schema}".job'.encode()
            )  # as autovacuum does: there are few rows on many pages
            settle = f"SELECT \"{schema}\".settle_done('worker', %s, '', false, %s, %s)"
            row = connection.execute(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {settle}".encode(),
                (new_token(), [seq for seq, _ in tokens], [request for _, request in tokens]),
            ).fetchone()
            assert row is not None
            plan = row[0][0]["Plan"]
            pages.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    assert pages[1] < 40 * jobs
    assert backend.counts(["t"])["t"].reserved == 0
    backend.close()


def test_a_batch_with_results_and_failures_settles_all_that_is_done_in_one_step(postgres_url, monkeypatch):
    backend = opened(postgres_url, "worker")
    backend.push([Outgoing(new_id(), "t", b"%d" % n) for n in range(7)], new_token())
    taken = backend.reserve(["t"], 10, new_token())
    other = opened(postgres_url, "other")
    batch = [Settlement(each.id, each.token, Outcome.DONE) for each in taken]
    batch[1] = Settlement(taken[1].id, taken[1].token, Outcome.RETRY, after=3600.0, error=b"{}")
    batch[2] = Settlement(taken[2].id, taken[2].token, Outcome.DONE, result=b"2", result_ttl=60.0)
    batch[3] = Settlement(taken[3].id, taken[3].token, Outcome.DEAD, reason="no", error=b"{}")
    batch[4] = Settlement(taken[4].id, "12345:theirs", Outcome.DONE, result=b"4", result_ttl=60.0)
    by_itself = []
    monkeypatch.setattr(
        "jobs_postgres.settling._item", lambda s, *args, **rest: by_itself.append(s.id) or item(s, *args, **rest)
    )
    request = new_token()
    assert backend.settle(batch, request) == [Answer.SETTLED] * 4 + [Answer.STALE] + [Answer.SETTLED] * 2
    assert backend.settle(batch, request) == [Answer.ALREADY] * 4 + [Answer.STALE] + [Answer.ALREADY] * 2
    assert set(by_itself) == {taken[1].id, taken[3].id}
    counts = backend.counts(["t"])["t"]
    assert (counts.ready, counts.scheduled, counts.reserved, counts.dead) == (0, 1, 1, 1)
    stored = [other.fetch_result(each.id, 0.0) for each in (taken[2], taken[4])]
    assert [record and record.result for record in stored] == [b"2", None]
    for each in (backend, other):
        each.close()
