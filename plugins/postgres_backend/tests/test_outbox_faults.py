"""The outbox under faults: wherever a carrier dies or is cut off, nothing is lost, and nothing is enqueued twice.

Loads and parts are small here, so that a few jobs pass every boundary several times. RabbitMQ knows no requests: there, jobs of
the load that was under way may come twice, and no others. The long form is tests/torture/outbox.py.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from tests.support.project import until
from tests.support.proxy import Proxy

from jobs_core import App, Config, Flow, failpoints, job, set_current_app
from jobs_core.backends.base import Outcome, Settlement
from jobs_core.config import Outbox
from jobs_core.errors import BackendError, QueueFull
from jobs_core.ids import new_token
from jobs_core.registry import Registry
from jobs_core.supervisor.housekeeper import carrier
from jobs_core.supervisor.housekeeper.carrier import POINTS, Carrier
from jobs_core.testing.services.redis import RedisServer
from jobs_redis.store import LARGEST_LINED_PUSH, Store

registry = Registry()
LOAD, PART = 7, 3
"""Most jobs of a load, and most members of a part of a flow, in these tests."""

ROUNDS = 3
"""Transactions, each of which leaves a few jobs and a flow of several parts."""


@job(registry=registry, name="tasks.note")
def note(text: str = "x") -> None: ...


@pytest.fixture(scope="session")
def outbox_redis(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(carrier, "MOST_LOADED", LOAD)
    monkeypatch.setattr("jobs_core.flows.flow.PART_SIZE", PART)


@pytest.fixture
def backend_of(request, tmp_path):
    """Return the URL of the backend with a name; for one that a proxy can cut off, with its port."""

    def url(name, port=None):
        if name == "sqlite":
            return f"sqlite:///{tmp_path}/queue.db"
        if name == "redis":
            server = request.getfixturevalue("outbox_redis")
            return f"redis://127.0.0.1:{port or server.port}/0?prefix=test-{new_token()}"
        return request.getfixturevalue("rabbitmq_url")

    return url


@pytest.fixture
def application(tmp_path):
    made = []

    def make(backend, outbox):
        app = App(Config(backend=backend, outbox=Outbox(url=outbox), base_dir=tmp_path), registry=registry)
        set_current_app(app)
        made.append(app)
        return app

    yield make
    set_current_app(None)
    for app in made:
        app.close()


def leave(app, server, *, flows=True):
    """Leave jobs and flows in the outbox; return the ids of all jobs, and the flows."""
    ids, handles = [], []
    for _ in range(ROUNDS):
        with psycopg.connect(server.url) as connection:
            ids += [handle.id for handle in app.enqueue_many([note.using(transaction=connection).call() for _ in range(4)])]
            if flows:
                with Flow(transaction=connection) as flow:
                    ids += [flow.add(note.call()).id for _ in range(2 * PART + 1)]
                handles.append(flow.handle)
    return ids, handles


class Reader:
    """A worker that finishes all that it is given, so that a job that is enqueued twice runs twice."""

    def __init__(self, app):
        self._app = app
        self._backend = app.new_backend()
        self._backend.open("reader")
        self.seen = Counter()

    def read(self):
        """Finish what is ready, and what becomes ready by it; return what was read so far."""
        while taken := self._backend.reserve(["default"], 100, new_token()):
            self.seen.update(self._app.envelope(each).id for each in taken)
            self._backend.settle([Settlement(each.id, each.token, Outcome.DONE) for each in taken], new_token())
        return self.seen

    def close(self):
        self._backend.close()


@pytest.fixture
def reader_of():
    made = []

    def make(app):
        made.append(Reader(app))
        return made[-1]

    yield make
    for reader in made:
        reader.close()


def waiting(server, schema):
    """Count what is in the outbox, on a connection that no fault reaches."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        return connection.execute(f'SELECT count(*) FROM "{schema}".outbox'.encode()).fetchone()[0]


def carry_in_child(url, outbox, base_dir, faults):
    """Carry everything in a child process in which fail points are set; return how it ended."""
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            failpoints.arm(faults)
            app = App(Config(backend=url, outbox=Outbox(url=outbox), base_dir=base_dir), registry=registry)
            while Carrier(app, lambda state: None).carry_all() is None:
                time.sleep(0.005)  # the server has not noticed yet that the one before was killed
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_every_fail_point_of_the_carrier_is_tried_here():
    code = Path(carrier.__file__).read_text()
    assert set(re.findall(r'failpoint\("(.+?)"\)', code)) == set(POINTS)


@pytest.mark.parametrize("backend", ["sqlite", "redis"])
@pytest.mark.parametrize("point", POINTS)
def test_a_carrier_that_is_killed_at_any_boundary_loses_nothing_and_repeats_nothing(
    application, backend_of, backend, point, postgres_server, postgres_url, schema, tmp_path, reader_of, monkeypatch
):
    url = backend_of(backend)
    app = application(url, postgres_url)
    if point == "carry.one":  # only where a load is refused as a whole
        refuse_loads(app, monkeypatch)
    ids, flows = leave(app, postgres_server)
    reader, kills = reader_of(app), 0
    while (ended := carry_in_child(url, postgres_url, tmp_path, f"{point}=kill@{kills + 1}")) != 0:
        assert ended == -signal.SIGKILL
        kills += 1
        reader.read()
    assert kills >= 2
    assert waiting(postgres_server, schema) == 0
    assert reader.read() == Counter(ids)
    assert {flow.status() for flow in flows} == {"done"}


def refuse_loads(app, monkeypatch):
    """Have the backend refuse every push of several jobs."""
    kind = type(app.new_backend())
    push = kind.push

    def refuse(self, messages, request):
        if len(messages) > 1:
            raise BackendError("one at a time")
        return push(self, messages, request)

    monkeypatch.setattr(kind, "push", refuse)


@pytest.mark.parametrize("point", ["carry.taken", "carry.pushed", "carry.finished"])
def test_on_rabbitmq_a_killed_carrier_loses_nothing_and_repeats_the_load_under_way_at_most(
    application, backend_of, point, postgres_server, postgres_url, tmp_path, reader_of
):
    url = backend_of("rabbitmq")
    app = application(url, postgres_url)
    ids, _ = leave(app, postgres_server, flows=False)
    kills = 0
    while carry_in_child(url, postgres_url, tmp_path, f"{point}=kill@{kills + 1}") == -signal.SIGKILL:
        kills += 1
    found = reader_of(app).read()
    assert kills >= 1
    assert set(found) == set(ids)
    assert sum(found.values()) - len(ids) <= (kills * LOAD if point == "carry.pushed" else 0)


@pytest.mark.parametrize("lost", ["the database", "the backend"])
@pytest.mark.parametrize("point", ["carry.taken", "carry.pushed", "carry.finished"])
def test_on_rabbitmq_a_carrier_that_is_cut_off_loses_nothing_and_repeats_the_load_under_way_at_most(
    application, rabbitmq_url, lost, point, postgres_server, postgres_url, schema, reader_of, monkeypatch
):
    parts = urlsplit(rabbitmq_url)
    with Proxy(postgres_server.port) as database, Proxy(parts.port) as queue:
        through = f"postgresql://jobs@127.0.0.1:{database.port}/postgres?schema={schema}"
        beside = application(rabbitmq_url, postgres_url)
        app = application(rabbitmq_url.replace(f":{parts.port}", f":{queue.port}"), through)
        ids, _ = leave(app, postgres_server, flows=False)
        cuts = cut_at(point, database if lost == "the database" else queue, monkeypatch)
        reader = reader_of(beside)
        with running(app):
            until(lambda: len(reader.read()) == len(ids) and waiting(postgres_server, schema) == 0)
        found = reader.read()
        assert set(found) == set(ids)
        assert len(cuts) == 2
        assert sum(found.values()) - len(ids) <= len(cuts) * LOAD


def cut_at(point, proxy, monkeypatch):
    """Cut connections at a fail point, twice; return where it is noted."""
    cuts = []

    def cut(name):
        if name == point and len(cuts) < 2:
            cuts.append(name)
            proxy.cut()

    monkeypatch.setattr(carrier, "failpoint", cut)
    return cuts


CUTS = 3
"""Times that a connection is cut: always at one boundary, there would be no progress."""


@pytest.mark.parametrize("lost", ["the database", "the backend"])
@pytest.mark.parametrize("point", POINTS)
def test_a_carrier_that_is_cut_off_at_any_boundary_goes_on_and_repeats_nothing(
    application, backend_of, outbox_redis, lost, point, postgres_server, postgres_url, schema, reader_of, monkeypatch
):
    with Proxy(postgres_server.port) as database, Proxy(outbox_redis.port) as queue:
        through = f"postgresql://jobs@127.0.0.1:{database.port}/postgres?schema={schema}"
        url = backend_of("redis", queue.port)
        beside = application(url.replace(f":{queue.port}/", f":{outbox_redis.port}/"), postgres_url)
        app = application(url, through)
        if point == "carry.one":
            refuse_loads(app, monkeypatch)
        ids, flows = leave(app, postgres_server)
        cuts = 0

        def cut(name):
            nonlocal cuts
            if name == point and cuts < CUTS:
                cuts += 1
                (database if lost == "the database" else queue).cut()

        monkeypatch.setattr(carrier, "failpoint", cut)
        reader = reader_of(beside)
        with running(app):
            until(lambda: reader.read() and waiting(postgres_server, schema) == 0)
        assert cuts == CUTS
        assert reader.read() == Counter(ids)
        assert {beside.flow_status(flow.id).state for flow in flows} == {"done"}


@contextlib.contextmanager
def running(*apps):
    """Run a carrier of each application on a thread."""
    carriers = [Carrier(app, lambda state: None) for app in apps]
    threads = [threading.Thread(target=each.run) for each in carriers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for each in carriers:
            each.stop()
        for thread in threads:
            thread.join(60)


LEADERS = b"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"


@pytest.mark.parametrize("backend", ["sqlite", "redis"])
def test_carriers_that_take_turns_repeat_nothing(
    application, backend_of, backend, postgres_server, postgres_url, schema, reader_of, monkeypatch
):
    """Each loses its connection to the database, and with it the lead, once it has carried a part or load."""
    url = backend_of(backend)
    apps = [application(url, postgres_url) for _ in range(3)]
    monkeypatch.setattr(carrier, "TAKE_OVER", 0.01)
    ids, flows = leave(apps[0], postgres_server)

    visits = itertools.count()

    def lose_the_lead(name):
        if name in ("carry.part", "carry.pushed") and next(visits) in (0, 2, 4):
            with psycopg.connect(postgres_server.url, autocommit=True) as connection:
                connection.execute(LEADERS)

    monkeypatch.setattr(carrier, "failpoint", lose_the_lead)
    reader = reader_of(apps[0])
    with running(*apps):
        until(lambda: reader.read() and waiting(postgres_server, schema) == 0)
    assert reader.read() == Counter(ids)
    assert {flow.status() for flow in flows} == {"done"}


def test_a_job_that_cannot_be_read_waits_with_the_reason_and_others_pass(
    application, backend_of, postgres_server, postgres_url, schema, reader_of
):
    app = application(backend_of("sqlite"), postgres_url)
    ids, _ = leave(app, postgres_server)
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"UPDATE \"{schema}\".outbox SET message = 'x' WHERE id = %s".encode(), (ids[0],))
    Carrier(app, lambda state: None).carry_all()
    outbox = app.new_outbox()
    outbox.open()
    (refused,) = outbox.refused(10)
    outbox.close()
    assert refused.id == ids[0]
    assert "this release cannot read it" in refused.reason
    assert reader_of(app).read() == Counter(ids[1:])


def test_a_backend_that_becomes_full_in_the_middle_of_a_load_gets_no_job_twice(
    application, backend_of, postgres_server, postgres_url, reader_of, monkeypatch
):
    """Redis stores jobs with keys in parts of 250; it refuses one after the first."""
    monkeypatch.setattr(carrier, "MOST_LOADED", 1000)
    app = application(backend_of("redis"), postgres_url)
    count = LARGEST_LINED_PUSH + 5
    with psycopg.connect(postgres_server.url) as connection:
        calls = [note.using(transaction=connection, key=f"{n % 3}").call() for n in range(count)]
        ids = [handle.id for handle in app.enqueue_many(calls)]
    store_part, full = Store._push, []

    def push(store, messages, request):
        if any(message.id in ids[LARGEST_LINED_PUSH:] for message in messages):
            full.append(request)
            raise QueueFull("full")
        return store_part(store, messages, request)

    monkeypatch.setattr(Store, "_push", push)
    Carrier(app, lambda state: None).carry_all()
    assert full
    reader = reader_of(app)
    reader.read()
    monkeypatch.undo()
    with contextlib.closing(app.new_outbox()) as outbox:
        outbox.open()
        assert outbox.retry(ids) == count - LARGEST_LINED_PUSH
    Carrier(app, lambda state: None).carry_all()
    assert reader.read() == Counter(ids)


def test_two_carriers_that_both_believe_to_lead_do_not_take_the_same_jobs(
    application, backend_of, postgres_server, postgres_url
):
    """One may stand still after it was told to lead, until its lease is another one's."""
    app = application(backend_of("sqlite"), postgres_url)
    ids, _ = leave(app, postgres_server, flows=False)
    with contextlib.closing(app.new_outbox()) as one, contextlib.closing(app.new_outbox()) as other:
        for outbox in (one, other):
            outbox.open()
        connection = one._connection
        with connection.raw.transaction():
            first = one.take(1000)
            taking = threading.Thread(target=lambda: second.append(other.take(1000)))
            second: list[object] = []
            taking.start()
            blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
            with psycopg.connect(postgres_server.url, autocommit=True) as looking:
                until(lambda: looking.execute(blocked).fetchone() == (1,))
        taking.join(60)
        second.append(other.take(1000))
    assert first is not None
    assert [message.id for message in first.items] == ids
    assert [load and load.request for load in second] == [None, first.request]


def test_an_outage_of_its_database_is_told_as_one_of_the_outbox(
    application, backend_of, postgres_server, postgres_url, schema, caplog
):
    with Proxy(postgres_server.port) as database:
        through = f"postgresql://jobs@127.0.0.1:{database.port}/postgres?schema={schema}"
        app = application(backend_of("sqlite"), through)
        database.refuse()
        with caplog.at_level("INFO", logger="jobs"), running(app):
            until(lambda: "jobs wait in the outbox until its database and the backend answer" in caplog.text)
            database.accept()
            until(lambda: "the jobs in the outbox are carried again after" in caplog.text)
    assert "the backend cannot be reached" not in caplog.text


def test_a_carrier_outlives_an_unexpected_error(
    application, backend_of, postgres_server, postgres_url, schema, reader_of, monkeypatch
):
    app = application(backend_of("sqlite"), postgres_url)
    ids, _ = leave(app, postgres_server)
    monkeypatch.setattr(carrier, "TAKE_OVER", 0.01)
    errors = [ZeroDivisionError("a bug")]

    def fail(name):
        if errors:
            raise errors.pop()

    monkeypatch.setattr(carrier, "failpoint", fail)
    with running(app):
        until(lambda: waiting(postgres_server, schema) == 0)
    assert reader_of(app).read() == Counter(ids)
