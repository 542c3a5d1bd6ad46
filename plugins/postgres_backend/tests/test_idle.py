"""What workers and supervisors ask of the server while there is nothing to do."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter

import psycopg
import pytest
from tests.support.project import Project, until
from tests.support.supervised import Supervised

from jobs_core.backends.base import BackendOptions, Outgoing
from jobs_core.ids import new_id, new_token
from jobs_core.message import UniqueKey
from jobs_core.testing.services.postgres import PostgresServer
from jobs_postgres import backend as backend_module
from jobs_postgres.backend import PostgresBackend
from jobs_postgres.url import parse

LOOKS = 5


@pytest.fixture
def talking_server():
    """A server that logs every statement, with the process that serves its connection."""
    with PostgresServer("-c", "fsync=off", "-c", "log_statement=all", "-c", "log_line_prefix=<%p> ") as server:
        yield server


def statements(text):
    """The number of statements of each connection, which a worker's look names as that of a worker."""
    found = Counter(re.findall(r"<(\d+)> LOG:  (?:statement|execute [^:]*): ", text))
    workers = {*re.findall(r"<(\d+)> LOG:  execute [^:]*: SELECT ready OR ", text)}
    return [n for pid, n in found.items() if pid in workers], sum(n for pid, n in found.items() if pid not in workers)


def test_an_idle_worker_sends_one_statement_a_second_for_looks_and_heartbeats(tmp_path, talking_server):
    project = Project(tmp_path / "project")
    project.configure(backend=f'backend = "{talking_server.url}"')
    supervisor = Supervised(project)
    supervisor.until(lambda board: board.backlog and board.backlog.answered_at)
    until(lambda: talking_server.log.read_text().count("SELECT ready OR ") > 2)  # it is asleep
    begin, began = talking_server.log.stat().st_size, time.monotonic()

    def said():
        with talking_server.log.open() as log:
            log.seek(begin)
            return log.read()

    text = until(lambda: (text := said()).count("SELECT ready OR ") >= LOOKS and text)
    seconds = time.monotonic() - began
    by_workers, by_supervisor = statements(text)
    assert len(by_workers) == 1
    heartbeats, looks = 1 + seconds / 5, 1 + seconds / 1.25
    assert 1 <= by_workers[0] <= looks + heartbeats
    rounds = 1 + seconds / 3  # of housekeeping
    assert 1 <= by_supervisor <= 5 + 3 * seconds + 4 * rounds
    assert supervisor.stop() == 0
    project.close()


def test_a_worker_does_not_spin_while_a_transaction_replaces_a_ready_job(postgres_server, postgres_url, schema):
    worker = PostgresBackend(parse(postgres_url, "jobs"), BackendOptions())
    worker.open("w")
    job_id = new_id()
    worker.push([Outgoing(job_id, "t", b"{}")], new_token())
    with psycopg.connect(postgres_server.url) as connection:
        connection.execute(f'DELETE FROM "{schema}".ready'.encode())
        began = time.monotonic()
        for _ in range(8):
            assert worker.wait(["t"], 60)
            assert not worker.reserve(["t"], 1, new_token())
        assert time.monotonic() - began > 1.0, "it sleeps longer each time"
        connection.rollback()
    assert worker.wait(["t"], 60)
    (delivery,) = worker.reserve(["t"], 1, new_token())
    assert delivery.id == job_id
    worker.close()


def test_a_push_of_one_job_is_one_statement_while_no_worker_waits(talking_server, monkeypatch):
    monkeypatch.setattr(backend_module, "MOMENT", 3600.0)  # no push counts as slow
    producer = PostgresBackend(parse(talking_server.url, "jobs"), BackendOptions())
    producer.open(None)
    for facts in ({}, {"delay": 60.0}, {"unique": UniqueKey(new_id())}):
        begin = talking_server.log.stat().st_size
        for _ in range(20):
            producer.push([Outgoing(new_id(), "t", b"{}", **facts)], new_token())
        with talking_server.log.open() as log:
            log.seek(begin)
            assert statements(log.read()) == ([], 20)
    producer.close()


def test_a_push_that_takes_long_wakes_workers_that_fell_asleep_meanwhile(postgres_server, postgres_url, schema, monkeypatch):
    monkeypatch.setattr(backend_module, "MOMENT", 1e-4)  # the looks of this test take longer
    worker = PostgresBackend(parse(postgres_url, "jobs"), BackendOptions())
    worker.open("w")
    producer = PostgresBackend(parse(postgres_url, "jobs"), BackendOptions())
    producer.open(None)
    woken = []
    pushing = threading.Thread(target=lambda: producer.push([Outgoing(new_id(), "t", b"{}")], new_token()))
    waiting = threading.Thread(target=lambda: woken.append(worker.wait(["t"], 300)))
    slow = """
        CREATE FUNCTION {s}.slow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON {s}.job DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION {s}.slow()""".replace("{s}", f'"{schema}"')
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(slow.encode())
        connection.execute("SELECT pg_advisory_lock(4711)")
        pushing.start()
        until(lambda: connection.execute("SELECT FROM pg_locks WHERE objid = 4711 AND NOT granted").fetchall())
        looked = []
        monkeypatch.setattr(worker, "_look_again_after", looked.append)
        waiting.start()
        until(lambda: looked)
        worker._look_at = float("inf")  # it does not look again by itself
        connection.execute("SELECT pg_advisory_unlock(4711)")
        waiting.join(60)
    assert woken == [True]
    pushing.join(60)
    worker.close()
    producer.close()


def test_a_worker_that_falls_asleep_while_a_push_commits_looks_again_soon(postgres_server, postgres_url, schema, monkeypatch):
    monkeypatch.setattr(backend_module, "LONGEST_SLEEP", 3600.0)
    worker = PostgresBackend(parse(postgres_url, "jobs"), BackendOptions())
    worker.open("w")
    woken = []
    waiting = threading.Thread(target=lambda: woken.append(worker.wait(["t"], 300)))
    with psycopg.connect(postgres_server.url) as pushing, psycopg.connect(postgres_server.url, autocommit=True) as looking:
        push = f"SELECT \"{schema}\".push_one('request', 'job', 't', 0::smallint, 0, '{{}}', NULL)".encode()
        assert pushing.execute(push).fetchone() == (False,), "no worker waits"
        waiting.start()
        sleeps = f"SELECT \"{schema}\".sleeps(ARRAY['t'])".encode()
        until(lambda: looking.execute(sleeps).fetchone() == (True,))
        pushing.commit()
    waiting.join(60)
    assert woken == [True]
    assert [each.id for each in worker.reserve(["t"], 10, new_token())] == ["job"]
    worker.close()
