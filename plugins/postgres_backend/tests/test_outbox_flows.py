"""Flows in the outbox: a flow that a transaction leaves there reaches the backend as a whole, or waits there and says why."""

from __future__ import annotations

import contextlib
import os
import threading
import time

import psycopg
import pytest
from tests.support.project import Project, until

from jobs_core import (
    App,
    Config,
    Flow,
    FlowLost,
    NotSupported,
    ResultNotStored,
    ResultTimeout,
    Unique,
    chain,
    group,
    job,
    set_current_app,
)
from jobs_core.backends.base import State
from jobs_core.config import Outbox, Payloads
from jobs_core.errors import BackendUnavailable
from jobs_core.registry import Registry
from jobs_core.supervisor.housekeeper.carrier import Carrier
from jobs_core.worker.main import Worker, prepare

registry = Registry()


@job(registry=registry, name="tasks.note")
def note(text: str = "x") -> None: ...


@job(registry=registry, name="tasks.double", store_result=True)
def double(number: int) -> int:
    return 2 * number


@job(registry=registry, name="tasks.total", store_result=True)
def total(numbers: list[int], more: int = 0) -> int:
    return sum(numbers) + more


@pytest.fixture
def app(tmp_path, postgres_url):
    app = App(
        Config(backend=f"sqlite:///{tmp_path}/queue.db", outbox=Outbox(url=postgres_url), base_dir=tmp_path), registry=registry
    )
    set_current_app(app)
    yield app
    set_current_app(None)
    app.close()


def carry(app):
    return Carrier(app, lambda state: None).carry_all()


def in_outbox(app):
    outbox = app.new_outbox()
    outbox.open()
    try:
        return outbox.state().waiting, outbox.refused(10)
    finally:
        outbox.close()


def leave(server, members=3, *calls, name="order"):
    """Leave a flow in the outbox, of which the calls come last."""
    with psycopg.connect(server.url) as connection, Flow(name, transaction=connection) as flow:
        first = [flow.add(note.call(str(n))) for n in range(members)]
        last = [flow.add(call, after=flow.all) for call in calls]
    return flow.handle, [member.handle for member in [*first, *last]]


def run_all(app):
    """Run what is ready, and what becomes ready by it."""
    Worker(app, "w", app.config.pools["default"], prepare(app), drain=True).run()


def try_again(app, flow_id):
    outbox = app.new_outbox()
    outbox.open()
    try:
        assert outbox.retry([flow_id]) == 1
    finally:
        outbox.close()
    return carry(app)


def test_a_flow_waits_in_the_outbox_if_and_only_if_the_transaction_commits(app, postgres_server):
    with contextlib.closing(psycopg.connect(postgres_server.url)) as connection:
        with Flow(transaction=connection) as flow:
            lost = flow.add(note.call())
        assert (flow.handle.status(), lost.handle.status()) == ("unknown", State.UNKNOWN)
        connection.rollback()
    assert (flow.handle.status(), lost.handle.status()) == ("unknown", State.UNKNOWN)
    handle, members = leave(postgres_server, 3, note.call("last"))
    assert handle.status() == "scheduled"
    assert (handle.progress().total, handle.progress().waiting, handle.progress().name) == (4, 4, "order")
    assert {member.status() for member in members} == {State.SCHEDULED}
    assert in_outbox(app) == (4, [])
    assert carry(app) == 4
    assert in_outbox(app) == (0, [])
    assert (handle.status(), handle.progress().total) == ("running", 4)
    assert [member.status() for member in members] == [State.READY] * 3 + [State.WAITING]


@pytest.mark.parametrize("members", [0, 2500], ids=["empty", "three parts"])
def test_a_flow_of_any_size_is_carried(app, postgres_server, members):
    handle, jobs = leave(postgres_server, members)
    assert handle.status() == "scheduled"
    assert carry(app) == members
    assert (handle.status(), handle.progress().total) == ("running" if members else "done", members)
    assert {member.status() for member in jobs[:: max(1, members // 10)]} <= {
        State.READY,
        State.WAITING,
    }  # a large flow begins in slices
    assert carry(app) == 0


def test_jobs_and_flows_are_carried_in_their_order(app, postgres_server, monkeypatch):
    pushed = []
    kind = type(app.new_backend())
    for name in ("push", "push_part"):
        call = getattr(kind, name)

        def noted(self, *args, call=call, name=name):
            messages = args[-2]
            pushed.append((name, [message.id for message in messages], args[-1]))
            return call(self, *args)

        monkeypatch.setattr(kind, name, noted)
    expected = []
    with psycopg.connect(postgres_server.url) as connection:
        for n in range(4):
            handles = app.enqueue_many([note.using(transaction=connection).call(str(m)) for m in range(n + 1)])
            with Flow(transaction=connection) as flow:
                added = [flow.add(note.call()) for _ in range(2)]
            expected += [("push", [handle.id for handle in handles]), ("push_part", [member.id for member in added])]
    carry(app)
    assert [(name, ids) for name, ids, _ in pushed] == expected
    assert len({request for *_, request in pushed}) == len(pushed)


def test_chains_and_groups_pass_their_results(app, postgres_server):
    with psycopg.connect(postgres_server.url) as connection, Flow(transaction=connection) as flow:
        end = flow.add(chain(group(double.call(n) for n in range(4)), total.step(more=1)))
    carry(app)
    run_all(app)
    assert flow.handle_of(end).result(30) == 13
    assert flow.handle.wait(30).state == "done"


def test_a_flow_with_a_member_whose_key_is_held_waits_with_the_reason_and_others_pass(app, postgres_server):
    only = Unique(key="only", scope="queued")
    holder = app.enqueue(note.using(unique=only).call("holder"))
    handle, _ = leave(postgres_server, 2, note.using(unique=only).call("refused"))
    other, _ = leave(postgres_server, 2)
    carry(app)
    waiting, (refused,) = in_outbox(app)
    assert (waiting, refused.id, refused.topic, refused.members, refused.tries) == (3, handle.id, "order", 3, 1)
    assert f"job {holder.id} holds the unique key 'tasks.note:only' of its member tasks.note" in refused.reason
    assert (handle.status(), other.status()) == ("scheduled", "running")
    holder.cancel()
    try_again(app, handle.id)
    assert handle.status() == "running"


def test_a_large_flow_with_a_member_whose_key_is_held_goes_on_where_it_stopped(app, postgres_server):
    only = Unique(key="only", scope="queued")
    holder = app.enqueue(note.using(unique=only).call("holder"))
    handle, members = leave(postgres_server, 2100, note.using(unique=only).call("refused"))
    carry(app)
    waiting, (refused,) = in_outbox(app)
    assert (waiting, refused.members) == (101, 101)
    assert handle.status() == "open"  # no member runs
    assert {member.status() for member in members[:2000:200]} == {State.WAITING}
    assert {member.status() for member in members[2000::20]} == {State.SCHEDULED}
    holder.cancel()
    try_again(app, handle.id)
    assert in_outbox(app) == (0, [])
    assert (handle.status(), handle.progress().total) == ("running", 2101)


def test_a_flow_that_is_cancelled_while_it_is_carried_is_dropped_from_the_outbox(app, postgres_server):
    only = Unique(key="only", scope="queued")
    app.enqueue(note.using(unique=only).call("holder"))
    handle, _ = leave(postgres_server, 1100, note.using(unique=only).call("refused"))
    carry(app)
    assert handle.cancel()
    try_again(app, handle.id)
    assert in_outbox(app) == (0, [])
    assert handle.status() == "cancelled"


def test_an_outage_in_the_middle_of_a_large_flow_repeats_nothing(app, postgres_server, monkeypatch):
    kind = type(app.new_backend())
    push, requests = kind.push_part, []

    def fail(self, part, messages, request):
        requests.append(request)
        found = push(self, part, messages, request)
        if len(requests) % 2:
            raise BackendUnavailable("the answer was lost")
        return found

    monkeypatch.setattr(kind, "push_part", fail)
    handle, _ = leave(postgres_server, 2500)
    carrier = Carrier(app, lambda state: None)
    running = threading.Thread(target=carrier.run)
    running.start()
    until(lambda: in_outbox(app)[0] == 0)
    carrier.stop()
    running.join(60)
    assert len(requests) == 6
    assert len(set(requests)) == 3
    assert handle.progress().total == 2500


def test_a_wait_for_a_flow_or_result_goes_on_while_it_is_in_the_outbox(app, postgres_server):
    with psycopg.connect(postgres_server.url) as connection, Flow(transaction=connection) as flow:
        end = flow.add(chain(double.call(3), double.step()))
        with pytest.raises(FlowLost, match="its transaction has not committed"):
            flow.handle.wait(5)
    handle = flow.handle_of(end)
    with pytest.raises(ResultTimeout, match="scheduled; of 2 members, 2 waiting"):
        handle.wait(0.3)
    with pytest.raises(ResultTimeout):
        handle.result(0.3)
    found = []
    waiting = [threading.Thread(target=lambda: found.append(handle.wait(60).state))]
    waiting.append(threading.Thread(target=lambda: found.append(handle.result(60))))
    for thread in waiting:
        thread.start()
    carry(app)
    run_all(app)
    for thread in waiting:
        thread.join(60)
    assert sorted(map(str, found)) == ["12", "done"]


def test_what_is_asked_for_before_the_commit_says_that_it_cannot_come(app, postgres_server):
    with psycopg.connect(postgres_server.url) as connection:
        handle = app.enqueue(double.using(transaction=connection).call(2))
        with pytest.raises(ResultNotStored, match="the transaction that enqueued it has not committed"):
            handle.result(60)
    with pytest.raises(ResultTimeout):
        handle.result(0.2)
    carry(app)
    run_all(app)
    assert handle.result(60) == 4


def test_a_backend_without_flows_refuses_them_when_they_are_made(postgres_url, postgres_server, tmp_path):
    without = App(Config(backend="amqp://localhost:1", outbox=Outbox(url=postgres_url), base_dir=tmp_path), registry=registry)
    set_current_app(without)
    try:
        with (
            psycopg.connect(postgres_server.url) as connection,
            pytest.raises(NotSupported, match="flows"),
            Flow(transaction=connection) as flow,
        ):
            flow.add(note.call())
    finally:
        set_current_app(None)
        without.close()


@pytest.fixture
def project(tmp_path, postgres_url):
    made = Project(tmp_path / "project")
    made.configure(f'[outbox]\nurl = "{postgres_url}"')
    yield made
    made.close()


def test_operators_see_why_a_flow_waits_and_can_delete_it(project, postgres_server, postgres_url):
    project.here("outbox", "setup")
    app = project.app()
    set_current_app(app)
    try:
        only = Unique(key="only", scope="queued")
        holder = app.enqueue(note.using(unique=only).call("holder"))
        handle, members = leave(postgres_server, 1200, note.using(unique=only).call("refused"))
        assert "scheduled; of 1,201 members, 1,201 waiting" in project.here("flow", "show", handle.id)
        assert "1,201 members of flow" in project.here("flow", "show", handle.id)
        assert handle.id in project.here("why", members[0].id)
        project.here("outbox", "carry")
        text = project.here("outbox")
        assert "201 jobs in the outbox" in text
        assert "flow order of 201 members" in text
        assert f"job {holder.id} holds the unique key" in text
        shown = project.here("flow", "show", handle.id)
        assert "the backend has refused it once" in shown
        assert "its last part has not arrived" in shown
        assert "1 job or flow deleted" in project.here("outbox", "drop", "--yes", handle.id)
        assert handle.status() == "cancelled"
        assert "the outbox is empty" in project.here("outbox")
    finally:
        set_current_app(None)
        app.close()


def test_what_waits_in_the_outbox_can_be_cancelled(app, postgres_server):
    with psycopg.connect(postgres_server.url) as connection:
        gone, kept = app.enqueue_many([note.using(transaction=connection).call(text) for text in ("gone", "kept")])
    assert gone.cancel() is State.CANCELLED
    assert gone.cancel() is State.UNKNOWN
    handle, members = leave(postgres_server, 1100)
    assert members[0].cancel() is State.SCHEDULED  # others wait for it: only the flow can be cancelled
    assert handle.cancel()
    assert not handle.cancel()
    assert handle.status() == "unknown"
    assert carry(app) == 1
    assert (gone.status(), kept.status(), members[0].status()) == (State.UNKNOWN, State.READY, State.UNKNOWN)


def test_commands_find_and_cancel_what_waits_in_the_outbox(project, postgres_server):
    project.here("outbox", "setup")
    app = project.app()
    set_current_app(app)
    try:
        with psycopg.connect(postgres_server.url) as connection:
            one = app.enqueue(note.using(transaction=connection).call("gone"))
        handle, members = leave(postgres_server, 2)
        assert "3 jobs in the outbox" in (listed := project.here("flows"))
        assert "flows among them are not listed until they are carried" in listed
        assert f"{one.id} cancelled" in project.here("cancel", one.id)
        assert f"{one.id} is unknown" in project.here("cancel", one.id, code=1)
        member = project.here("cancel", members[0].id, code=1)
        assert f"it is a member of flow {handle.id} in the outbox; `jobsctl flow cancel {handle.id}`" in member
        assert f"{handle.id} deleted from the outbox" in project.here("flow", "cancel", handle.id)
        assert handle.status() == "unknown"
        assert "unknown flow" in project.here("flow", "cancel", handle.id, code=1)
        assert "in the outbox" not in project.here("flows")
    finally:
        set_current_app(None)
        app.close()


def test_large_arguments_of_a_job_in_the_outbox_are_not_cleaned_away(tmp_path, postgres_url, postgres_server):
    config = Config(
        backend=f"sqlite:///{tmp_path}/queue.db",
        outbox=Outbox(url=postgres_url),
        base_dir=tmp_path,
        payloads=Payloads(url=f"file://{tmp_path}/blobs", above="1kB", grace="1s"),
    )
    app = App(config, registry=registry)
    with contextlib.closing(psycopg.connect(postgres_server.url)) as connection:
        kept = app.enqueue(note.using(transaction=connection).call("x" * 10_000))
        connection.commit()
        app.enqueue(note.using(transaction=connection).call("y" * 10_000))
        connection.rollback()
    long_ago = time.time() - 3600
    blobs = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    for path in blobs:
        os.utime(path, (long_ago, long_ago))
    assert app.clean_payloads() == 1  # that of the job that was rolled back
    carry(app)
    assert app.read(app.find(kept.id)).args == ["x" * 10_000]
    app.close()
