"""The outbox: what transactions leave in the application's database reaches the queue, once and in order."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter

import psycopg
import pytest
from tests.support.project import Project, until
from tests.support.supervised import Supervised

from jobs_core import App, BackendUnavailable, Config, TransactionError, Unique, job
from jobs_core.backends.base import State
from jobs_core.backends.outbox import MOST_LOADED
from jobs_core.config import Outbox
from jobs_core.errors import BackendError
from jobs_core.ids import new_id
from jobs_core.registry import Registry
from jobs_core.supervisor.housekeeper.carrier import Carrier

registry = Registry()


@job(registry=registry, name="tasks.note")
def note(text: str = "x") -> None: ...


def application(root, postgres_url):
    config = Config(backend=f"sqlite:///{root}/queue.db", outbox=Outbox(url=postgres_url), base_dir=root)
    return App(config, registry=registry)


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path / "project")
    yield made
    made.close()


@pytest.fixture
def app(tmp_path, postgres_url):
    app = application(tmp_path, postgres_url)
    yield app
    app.close()


def leave(app, server, *texts, topic="default", **options):
    with psycopg.connect(server.url) as connection:
        return app.enqueue_many([note.using(transaction=connection, topic=topic, **options).call(text) for text in texts])


def carry(app):
    return Carrier(app, lambda state: None).carry_all()


def queued(app, topic="default"):
    records = app.operate(lambda backend: backend.browse(topic, State.READY, 100_000))
    return [app.read(record).args[0] for record in records]


def state(app):
    outbox = app.new_outbox()
    outbox.open()
    try:
        return outbox.state(), outbox.refused(10)
    finally:
        outbox.close()


def test_a_job_waits_in_the_outbox_if_and_only_if_the_transaction_commits(app, postgres_server):
    with contextlib.closing(psycopg.connect(postgres_server.url)) as connection:
        gone = app.enqueue(note.using(transaction=connection).call("gone"))
        connection.rollback()
    kept = leave(app, postgres_server, "a", "b", "c")
    assert [handle.status() for handle in (gone, *kept)] == [State.UNKNOWN, *[State.SCHEDULED] * 3]
    assert state(app)[0].waiting == 3
    assert carry(app) == 3
    assert queued(app) == ["a", "b", "c"]
    assert [handle.status() for handle in (gone, *kept)] == [State.UNKNOWN, *[State.READY] * 3]
    assert state(app)[0].waiting == 0


def test_every_option_of_a_job_arrives(app, postgres_server):
    unique = Unique(key="only", scope="queued")
    first, second = (leave(app, postgres_server, text, unique=unique, priority=7)[0] for text in ("first", "second"))
    (later,) = leave(app, postgres_server, "later", delay=3600)
    carry(app)
    record = app.find(first.id)
    assert (record.priority, record.state) == (7, State.READY)
    assert app.find(second.id) is None  # its key was held
    assert 3590 < app.find(later.id).due - app.find(later.id).broker_now <= 3600


def test_loads_are_bounded_and_keep_the_order(app, postgres_server):
    texts = [str(n) for n in range(2 * MOST_LOADED + 10)]
    leave(app, postgres_server, *texts)
    outbox = app.new_outbox()
    outbox.open()
    load = outbox.take(MOST_LOADED)
    assert len(load.items) == MOST_LOADED
    assert outbox.take(MOST_LOADED) == load  # until it is finished
    outbox.close()
    assert carry(app) == len(texts)
    assert queued(app) == texts


def test_large_jobs_are_carried_few_at_a_time(app, postgres_server):
    leave(app, postgres_server, *["x" * 900_000] * 40)
    outbox = app.new_outbox()
    outbox.open()
    assert 16 <= len(outbox.take(MOST_LOADED).items) <= 19
    outbox.close()


def test_one_carrier_works_at_a_time_and_another_takes_over(app, postgres_server):
    one, other = app.new_outbox(), app.new_outbox()
    one.open()
    other.open()
    assert one.lead()
    assert one.lead()
    assert not other.lead()
    leave(app, postgres_server, "a")
    assert carry(app) is None
    one.close()
    assert other.lead(), "at once"
    other.close()
    assert carry(app) == 1


def test_a_refused_job_waits_while_others_pass_and_is_tried_again(app, postgres_server, monkeypatch):
    monkeypatch.setattr("jobs_postgres.outbox.FIRST_RETRY", 600.0)  # on a slow machine, 5 s are over before the next look
    kind = type(app.new_backend())
    push, full = kind.push, [True]

    def refuse(self, messages, request):
        if full[0] and any(message.topic == "full" for message in messages):
            raise BackendError("topic full has no room")
        return push(self, messages, request)

    monkeypatch.setattr(kind, "push", refuse)
    leave(app, postgres_server, "a", "b")
    (stuck,) = leave(app, postgres_server, "stuck", topic="full")
    leave(app, postgres_server, "c")
    carry(app)
    assert queued(app) == ["a", "b", "c"]
    counted, (refused,) = state(app)
    assert (counted.waiting, counted.refused) == (1, 1)
    assert (refused.id, refused.topic, refused.tries, refused.reason) == (stuck.id, "full", 1, "topic full has no room")
    assert 0 < refused.next_try <= 600
    assert stuck.status() is State.SCHEDULED
    full[0] = False
    assert carry(app) == 0
    outbox = app.new_outbox()
    outbox.open()
    assert outbox.retry([stuck.id, new_id()]) == 1
    outbox.close()
    assert carry(app) == 1
    assert queued(app, "full") == ["stuck"]


def test_an_outage_of_the_queue_keeps_the_load_under_its_request(app, postgres_server, monkeypatch):
    kind = type(app.new_backend())
    push, requests, outages = kind.push, [], [2]

    def fail(self, messages, request):
        requests.append(request)
        found = push(self, messages, request)
        if outages[0]:
            outages[0] -= 1
            raise BackendUnavailable("the answer was lost")
        return found

    monkeypatch.setattr(kind, "push", fail)
    leave(app, postgres_server, "a", "b")
    carrier = Carrier(app, lambda state: None)
    running = threading.Thread(target=carrier.run)
    running.start()
    until(lambda: state(app)[0].waiting == 0)
    carrier.stop()
    running.join(60)
    assert len(requests) == 3
    assert len(set(requests)) == 1
    assert queued(app) == ["a", "b"]


def test_a_transaction_on_another_database_is_refused(app, postgres_server, schema):
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{schema}"'.encode())
    try:
        with (
            contextlib.closing(psycopg.connect(postgres_server.url_of("jobs", schema))) as connection,
            pytest.raises(TransactionError, match="jobsctl outbox setup"),
        ):
            app.enqueue(note.using(transaction=connection).call())
    finally:
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{schema}"'.encode())


def test_a_supervisor_carries_and_nothing_is_lost_or_repeated_when_its_housekeeper_is_killed(
    project, postgres_server, postgres_url
):
    project.configure(f'[outbox]\nurl = "{postgres_url}"')
    app = application(project.root, postgres_url)
    supervisor = Supervised(project)
    texts = [str(n) for n in range(2000)]
    for at in range(0, len(texts), 100):
        leave(app, postgres_server, *texts[at : at + 100])
        if at % 500 == 400:
            housekeeper = supervisor.board().backlog.pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(housekeeper, signal.SIGKILL)
    project.until(lambda: len(project.ledger()) >= len(texts))
    assert supervisor.stop() == 0
    assert Counter(line.split()[-1] for line in project.ledger()) == Counter(texts)
    app.close()


def test_operators_see_retry_and_delete_what_is_in_the_outbox(project, postgres_server, postgres_url, monkeypatch):
    assert "there is no outbox" in project.here("outbox", code=2)
    project.configure(f'[outbox]\nurl = "{postgres_url}"')
    assert "the outbox is set up" in project.here("outbox", "setup")
    assert "the outbox is empty" in project.here("outbox")
    app = application(project.root, postgres_url)
    kind = type(app.new_backend())
    push = kind.push

    def refuse(self, messages, request):
        if any(message.topic == "full" for message in messages):
            raise BackendError("no room")
        return push(self, messages, request)

    monkeypatch.setattr(kind, "push", refuse)
    (stuck,) = leave(app, postgres_server, "stuck", topic="full")
    leave(app, postgres_server, "fine")
    assert "2 jobs carried" in project.here("outbox", "carry")
    text = project.here("outbox")
    assert "1 job in the outbox, the oldest for" in text
    assert "the backend has refused 1 of them" in text
    assert f"{stuck.id}" in text
    assert "no room" in text
    assert "`jobsctl outbox` lists them" in project.here("check", code=None)
    assert "1 job or flow will be tried at once" in project.here("outbox", "retry", stuck.id)
    assert "0 jobs or flows deleted" in project.here("outbox", "drop", "--yes", "unknown", code=1)
    assert "1 id not found: `jobsctl outbox` lists" in project.here("outbox", "retry", "unknown", code=1)
    assert "1 job or flow deleted" in project.here("outbox", "drop", "--yes", stuck.id)
    assert "the outbox is empty" in project.here("outbox")
    app.close()
