"""No step reads or sorts more rows when a store has many jobs, whatever the statistics of its tables say.

JOBS_PLAN_ROWS says how many jobs of each state there are; `make plans` tries a million.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from jobs_core.backends.base import BackendOptions, Checkpoint, Outcome, Outgoing, Retention, Settlement, State
from jobs_core.ids import new_id, new_token
from jobs_core.message import UniqueKey
from jobs_core.testing.services.postgres import PostgresServer
from jobs_postgres.backend import PostgresBackend
from jobs_postgres.url import parse

ROWS = int(os.environ.get("JOBS_PLAN_ROWS", "20000"))
FILL = (Path(__file__).parent / "many_rows.sql").read_text(encoding="utf-8")
MOST = 3_500
"""Rows that a node of a plan may read; a purge takes 1,000 at once."""

COUNTED = 10_001
"""Rows that a count of one state of a topic may read, but for the one by which housekeeping counts large numbers again; and a
round of housekeeping of a table, or of a topic's dead letters."""

SCANNED = frozenset({"reserved", "cancel"})
"""Tables that heartbeats and some operators' steps read as a whole: as large as the number of jobs that run at the moment."""


@pytest.fixture(scope="module", params=["fresh", "stale"])
def store(request):
    """A store with many jobs of each state, of which the statistics are right, or those of an empty store."""
    with PostgresServer("-c", "fsync=off", "-c", "autovacuum=off", "-c", "max_wal_size=4GB") as server:
        made = PostgresBackend(parse(server.url, "jobs"), BackendOptions())
        made.open(None)
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("ANALYZE")
            connection.execute(FILL.replace("{rows}", str(ROWS)).encode())
            if request.param == "fresh":
                connection.execute("VACUUM ANALYZE")
        made.close()
        yield server


@dataclass
class Step:
    """The plans of one statement of a client, and of all statements inside the functions that it calls."""

    plans: list[dict]
    counts: bool = False  # whether it may count all jobs of a topic

    def nodes(self):
        waiting = [(plan["Query Text"], plan["Plan"]) for plan in self.plans]
        while waiting:
            text, node = waiting.pop()
            yield text, node
            waiting += [(text, each) for each in node.get("Plans", ())]

    def faults(self, most):
        yield from (f"compiled: {plan['Query Text']}" for plan in self.plans if "JIT" in plan)
        for text, node in self.nodes():
            loops = node.get("Actual Loops", 0)
            if node["Node Type"].endswith("Sort") and node.get("Actual Rows", 0) * loops > most and not _is_of(node, SCANNED):
                yield f"{node['Node Type']} of {node['Actual Rows'] * loops:.0f} rows: {' '.join(text.split())[:300]}"
            removed = sum(node.get(f"Rows Removed by {what}", 0) for what in ("Filter", "Index Recheck", "Join Filter"))
            read = (node.get("Actual Rows", 0) + removed) * loops
            table = node.get("Relation Name", "")
            if table in SCANNED or not node["Node Type"].endswith("Scan") or (self.counts and " AS counted" in text):
                continue
            if read > most:
                yield f"{node['Node Type']} of {table} reads {read:.0f} rows: {' '.join(text.split())[:300]}"

    def beyond_indexes(self):
        """Return the scans that read a table besides its index; and the sorts, by statement, with their rows."""
        scans, sorts = set(), []
        for text, node in self.nodes():
            kind = node["Node Type"]
            if kind.endswith("Sort"):
                sorts.append((" ".join(text.split()), node["Actual Rows"] * node["Actual Loops"]))
            elif "Relation Name" in node and kind.endswith("Scan") and kind != "Index Only Scan" and node["Actual Loops"]:
                scans.add((kind, node.get("Index Name", node["Relation Name"])))
        return scans, sorts


def _is_of(node, tables):
    """Return whether a node is about rows of one of these tables alone."""
    return any(each.get("Relation Name") in tables for each in node.get("Plans", ()))


class Explained:
    """A backend, of whose statements the server tells the plans."""

    def __init__(self, server, owner, **options):
        self.backend = PostgresBackend(parse(server.url, "jobs"), BackendOptions(**options))
        self.backend.open(owner)
        self._plans = []
        raw = self.backend._connection.raw
        raw.execute("LOAD 'auto_explain'")
        for name, value in {
            "auto_explain.log_min_duration": "0", "auto_explain.log_analyze": "on", "auto_explain.log_timing": "off",
            "auto_explain.log_nested_statements": "on", "auto_explain.log_format": "json", "auto_explain.log_level": "notice",
        }.items():  # fmt: skip
            raw.execute(f"SET {name} = '{value}'".encode())
        raw.add_notice_handler(self._hear)

    def _hear(self, notice):
        text = notice.message_primary
        if "plan:" in text:
            self._plans.append(json.loads(text[text.index("{") :]))

    def __enter__(self):
        self._plans.clear()
        return self.backend

    def __exit__(self, *_):
        self.step = Step([*self._plans])

    def check(self, what, most=MOST, *, counts=False):
        self.step.counts = counts
        assert self.step.plans, "the server tells plans"
        faults = [*self.step.faults(most)]
        assert not faults, "\n".join([f"{what}:", *faults])


@pytest.fixture
def worker(store):
    made = Explained(store, "w")
    yield made
    made.backend.close()


def check(worker, what, action, *, times=8, most=MOST, counts=False):
    """Do something several times, because the server changes to other plans after five."""
    found = None
    for _ in range(times):
        with worker:
            found = action(worker.backend)
        worker.check(what, most, counts=counts)
    return found


def outgoing(topic="plain", **facts):
    return Outgoing(new_id(), topic, b"{}", **facts)


def test_pushes_and_runs_read_as_many_rows_as_they_have_jobs(worker):
    for count in (1, 100):
        check(worker, "push", lambda b, n=count: b.push([outgoing() for _ in range(n)], new_token()))
        check(worker, "push with a delay", lambda b, n=count: b.push([outgoing(delay=60) for _ in range(n)], new_token()))
        check(
            worker,
            "push limited",
            lambda b, n=count: b.push([outgoing("limited", limits=("new",)) for _ in range(n)], new_token()),
        )
        check(
            worker,
            "push unique",
            lambda b, n=count: b.push([outgoing(unique=UniqueKey(new_id())) for _ in range(n)], new_token()),
        )
    for count, outcome in (
        (1, Outcome.DONE),
        (100, Outcome.DONE),
        (10, Outcome.RETRY),
        (10, Outcome.RELEASE),
        (10, Outcome.DEAD),
    ):

        def run(backend, count=count, outcome=outcome):
            found = backend.reserve(["plain", "due"], count, new_token())
            assert len(found) == count
            backend.checkpoint([Checkpoint(each.id, each.token, b"here") for each in found])
            backend.heartbeat()
            backend.settle([Settlement(each.id, each.token, outcome, reason="test") for each in found], new_token())

        check(worker, f"reserve and settle {count}: {outcome}", run)


LOCKED_OR_DELETED = {
    ("Index Scan", "owner_pkey"), ("Index Scan", "ready_pkey"), ("Tid Scan", "ready"), ("Index Scan", "reserved_pkey"),
    ("Index Scan", "settled_pkey"), ("Index Scan", "cancel_pkey"), ("Index Scan", "checkpoint_pkey"),
}  # fmt: skip
"""No index alone can tell what these do: they lock or delete rows, or read the cursors of resumable jobs."""

READ = {("Index Scan", "job_pkey")}
"""The jobs that are handed out, or done: their arguments are in no index."""


@pytest.mark.parametrize("count", [1, 100])
def test_plain_jobs_are_pushed_reserved_and_settled_from_indexes_and_only_the_reserved_ones_are_sorted(worker, count):
    found = []

    def reserve(backend):
        found[:] = backend.reserve(["plain"], count, new_token())

    for what, action, allowed in (
        ("push", lambda b: b.push([outgoing() for _ in range(count)], new_token()), set()),
        ("reserve", reserve, LOCKED_OR_DELETED | READ),
        ("settle", lambda b: b.settle([Settlement(e.id, e.token, Outcome.DONE) for e in found], new_token()),
         LOCKED_OR_DELETED | READ),
        ("look", lambda b: b._look(["plain"]), set()),
        ("look for nothing", lambda b: b._look(["nothing"]), set()),
    ):  # fmt: skip
        for _ in range(8):
            with worker:
                if what == "settle":
                    reserve(worker.backend)
                    worker._plans.clear()
                action(worker.backend)
            scans, sorts = worker.step.beyond_indexes()
            assert scans <= allowed, what
            if what != "reserve":
                assert not sorts, what
            for text, rows in sorts:
                assert text.startswith("WITH picked AS ( DELETE FROM"), what
                assert rows <= count


def test_a_worker_that_waits_reads_few_rows(worker):
    check(worker, "wait", lambda b: b.wait(["later", "nothing", "limited"], 0.01))
    check(worker, "wait", lambda b: b.wait(["plain"], 0.01))
    check(worker, "wake", lambda b: b._wake(["nothing"]))


def test_what_operators_do_to_one_job_or_page_reads_few_rows(worker, store):
    numbers = iter(range(1000, ROWS))

    def some(state):
        return f"{state}-{next(numbers)}"

    def purge(topic, kind):
        return lambda b: b._connection.function("purge", topic, kind, 1000)

    check(worker, "get", lambda b: b.get(some("ready")))
    check(worker, "find", lambda b: b.find_ids("dead-12", 10))
    for state in ("ready", "later", "dead", "limited"):
        check(worker, f"cancel {state}", lambda b, s=state: b.cancel(some(s)))
    for state in ("later", "dead"):
        check(worker, f"requeue {state}", lambda b, s=state: b.requeue([some(s)]))
    for state in ("ready", "later", "limited"):
        check(worker, f"discard {state}", lambda b, s=state: b.discard([some(s)], "test"))
    check(worker, "drop", lambda b: b.drop([some("dead")]))
    check(worker, "ready jobs", lambda b: b.browse("plain", State.READY, 50, 100))
    check(worker, "dead letters", lambda b: b.browse("plain", State.DEAD, 50, 100))
    check(worker, "scheduled jobs", lambda b: b.browse("later", State.SCHEDULED, 50, 100))
    check(worker, "purge ready", purge("plain", "ready"), times=6)
    check(worker, "purge scheduled", purge("later", "scheduled"), times=6)
    check(worker, "purge dead", purge("plain", "dead"), times=6)


def test_counts_and_the_list_of_topics_read_few_rows(worker):
    worker.backend.counts(["plain", "later", "limited"])
    check(worker, "topics", lambda b: b.topics())
    check(worker, "counts", lambda b: b.counts(["plain", "later", "limited", "nothing"]), most=COUNTED)


def test_housekeeping_reads_few_rows(worker):
    check(worker, "housekeep", lambda b: b.housekeep(1000), most=COUNTED, counts=True)


def test_housekeeping_drops_dead_letters_beyond_the_limit_step_by_step(store):
    fill = """
        INSERT INTO jobs.job (seq, id, topic, rank, since, pushed_at, payload)
        SELECT 90000000 + n, 'full-' || n, 'full', 0, 0, 0, '{}' FROM generate_series(1, 12500) AS n;
        INSERT INTO jobs.dead (topic, at, seq, reason)
        SELECT 'full', jobs.now_() - 3600 + n * 1e-3, 90000000 + n, 'test' FROM generate_series(1, 12500) AS n"""
    with psycopg.connect(store.url, autocommit=True) as connection:
        connection.execute(fill)
    keeper = Explained(store, None, retention=lambda topic: Retention(dead_max=11_000 if topic == "full" else 10**9))
    for _ in range(4):  # two to find the letter that is one too many, two to drop 1,500
        check(keeper, "housekeep", lambda b: b.housekeep(1000), times=1, most=COUNTED, counts=True)
    backend = keeper.backend
    check(keeper, "housekeep", lambda b: b.housekeep(1000), times=1, most=COUNTED, counts=True)
    newest = backend.browse("full", State.DEAD, 20_000)
    assert [each.id for each in newest] == [f"full-{n}" for n in range(12_500, 1_500, -1)]
    assert backend.requeue([each.id for each in newest[:100]]) == 100
    for _ in range(4):
        backend.housekeep(1000)
    assert len(backend.browse("full", State.DEAD, 20_000)) == 10_900
    assert backend._walks == "{}"
    backend.close()


def test_the_end_of_a_worker_reads_few_rows(store, worker):
    other = PostgresBackend(parse(store.url, "jobs"), BackendOptions())
    for n in range(6):
        other.open(f"other{n}")
        other.reserve(["plain"], 100, new_token())
        check(worker, "release", lambda b, n=n: b.release_owner(f"other{n}", [], b""), times=1)
        other._disconnect()
