"""Reservations while a transaction stays open somewhere, so that vacuum cannot remove what jobs leave behind."""

from __future__ import annotations

import contextlib
import itertools

import psycopg
import pytest
from tests.support.project import until

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.ids import new_id, new_token
from jobs_postgres.backend import PostgresBackend
from jobs_postgres.url import parse

DEAD = 20_000
FEW = 20
"""Entries of an index that a reservation may walk through."""


class Store:
    """A store of which a transaction beside it keeps the dead rows."""

    def __init__(self, server, url, schema):
        self._url, self._schema = url, schema
        self.connections = contextlib.ExitStack()
        self.operator = self.worker(None)
        self.admin = self.connections.enter_context(psycopg.connect(server.url, autocommit=True))
        self.old = self.connections.enter_context(psycopg.connect(server.url))
        self.old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        self.old.execute(f'SELECT FROM "{schema}".meta'.encode())

    def worker(self, name):
        backend = PostgresBackend(parse(self._url, "jobs"), BackendOptions())
        backend.open(name)
        self.connections.callback(backend.close)
        return backend

    def run(self, statement, *parameters):
        return self.admin.execute(statement.replace("{s}", f'"{self._schema}"').encode(), parameters)

    def leave_behind(self, *, rank=0, age=60):
        """Have as many jobs of topic t gone through as DEAD says, which became ready `age` seconds ago."""
        values = "'t', %s, {s}.now_() - %s, n FROM generate_series(1, %s) AS n"
        self.run(f"INSERT INTO {{s}}.ready SELECT {values}", rank, age, DEAD)
        self.run("DELETE FROM {s}.ready WHERE topic = 't'")

    def push(self, **facts):
        job_id = new_id()
        self.operator.push([Outgoing(job_id, "t", b"{}", **facts)], new_token())
        return job_id


@pytest.fixture
def store(postgres_server, postgres_url, schema):
    made = Store(postgres_server, postgres_url, schema)
    yield made
    made.connections.close()


def reserved(worker, limit=1):
    return [delivery.id for delivery in worker.reserve(["t"], limit, new_token())]


def marked(worker):
    """Have a worker look twice, which is enough to find the marks."""
    assert reserved(worker) == reserved(worker) == []
    return worker


def walked(worker, statement, *parameters):
    """The entries of the indexes by place that a statement of a worker walks through."""
    counter = "SELECT sum(pg_stat_get_xact_tuples_returned(('{s}.' || name)::regclass))::bigint FROM unnest(%s::text[]) AS name"

    def entries():
        return connection.value(connection.sql(counter), (["ready_pkey", "scheduled_pkey"],))

    connection = worker._connection
    with connection.raw.transaction():
        before = entries()
        connection.rows(connection.sql(statement), parameters)
        return entries() - before


def walked_to_reserve(worker):
    return walked(worker, "SELECT * FROM {s}.reserve(%s, 60, '{t}', 1, %s, false, 1)", worker._owner, new_token())


def test_reservations_do_not_walk_through_the_jobs_that_were_there(store):
    worker = store.worker("w")
    store.leave_behind()
    assert walked_to_reserve(worker) > DEAD / 2, "a first look cannot know"
    marked(worker)
    assert walked_to_reserve(worker) < FEW
    for _ in range(3):
        job_id = store.push()
        assert reserved(worker) == [job_id], "what comes now is found at once"
        assert walked(worker, "SELECT * FROM {s}.look('{t}')") < FEW
    store.leave_behind(age=0)
    assert walked_to_reserve(worker) > DEAD / 2, "what has come and gone since"
    until(lambda: walked_to_reserve(worker) < FEW)


def test_every_priority_has_its_own_mark(store):
    worker = store.worker("w")
    for rank in (-9, 0):
        store.leave_behind(rank=rank)
    marked(worker)
    for priorities in itertools.permutations((0, 5, 9)):
        pushed = {priority: store.push(priority=priority) for priority in priorities}
        assert walked_to_reserve(worker) < FEW, "the one of priority 9"
        assert reserved(worker, 3) == [pushed[5], pushed[0]]


@pytest.mark.parametrize("way", ["released", "requeued", "dead"])
def test_a_job_that_is_ready_again_in_its_old_place_is_found(store, way):
    first, second = store.worker("first"), store.worker("second")
    job_id = store.push()
    (delivery,) = first.reserve(["t"], 1, new_token())
    if way == "dead":
        first.settle([Settlement(job_id, delivery.token, Outcome.DEAD, reason="test")], new_token())
    elif way == "requeued":
        first.settle([Settlement(job_id, delivery.token, Outcome.RETRY, after=60)], new_token())
    store.leave_behind()
    store.run("UPDATE {s}.job SET since = since - 30")
    marked(second)
    if way == "released":
        first.release_owner("first", [], b"")
    else:
        store.operator.requeue([job_id])
    until(lambda: reserved(second) == [job_id])


def test_a_job_whose_transaction_takes_long_to_commit_is_found(store, postgres_server):
    worker = store.worker("w")
    store.leave_behind()
    marked(worker)
    job_id = new_id()
    with psycopg.connect(postgres_server.url) as connection:
        facts = (f'[{{"i": "{job_id}", "t": "t", "r": 0, "d": 0}}]', [b"{}"])
        statement = f'SELECT "{store._schema}".push(NULL, %s, %s, true, false, false, 0)'
        connection.execute(statement.encode(), facts)
        connection.execute(f'UPDATE "{store._schema}".ready SET since = since - 30'.encode())
        store.leave_behind()
        assert reserved(worker) == reserved(worker) == []
    until(lambda: reserved(worker) == [job_id])


def test_scheduled_jobs_that_were_due_are_not_walked_through(store):
    worker = store.worker("w")
    store.run("INSERT INTO {s}.scheduled SELECT 't', {s}.now_() - 60, n, 0 FROM generate_series(1, %s) AS n", DEAD)
    store.run("DELETE FROM {s}.scheduled")
    assert walked_to_reserve(worker) > DEAD / 2
    assert walked_to_reserve(worker) < FEW
    assert walked(worker, "SELECT * FROM {s}.look('{t}')") < FEW
    job_id = store.push(delay=0.05)
    until(lambda: reserved(worker) == [job_id])


def test_nothing_is_remembered_once_vacuum_has_cleaned_up(store):
    worker = store.worker("w")
    store.leave_behind()
    marked(worker)
    memory = worker._connection.sql("SELECT {s}.remembered()")
    assert worker._connection.value(memory) is not None
    store.old.rollback()
    store.run("VACUUM {s}.ready")
    until(lambda: reserved(worker) == [] and worker._connection.value(memory) is None)
