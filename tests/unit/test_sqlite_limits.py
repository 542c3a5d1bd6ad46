"""Limits and fairness in the SQLite file: the choice of jobs, the cost of a step, and releases beside one another."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings

from jobs_core.backends.base import Answer, BackendOptions, Outcome, Outgoing, Settlement, State
from jobs_core.backends.limits import Limit, Lines
from jobs_core.backends.sqlite import SqliteBackend
from jobs_core.errors import BackendError
from jobs_core.ids import new_id

from .test_memory_lines import STEPS, Reference, replay

FIXTURES = Path(__file__).parent / "fixtures"


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


def push(backend, *ids, **facts):
    assert not backend.push([Outgoing(job_id, "t", b"", **facts) for job_id in ids], new_id())


def take(backend, most=100):
    return [delivery.id for delivery in backend.reserve(["t"], most, new_id())]


# -- choice ------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_the_sqlite_backend_chooses_as_the_rules_say_and_counts_exactly(steps):
    model = Reference()
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/queue.db?durability=process"
        backend = SqliteBackend(url, BackendOptions(clock=lambda: model.now, lease=1e9))
        replay(steps, model, backend)
        assert_counts_are_exact(backend, [limit for job in model.held for limit in job["slots"]])
        backend.close()


def assert_counts_are_exact(backend, slots):
    """Compare all counters with what they count; `slots` has a limit for each slot that is taken."""
    with backend._connection.reading() as db:
        assert dict(db.execute("SELECT name, used FROM limit_state WHERE used")) == {
            limit: slots.count(limit) for limit in slots
        }
        filed = dict(db.execute("SELECT filed_under, sum(size) FROM line WHERE filed_under IS NOT NULL GROUP BY 1"))
        assert dict(db.execute("SELECT name, waiting FROM limit_state WHERE waiting")) == filed
        assert dict(db.execute("SELECT id, size FROM line")) == dict(db.execute("SELECT line, count(*) FROM lined GROUP BY 1"))
        totals = (
            "SELECT sum(size) FILTER (WHERE filed_under IS NULL), sum(size) FILTER (WHERE filed_under IS NOT NULL) FROM line"
        )
        counted = db.execute("SELECT sum(ready), sum(limited) FROM topic_lines").fetchone()
        assert [count or 0 for count in counted] == [count or 0 for count in db.execute(totals).fetchone()]


# -- kills -------------------------------------------------------------------------------------------


def work_until_killed(path, owner, statement):
    """Reserve and settle jobs, and die by SIGKILL at a statement."""
    backend = SqliteBackend(f"sqlite:///{path}?durability=process", BackendOptions())
    backend.open(owner)
    left = itertools.count(statement, -1)
    with backend._connection.reading() as db:
        db.set_trace_callback(lambda sql: next(left) or os.kill(os.getpid(), signal.SIGKILL))
    for outcome in (Outcome.RELEASE, Outcome.RETRY, Outcome.DONE):
        held = backend.reserve(["t"], 3, new_id())
        backend.settle([Settlement(each.id, each.token, outcome, ran=False) for each in held[1:]], new_id())


@pytest.mark.parametrize("fair", [False, True])
def test_no_kill_between_two_statements_leaks_a_slot_a_token_or_a_place(path, open_, fair):
    keeper = open_()
    keeper.define_limits({"a": Limit(concurrency=2), "r": Limit(interval=1e-6)}, {"t": Lines(fair, 2 if fair else None)})
    for number in range(12):
        push(keeper, f"{number}", limits=(("a",), ("a", "r"), ("r",), ())[number % 4], key="kl"[number % 2])
    for statement in itertools.count(5 * fair, 11):
        owner = f"victim-{statement}"
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                work_until_killed(path, owner, statement)
                os._exit(0)
            os._exit(1)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert killed in (-signal.SIGKILL, 0)
        with keeper._connection.reading() as db:
            held = db.execute("SELECT slots FROM reserved WHERE slots NOT NULL").fetchall()
        assert_counts_are_exact(keeper, [limit for (slots,) in held for limit in json.loads(slots)])
        keeper.release_owner(owner, (), b"")
        assert_counts_are_exact(keeper, [])
        assert keeper.counts(["t"])["t"].reserved == 0
        if not killed:
            break
    assert statement > 60
    worker, taken = open_("worker"), []
    while worker.wait(["t"], 0.1) and (some := worker.reserve(["t"], 12, new_id())):
        taken += [each.id for each in some]
        worker.settle([Settlement(each.id, each.token, Outcome.DONE) for each in some], new_id())
    assert len(taken) == len(set(taken))
    with keeper._connection.reading() as db:
        assert db.execute("SELECT (SELECT count(*) FROM job) + (SELECT count(*) FROM line)").fetchone() == (0,)


# -- cost --------------------------------------------------------------------------------------------


CROWDS = {
    "one line": lambda number: {"limits": ("a",)},
    "lines": lambda number: {"limits": ("a", f"b:{number}")},
    "keys": lambda number: {"key": f"{number // 2}"},
}


@pytest.mark.parametrize("crowd", CROWDS)
def test_a_step_costs_the_same_with_many_jobs_lines_and_keys_as_with_few(open_, crowd):
    backend = open_("worker")
    backend.define_limits({"a": Limit(concurrency=1)}, {"t": Lines(fair=crowd == "keys")})
    steps = []
    with backend._connection.reading() as db:
        db.set_progress_handler(lambda: steps.append(1), 10)

    def cost(count):
        """Return the steps of SQLite's machine for a push, a look at a full limit, and a settlement that opens it."""
        push(backend, "first", limits=("a",))
        (held,) = backend.reserve(["t"], 1, new_id())
        backend.push([Outgoing(f"{n}", "t", b"", **CROWDS[crowd](n)) for n in range(count)], new_id())
        steps.clear()
        push(backend, "last", **CROWDS[crowd](count))
        backend.reserve(["t"], 1, new_id())
        backend.settle([Settlement(held.id, held.token, Outcome.DONE)], new_id())
        assert take(backend, 1)
        taken = len(steps)
        backend.purge("t", State.READY)
        return taken

    few = cost(20)
    backend.close()
    backend.open("worker")
    with backend._connection.reading() as db:
        db.set_progress_handler(lambda: steps.append(1), 10)
    assert cost(2000) < 1.5 * few


def test_jobs_without_limits_are_taken_together_up_to_the_next_line(open_):
    backend = open_("worker")
    statements = []
    backend.define_limits({"a": Limit(concurrency=9)}, {})
    push(backend, *[f"plain-{n}" for n in range(50)])
    push(backend, "limited", limits=("a",))
    push(backend, *[f"later-{n}" for n in range(50)])
    with backend._connection.reading() as db:
        db.set_trace_callback(statements.append)
    assert take(backend) == [*(f"plain-{n}" for n in range(50)), "limited", *(f"later-{n}" for n in range(49))]
    assert len(statements) < 50


@pytest.mark.parametrize("at_once", [True, False])
def test_a_definition_opens_any_number_of_values_in_steps(open_, at_once):
    backend = open_("worker")
    backend.define_limits({"v": Limit(concurrency=0), "other": Limit(concurrency=0)}, {})
    backend.push([Outgoing(f"{n}", "t", b"", limits=(f"v:{n}",)) for n in range(250)], new_id())
    push(backend, "other", limits=("other",))
    assert take(backend) == []
    steps = []
    with backend._connection.reading() as db:
        db.set_progress_handler(lambda: steps.append(1), 10)
    backend.define_limits({"v": Limit(concurrency=1)}, {})
    assert len(steps) < 5000
    taken = []
    while backend.wait(["t"], 0):
        taken += take(backend, 100 if at_once else 7)
    assert sorted(taken, key=int) == [f"{n}" for n in range(250)]


@pytest.mark.parametrize("opening", ["a rate", "a definition", "rules"])
def test_nobody_is_woken_for_long_by_a_limit_that_nothing_waits_for_any_more(open_, opening):
    backend = open_("worker")
    backend.define_limits({"r": Limit(interval=0.01), "a": Limit(concurrency=0)}, {"t": Lines(fair=opening == "rules")})
    push(backend, "first", limits=("r",))
    assert take(backend) == ["first"]
    push(backend, "second", limits=("r",))
    push(backend, "third", limits=("a",))
    if opening != "a rate":
        backend.define_limits({"a": Limit(concurrency=1)}, {"t": Lines()})
    for job_id in ("second", "third"):
        backend.cancel(job_id)
    while backend.wait(["t"], 0.1):
        assert take(backend) == []


# -- releases beside one another ---------------------------------------------------------------------

LATER = 3e9
OF_WORKERS_BEFORE = {
    "open": f"INSERT OR REPLACE INTO owner (id, lease_until) VALUES ('another', {LATER})",
    "reserve": f"UPDATE owner SET lease_until = {LATER}, reserve_request = 'r' WHERE id = 'the-owner'",
    "heartbeat": f"UPDATE owner SET lease_until = {LATER} WHERE id = 'the-owner'",
    "housekeep": f"UPDATE meta SET value = {LATER} WHERE key = 'last_housekeep'",
}
"""The first change that each call of the release before makes in its transaction."""

SETTLE_BEFORE = (
    "DELETE FROM job WHERE seq IN (SELECT seq FROM reserved WHERE owner = 'the-owner')",
    "DELETE FROM reserved WHERE owner = 'the-owner'",
    "UPDATE owner SET settle_request = 's', settle_answers = x'73' WHERE id = 'the-owner'",
)


@pytest.fixture
def before(path):
    """Provide a connection of the release before, which connected when the file had no job with limits."""
    shutil.copy(FIXTURES / "sqlite-schema-2.db", path)
    db = sqlite3.connect(path, isolation_level=None)
    yield db
    db.close()


FIRST_USES = {
    "a job with limits": lambda backend: push(backend, "new", limits=("a",)),
    "a scheduled job with limits": lambda backend: push(backend, "new", limits=("a",), delay=60.0),
    "a line of a fair topic": lambda backend: push(backend, "new", key="k"),
    "a retry with limits": lambda backend: backend.settle(
        [Settlement(each.id, each.token, Outcome.RETRY, limits=("a",)) for each in backend.reserve(["t"], 1, new_id())],
        new_id(),
    ),
}


@pytest.mark.parametrize("use", FIRST_USES)
def test_the_release_before_works_beside_until_the_first_use_and_then_stops_with_the_fix(before, open_, use):
    backend = open_("worker")
    backend.define_limits({"a": Limit(concurrency=1)}, {"t": Lines(fair="fair" in use)})
    push(backend, "plain")
    for statement in OF_WORKERS_BEFORE.values():
        before.execute("BEGIN IMMEDIATE")
        before.execute(statement)
        before.execute("ROLLBACK")
    assert before.execute("SELECT value FROM meta WHERE key = 'readable_by'").fetchone() == (1,)
    FIRST_USES[use](backend)
    assert before.execute("SELECT value FROM meta WHERE key = 'readable_by'").fetchone() == (3,)
    for statement in OF_WORKERS_BEFORE.values():
        with pytest.raises(sqlite3.IntegrityError, match="later jobs-core: upgrade jobs-core here"):
            before.execute(statement)
    for statement in SETTLE_BEFORE:
        assert before.execute(statement).rowcount == 1
    assert backend.heartbeat()
    assert backend.housekeep(100)
    assert open_("another").housekeep(100)


def test_a_file_that_excludes_the_release_before_still_notices_an_outage(before, open_):
    backend = open_()
    push(backend, "new", limits=("a",))
    for last, grace in ((0.0, True), (backend._connection.options.now(), False)):
        before.execute("DELETE FROM meta WHERE key = 'last_housekept'")
        before.execute("INSERT INTO meta (key, value) VALUES ('last_housekept', ?)", (last,))
        before.execute("INSERT OR REPLACE INTO owner (id, lease_until, latest) VALUES ('late', 5.0, 9e999)")
        assert backend.housekeep(100).owners_released == (0 if grace else 1)


RELEASE_BEFORE = (
    "CREATE TEMP TABLE its AS SELECT seq FROM reserved WHERE owner = 'worker'",
    "DELETE FROM reserved WHERE owner = 'worker'",
    "DELETE FROM owner WHERE id = 'worker'",
    "INSERT INTO ready SELECT topic, rank, coalesce(ready_at, pushed_at), seq FROM job WHERE seq IN (SELECT seq FROM its)",
)
"""What `release_owner` of the release before does: a supervisor of it, whose code was upgraded, stays connected."""


def test_what_a_supervisor_of_the_release_before_makes_of_a_dead_worker_is_put_right(before, open_):
    worker, other = open_("worker"), open_("other")
    worker.define_limits({"a": Limit(concurrency=2)}, {})
    worker.push([Outgoing(job_id, "u", b"", limits=("a",)) for job_id in ("one", "two", "three")], new_id())
    assert [each.id for each in worker.reserve(["u"], 9, new_id())] == ["one", "two"]
    worker.housekeep(100)
    for statement in RELEASE_BEFORE:
        before.execute(statement)
    assert [(state.used, state.waiting) for state in other.limits(9)] == [(2, 1)], "nobody holds these two slots"
    assert other.reserve(["u"], 1, new_id()) == []
    assert other.get("one").blocked_by == "a", "it is not run beside its limit, although it was ready as a plain job"
    other.housekeep(100)
    taken = [each for _ in range(3) for each in other.reserve(["u"], 9, new_id())]
    assert len(taken) == 2
    assert [(state.used, state.waiting) for state in other.limits(9)] == [(2, 1)]
    other.settle([Settlement(each.id, each.token, Outcome.DONE) for each in taken], new_id())
    (last,) = other.reserve(["u"], 9, new_id())
    assert {*(each.id for each in taken), last.id} == {"one", "two", "three"}


def test_slots_are_not_counted_anew_without_a_reason(open_):
    worker, other = open_("worker"), open_("other")
    worker.define_limits({"a": Limit(concurrency=2)}, {})
    push(worker, "one", limits=("a",))
    steps = []
    with other._connection.reading() as db:
        db.set_trace_callback(lambda sql: steps.append(sql) if "slots IS NOT NULL" in sql else None)
    for owner in ("worker", "third"):
        late = open_(owner)
        other.housekeep(100)
        late.close()
        other.housekeep(100)
    other.release_owner("another", (), b"")
    other.housekeep(100)
    assert steps == []


@pytest.mark.parametrize("first", [True, False])
def test_a_job_in_a_line_that_the_release_before_removed_holds_no_slot_and_nobody_back(open_, first):
    backend = open_("worker")
    backend.define_limits({"a": Limit(concurrency=1)}, {})
    push(backend, "one", "two", "three", limits=("a",))
    gone = "one" if first else "two"
    with backend._connection.transaction() as tx:
        tx.db.execute("DELETE FROM job WHERE id = ?", (gone,))
    for expected in {"one": ["two", "three"], "two": ["one", "three"]}[gone]:
        (held,) = backend.reserve(["t"], 9, new_id())
        assert held.id == expected
        assert backend.settle([Settlement(held.id, held.token, Outcome.DONE)], new_id()) == [Answer.SETTLED]
    assert take(backend) == []
    assert [(state.limit, state.used, state.waiting) for state in backend.limits(9)] == [("a", 0, 0)]
    assert backend.counts(["t"])["t"].limited == 0


def test_an_error_of_the_file_is_not_taken_for_a_lock(open_):
    backend = open_()
    with backend._connection.transaction() as tx:
        tx.db.execute("DROP TABLE line")
    with pytest.raises(BackendError, match="no such table: line"):
        backend.limits(1), backend.counts(["t"])


def test_limits_with_any_characters_are_found_again(open_):
    backend = open_("worker")
    for number, value in enumerate(['"', "'", "ü", "%", "_", ":", ";", " ", "\\", "a" * 100]):
        limit = f"a:{value}"
        backend.override_limit(limit, Limit(concurrency=0))
        push(backend, f"{number}", limits=(limit,))
        assert take(backend) == []
        assert backend.get(f"{number}").limits == (limit,)
        assert backend.get(f"{number}").blocked_by == limit
        backend.override_limit(limit, Limit(concurrency=1))
        assert take(backend) == [f"{number}"]


def test_a_stored_file_with_limits_is_served(path, open_):
    shutil.copy(FIXTURES / "sqlite-schema-3.db", path)
    backend = open_("worker")
    assert backend.reserve(["limited"], 9, new_id()) == []
    assert backend.release_owner("holder", ["holds-a-slot"], b"") == 1
    assert [delivery.id for delivery in backend.reserve(["limited"], 9, new_id())] == ["holds-a-slot"]
    assert [(state.limit, state.used, state.waiting) for state in backend.limits(9)] == [("a", 1, 1)]
    assert backend.lines("fair", 9) == [("k", 1)]
    (delivery,) = backend.reserve(["fair"], 9, new_id())
    assert (delivery.key, delivery.limits) == ("k", ())
