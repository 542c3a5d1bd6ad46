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

import psycopg
import pytest
from tests.support.project import until
from tests.support.proxy import Proxy

from jobs_core import App, Config, Flow, failpoints, job, set_current_app
from jobs_core.backends.base import Outcome, Settlement
from jobs_core.config import Outbox
from jobs_core.errors import BackendError
from jobs_core.ids import new_token
from jobs_core.registry import Registry
from jobs_core.supervisor.housekeeper import carrier
from jobs_core.supervisor.housekeeper.carrier import POINTS, Carrier
from jobs_core.testing.services.redis import RedisServer

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
