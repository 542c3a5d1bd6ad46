"""Flows in the SQLite file: exact counters after kills, the cost of a step, and releases beside one another."""

import contextlib
import itertools
import os
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement, State
from jobs_core.backends.flows import SLICE, After, Member, Part
from jobs_core.backends.limits import Limit
from jobs_core.backends.sqlite import SqliteBackend
from jobs_core.errors import BackendError
from jobs_core.ids import new_id

from .test_sqlite_limits import OF_WORKERS_BEFORE, SETTLE_BEFORE

FIXTURES = Path(__file__).parent / "fixtures"
ALL = After("*", "all")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "queue.db"


@pytest.fixture
def open_(path):
    opened = []

    def open_(owner=None):
        backend = SqliteBackend(f"sqlite:///{path}?durability=process", BackendOptions())
        backend.open(owner)
        opened.append(backend)
        return backend

    yield open_
    for backend in opened:
        backend.close()


def member(job_id, flow="f", after=(), stage="", when="done", inputs=(), **facts):
    return Outgoing(job_id, "t", b"", member=Member(flow, stage, tuple(after), when, inputs), **facts)


def push(backend, *jobs, flow="f", **part):
    assert not backend.push_part(Part(flow, **part), jobs, new_id())


def fan_out(backend, count, flow="f", **facts):
    """Push a flow of `count` members that are after one, in parts."""
    jobs = [member(f"{flow}-hub", flow), *(member(f"{flow}-{n}", flow, [After(f"{flow}-hub")], **facts) for n in range(count))]
    for number, start in enumerate(range(0, len(jobs), SLICE)):
        push(backend, *jobs[start : start + SLICE], flow=flow, number=number, last=start + SLICE >= len(jobs))


def end(backend, *deliveries, outcome=Outcome.DONE, **fields):
    backend.settle([Settlement(each.id, each.token, outcome, **fields) for each in deliveries], new_id())


def assert_counts_are_exact(backend):
    """Compare all counters of flows and stages with what they count, and look for rows that nothing leads to."""
    with backend._connection.reading() as db:
        phases = dict.fromkeys(("waiting", "stuck", "active", "done", "dead", "gone"), 0)
        names = ("waiting", "stuck", "active", "done", "dead", "gone", "gone", "dead")
        for n, total, *counts in db.execute("SELECT n, total, waiting, stuck, active, done, dead, gone FROM flow").fetchall():
            found = phases.copy()
            for phase, count in db.execute("SELECT phase, count(*) FROM flow_member WHERE flow = ? GROUP BY 1", (n,)):
                found[names[phase]] += count
            assert counts == list(found.values())
            assert total == sum(counts)
        for n, live, bad, gone, label, flow in db.execute("SELECT n, live, bad, gone, label, flow FROM flow_group").fetchall():
            those = "stage = :n" if label else "flow = :flow AND NOT finale" if label == "" else "0"
            counted = (
                "count(*) FILTER (WHERE phase IN (0, 2)), count(*) FILTER (WHERE phase IN (1, 4)), "
                "count(*) FILTER (WHERE phase IN (5, 7))"
            )
            found = db.execute(f"SELECT {counted} FROM flow_member WHERE {those}", {"n": n, "flow": flow}).fetchone()
            assert (live, bad, gone) == found, label
        waits = "SELECT count(*) FROM flow_edge WHERE dependent NOT IN (SELECT seq FROM flow_member WHERE phase NOT IN (2, 3))"
        assert db.execute(waits).fetchone() == (0,)
        jobs = (
            "SELECT count(*) FROM job WHERE seq < 0 AND seq NOT IN (SELECT seq FROM flow_member WHERE phase NOT IN (3, 5, 6))"
        )
        assert db.execute(jobs).fetchone() == (0,)
        active = "SELECT count(*) FROM flow_member WHERE phase = 2"
        places = "SELECT (SELECT count(*) FROM ready) + (SELECT count(*) FROM lined) + (SELECT count(*) FROM reserved)"
        assert db.execute(active).fetchone() == db.execute(places).fetchone()


# -- kills -------------------------------------------------------------------------------------------


def work_until_killed(path, owner, statement, flow):
    """Push a flow, reserve and settle jobs, and die by SIGKILL at a statement."""
    backend = SqliteBackend(f"sqlite:///{path}?durability=process", BackendOptions())
    backend.open(owner)
    left = itertools.count(statement, -1)
    with backend._connection.reading() as db:
        db.set_trace_callback(lambda sql: next(left) or os.kill(os.getpid(), signal.SIGKILL))
    jobs = [
        member(f"{flow}-0", flow, stage="s", limits=("a",)),
        member(f"{flow}-1", flow, [After(f"{flow}-0")], stage="s", inputs=(f"{flow}-0",)),
        member(f"{flow}-2", flow, [After("s", "stage", True)]),
        member(f"{flow}-3", flow, [ALL], when="failed"),
        member(f"{flow}-4", flow, [ALL]),
    ]
    push(backend, *jobs[:2], flow=flow, last=False)
    push(backend, *jobs[2:], flow=flow, number=1)
    for n, outcome in enumerate((Outcome.RELEASE, Outcome.DONE, Outcome.DEAD, Outcome.DONE, Outcome.DONE)):
        adds = [member(f"{flow}-added-{n}", flow, stage=None)] if outcome is Outcome.DONE else []
        for held in backend.reserve(["t"], 1, new_id()):
            end(backend, held, outcome=outcome, result=b"7", followups=adds)
    backend.retry_flow(flow)
    for held in backend.reserve(["t"], 1, new_id()):
        backend.cancel_flow(flow, finale=True)
        end(backend, held)


def test_no_kill_between_two_statements_loses_a_member_or_counts_an_end_twice(path, open_):
    keeper = open_()
    keeper.define_limits({"a": Limit(concurrency=2)}, {})
    kills = 0
    for statement in itertools.count(1, 11):
        owner, flow = f"victim-{statement}", f"flow-{statement}"
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                work_until_killed(path, owner, statement, flow)
                os._exit(0)
            os._exit(1)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert killed in (-signal.SIGKILL, 0)
        kills += bool(killed)
        assert_counts_are_exact(keeper)
        keeper.release_owner(owner, (), b"")
        keeper.cancel_flow(flow)
        while keeper.housekeep(1000).more:
            pass
        status = keeper.flow(flow)
        assert status is None or (status.state, status.waiting, status.active) in {("cancelled", 0, 0), ("done", 0, 0)}
        assert status is None or status.ended_at is not None
        with keeper._connection.reading() as db:
            rows = (
                "SELECT (SELECT count(*) FROM flow_edge) + (SELECT count(*) FROM flow_work) + (SELECT count(*) FROM reserved)"
            )
            assert db.execute(rows).fetchone() == (0,)
            assert not db.execute("SELECT count(*) FROM flow_result").fetchone()[0]
        if not killed:
            break
    assert kills > 25


@pytest.mark.parametrize("lost", ["before", "after"])
def test_what_follows_goes_on_after_a_kill_of_the_worker_that_began_it(path, open_, lost):
    keeper = open_()
    fan_out(keeper, 3 * SLICE)
    child = os.fork()
    if not child:
        worker = SqliteBackend(f"sqlite:///{path}?durability=process", BackendOptions())
        worker.open("victim")
        (held,) = worker.reserve(["t"], 1, new_id())
        if lost == "after":
            end(worker, held)
        os._exit(0)
    os.waitpid(child, 0)
    keeper.release_owner("victim", ["f-hub"], b"")
    assert keeper.flow("f").waiting == {"before": 3, "after": 2}[lost] * SLICE
    worker, seen = open_("worker"), []
    while keeper.flow("f").ended_at is None:
        held = worker.reserve(["t"], 500, new_id())
        seen += [each.id for each in held]
        end(worker, *held)
    assert len(seen) == len(set(seen)) == 3 * SLICE + (lost == "before")


# -- cost --------------------------------------------------------------------------------------------


def steps_of(backend):
    steps = []
    with backend._connection.reading() as db:
        db.set_progress_handler(lambda: steps.append(1), 10)
    return steps


def test_a_step_costs_the_same_in_a_large_flow_as_in_a_small_one(open_):
    backend = open_("worker")
    steps = steps_of(backend)
    costs = {}
    for size in (20, 4000):
        flow = f"of-{size}"
        fan_out(backend, size, flow)
        push(backend, *(member(f"{flow}-b{n}", flow, [After(f"{flow}-a{n}")]) for n in ()), flow=flow)
        other = f"other-{size}"
        push(backend, member(f"{other}-1", other), member(f"{other}-2", other, [After(f"{other}-1")]), flow=other)
        costs[size] = taken = []
        for step in (
            lambda: push(backend, member(f"{other}-x", f"{other}-x"), flow=f"{other}-x"),
            lambda: end(backend, *[each for each in backend.reserve(["t"], 3, new_id()) if other in each.id]),
            lambda: backend.get(f"{flow}-7"),
            lambda: backend.browse("t", State.WAITING, 10),
            lambda: backend.flow(flow),
            lambda: backend.flow_members(flow, 10),
            lambda: backend.retry_flow(flow),
        ):
            steps.clear()
            step()
            taken.append(len(steps))
        backend.cancel_flow(flow)
        backend.release_owner("worker", (), b"")
        backend.close()
        backend.open("worker")
        steps = steps_of(backend)
        while backend.housekeep(1000).more:
            pass
    for few, many in zip(costs[20], costs[4000], strict=True):
        assert many < 1.5 * few + 20, costs


def test_no_step_decides_about_more_than_a_slice(open_):
    backend = open_("worker")
    fan_out(backend, 4 * SLICE)
    steps = steps_of(backend)
    (held,) = backend.reserve(["t"], 1, new_id())
    steps.clear()
    end(backend, held)
    most = 1.5 * len(steps)
    assert backend.flow("f").active == SLICE
    for call in (lambda: backend.reserve(["t"], 0, new_id()), lambda: backend.cancel_flow("f")):
        steps.clear()
        call()
        assert 0 < len(steps) < 2 * most
    while backend.flow("f").ended_at is None:
        steps.clear()
        assert backend.reserve(["t"], 100, new_id()) == []
        assert len(steps) < 4 * most


def test_plain_jobs_look_nothing_up_for_flows(open_):
    backend = open_("worker")
    statements = []
    with backend._connection.reading() as db:
        db.set_trace_callback(statements.append)

    def drain():
        statements.clear()
        backend.push([Outgoing(new_id(), "plain", b"") for _ in range(20)], new_id())
        held = backend.reserve(["plain"], 20, new_id())
        end(backend, *held[1:])
        end(backend, held[0])
        return len(statements)

    drain()
    before = drain()
    assert not any("flow" in sql for sql in statements if "SELECT topic, NULL" not in sql)
    fan_out(backend, 50)
    assert drain() == before
    assert not any("flow" in sql for sql in statements if "SELECT topic, NULL" not in sql)


# -- releases beside one another ---------------------------------------------------------------------


@pytest.fixture(params=[2, 3])
def before(request, path):
    """Provide a connection of a release without flows, which connected when the file had none."""
    shutil.copy(FIXTURES / f"sqlite-schema-{request.param}.db", path)
    db = sqlite3.connect(path, isolation_level=None)
    yield db
    db.close()


def test_releases_without_flows_work_beside_until_the_first_flow_and_then_stop_with_the_fix(before, open_):
    backend = open_("worker")
    for statement in OF_WORKERS_BEFORE.values():
        before.execute("BEGIN IMMEDIATE")
        with contextlib.suppress(sqlite3.IntegrityError):  # the file of schema 3 has had limits
            before.execute(statement)
        before.execute("ROLLBACK")
    push(backend, member("first"))
    assert before.execute("SELECT value FROM meta WHERE key = 'readable_by'").fetchone() == (4,)
    later = "INSERT OR REPLACE INTO meta (key, value) VALUES ('last_housekept', 3e9)"
    for statement in (*OF_WORKERS_BEFORE.values(), later):
        with pytest.raises(sqlite3.IntegrityError, match="later jobs-core: upgrade jobs-core here"):
            before.execute(statement)
    for statement in SETTLE_BEFORE:
        assert before.execute(statement).rowcount == 1
    assert backend.heartbeat()
    assert backend.housekeep(100)
    assert open_("another").housekeep(100)
    backend.push([Outgoing("limited", "t", b"", limits=("a",))], new_id())
    assert before.execute("SELECT value FROM meta WHERE key = 'readable_by'").fetchone() == (4,)


def test_a_file_with_flows_still_notices_an_outage(path, open_):
    backend = open_()
    push(backend, member("first"))
    assert backend.housekeep(100)
    for last, grace in ((0.0, True), (backend._connection.options.now(), False)):
        with backend._connection.transaction() as tx:
            tx.db.execute("UPDATE meta SET value = ? WHERE key = 'last_housekept_4'", (last,))
            tx.db.execute("INSERT INTO owner (id, lease_until, latest, latest_before_4) VALUES ('late', 5.0, 9e999, 9e999)")
        assert backend.housekeep(100).owners_released == (0 if grace else 1)
        with backend._connection.transaction() as tx:
            tx.db.execute("DELETE FROM owner WHERE id = 'late'")


def test_a_stored_file_with_a_flow_goes_on(path, open_):
    shutil.copy(FIXTURES / "sqlite-schema-4.db", path)
    backend = open_("worker")
    status = backend.flow("flow")
    assert (status.name, status.state, status.total, status.waiting, status.active, status.done, status.dead) == (
        "a flow", "failed", 5, 2, 1, 1, 1)  # fmt: skip
    assert [each.id for each in backend.flow_members("flow", 9) if each.stuck] == ["member-stuck"]
    assert backend.get("member-waiting").state is State.WAITING
    assert backend.retry_flow("flow") == 1
    seen = []
    while held := backend.reserve(["flow"], 9, new_id()):
        seen += [(each.id, each.inputs) for each in held]
        end(backend, *held)
    assert dict(seen) == {
        "member-ready": (),
        "member-dead": (),
        "member-stuck": (("member-done", b"7"),),
        "member-waiting": (),
    }
    assert backend.flow("flow").state == "done"


# -- details -----------------------------------------------------------------------------------------


def test_a_flow_and_all_its_rows_are_forgotten_after_its_time(open_):
    backend = open_("worker")
    jobs = [member("0", stage="s"), *(member(f"{n}", after=[After("0")], inputs=("0",)) for n in range(1, 4))]
    push(backend, *jobs, member("4", after=[After("s", "stage")]), ttl=0.0)
    while held := backend.reserve(["t"], 9, new_id()):
        end(backend, *held, result=b"7")
    backend.housekeep(100)
    assert backend.flow("f") is None
    with backend._connection.reading() as db:
        for table in ("flow", "flow_member", "flow_group", "flow_edge", "flow_work", "flow_result", "job"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


def test_a_dead_letter_of_a_forgotten_flow_is_kept_and_not_retried(open_):
    backend = open_("worker")
    push(backend, member("0"), ttl=0.0)
    end(backend, *backend.reserve(["t"], 1, new_id()), outcome=Outcome.DEAD, reason="no")
    assert backend.cancel_flow("f")
    backend.housekeep(100)
    assert backend.flow("f") is None
    record = backend.get("0")
    assert (record.state, record.reason, record.member) == (State.DEAD, "no", None)
    assert backend.requeue(["0"]) == 0
    assert backend.drop(["0"]) == 1


def test_an_error_in_a_part_leaves_nothing_behind(open_):
    backend = open_()
    with pytest.raises(BackendError, match="no member yet"):
        backend.push_part(Part("f"), [member("a"), member("b", after=[After("x")])], new_id())
    assert backend.topics() == []
    with backend._connection.reading() as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'readable_by'").fetchone() == (1,)
