"""Settlements that are sent before their answer is needed: what comes between, and what is lost on the way."""

from __future__ import annotations

import time

import psycopg
import pytest
from tests.support.project import until

from jobs_core import App, job, set_current_app
from jobs_core.backends.base import Answer, BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.config import Config, Pool
from jobs_core.errors import BackendUnavailable
from jobs_core.ids import new_id, new_token
from jobs_core.registry import Registry
from jobs_core.worker.main import Worker
from jobs_postgres.backend import PostgresBackend
from jobs_postgres.url import parse

JOBS = 6000
DONE, STALE, ALREADY = Answer.SETTLED, Answer.STALE, Answer.ALREADY


def opened(url, owner=None):
    backend = PostgresBackend(parse(url, "jobs"), BackendOptions())
    backend.open(owner)
    return backend


@pytest.fixture
def backend(postgres_url):
    backend = opened(postgres_url, "worker")
    yield backend
    backend.close()


def push(backend, count=1):
    backend.push([Outgoing(new_id(), "t", b"{}") for _ in range(count)], new_token())


def reserve(backend, most=100):
    return backend.reserve(["t"], most, new_token())


def done(deliveries, **facts):
    return [Settlement(each.id, each.token, Outcome.DONE, **facts) for each in deliveries]


def counted(backend):
    counts = backend.counts(["t"])["t"]
    return counts.ready, counts.reserved


def test_begun_settlements_are_settled_by_the_server_and_answered_later(backend):
    for _ in range(7):  # the statement is prepared on the way
        push(backend, 3)
        first, request = done(reserve(backend)), new_token()
        assert backend.begin_settle(first, request)
        assert backend.settle(first, request) == [DONE] * 3
        assert counted(backend) == (0, 0)


def test_other_calls_may_come_before_the_answer_and_see_the_settlement(backend):
    push(backend, 3)
    first, request = done(reserve(backend, 2)), new_token()
    assert backend.begin_settle(first, request)
    assert [each.topic for each in reserve(backend)] == ["t"]
    push(backend)
    backend.heartbeat()
    assert counted(backend) == (1, 1)
    assert backend.settle(first, request) == [DONE] * 2
    assert backend.settle(first, request) == [ALREADY] * 2


def test_a_settlement_of_a_lost_reservation_is_stale(backend, postgres_url):
    push(backend)
    first, request = done(reserve(backend)), new_token()
    other = opened(postgres_url)
    other.release_owner("worker", [], b"")
    other.close()
    assert backend.begin_settle(first, request)
    assert backend.settle(first, request) == [STALE]


def cut(backend, postgres_url):
    """Have the server end the connection of a backend."""
    with psycopg.connect(postgres_url.partition("?")[0], autocommit=True) as connection:
        pid = backend._connection.raw.pgconn.backend_pid
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))


def test_settlements_whose_answer_is_lost_are_repeated_and_settled_once(backend, postgres_url):
    push(backend, 2)
    first, request = done(reserve(backend)), new_token()
    assert backend.begin_settle(first, request)
    until(lambda: counted_by_another(postgres_url) == (0, 0))
    backend._connection.raw.close()
    with pytest.raises(BackendUnavailable):
        backend.settle(first, request)
    assert answered(backend, first, request) == [ALREADY] * 2


def counted_by_another(postgres_url):
    other = opened(postgres_url)
    try:
        return counted(other)
    finally:
        other.close()


def answered(backend, settlements, request):
    """Repeat a settlement as a courier does."""
    for _ in range(10):
        try:
            return backend.settle(settlements, request)
        except BackendUnavailable:
            time.sleep(0.05)
    raise AssertionError("it was never answered")


def test_settlements_of_a_statement_that_the_server_ended_are_repeated(backend, postgres_url):
    """A lock holds the statement until its connection is cut: the server has settled nothing."""
    push(backend, 2)
    first, request = done(reserve(backend)), new_token()
    schema = backend._connection.schema
    with psycopg.connect(postgres_url.partition("?")[0]) as connection:
        connection.execute(f"LOCK TABLE {schema}.job".encode())
        assert backend.begin_settle(first, request)
        cut(backend, postgres_url)
    assert answered(backend, first, request) == [DONE] * 2


def test_another_call_after_a_cut_connection_does_not_hide_that_the_answer_is_lost(backend, postgres_url):
    push(backend, 2)
    first, request = done(reserve(backend)), new_token()
    assert backend.begin_settle(first, request)
    cut(backend, postgres_url)
    for _ in range(10):
        try:
            push(backend)
            break
        except BackendUnavailable:
            time.sleep(0.05)
    with pytest.raises(BackendUnavailable):
        backend.settle(first, request)
    assert set(answered(backend, first, request)) <= {DONE, ALREADY}
    assert counted(backend) == (1, 0)


def test_what_cannot_be_begun_is_refused_and_settled_at_once(backend):
    push(backend, 3)
    deliveries = reserve(backend)
    with_result = done(deliveries[:1], result=b"1", result_ttl=60.0)
    mixed = [*done(deliveries[1:2]), Settlement(deliveries[2].id, deliveries[2].token, Outcome.RETRY)]
    for settlements, left in ((with_result, (0, 2)), (mixed, (1, 0))):
        request = new_token()
        assert not backend.begin_settle(settlements, request)
        assert backend.settle(settlements, request) == [DONE] * len(settlements)
        assert counted(backend) == left


def test_a_worker_that_closes_with_begun_settlements_returns_only_the_other_jobs(postgres_url):
    backend, other = opened(postgres_url, "worker"), opened(postgres_url)
    push(other, 3)
    deliveries = reserve(backend)
    assert backend.begin_settle(done(deliveries[:2]), new_token())
    backend.close()
    assert counted(other) == (1, 0)
    other.close()


def test_a_worker_stores_settlements_while_it_decodes_and_loses_and_repeats_nothing(postgres_url, monkeypatch):
    """It is stopped on the way; a second one runs the rest. Both end with nothing reserved."""
    begun = []
    begin = PostgresBackend.begin_settle
    monkeypatch.setattr(PostgresBackend, "begin_settle", lambda *asked: begun.append(len(asked[1])) or begin(*asked))
    registry = Registry()
    app = App(Config(backend=postgres_url), registry=registry)
    set_current_app(app)
    done = []

    @job(registry=registry, name="note")
    def note(number: int) -> None:
        done.append(number)
        if number == JOBS // 2:
            workers[-1].courier.stop()

    note.enqueue_many([(number,) for number in range(JOBS)])
    workers = [Worker(app, "p", Pool(), None)]
    workers[0].run()
    assert JOBS // 2 < len(done) < JOBS
    counts = app.operate(lambda backend: backend.counts(["default"]))["default"]
    assert (counts.ready, counts.reserved) == (JOBS - len(done), 0)
    workers.append(Worker(app, "p", Pool(), None, drain=True))
    workers[-1].run()
    assert sorted(done) == [*range(JOBS)]
    assert len(begun) > 1
    set_current_app(None)
    app.close()


STRANGE = (
    "",
    ":",
    "7",
    "x:y",
    "h9:r",
    "-5:r",
    "9:",
    '9:"',
    "9:\\",
    "9:a,b",
    "9:a\nb",
    "9:ä",
    "9:null",
    "²:r",
    "9" * 19 + ":r",
    "9:a:b",
)


@pytest.mark.parametrize("strange", STRANGE, ids=range(len(STRANGE)))
def test_a_token_of_any_text_is_stale_and_settles_no_other(backend, strange):
    push(backend, 2)
    first, second = reserve(backend)
    settlements = [*done([first]), Settlement(first.id, strange, Outcome.DONE), *done([second])]
    assert backend.settle(settlements, new_token()) == [DONE, STALE, DONE]
    assert counted(backend) == (0, 0)
