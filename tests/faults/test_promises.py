"""One test per promise, with one worker or two, on SQLite; promises that need a supervisor are in tests/supervisor."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections import Counter

import pytest

from ..support.outages import assert_nothing_ran_twice, assert_work_continues
from ..support.project import PATIENCE, TASKS
from ..support.stopwatch import Stopwatch

BOUNDARIES = [
    f"{operation}.{moment}"
    for operation in ("reserve", "settle", "heartbeat")
    for moment in ("before", "before_commit", "after_commit", "after")
]


# -- 1. Nothing is lost ----------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_worker_killed_at_any_boundary_loses_no_job(project, boundary):
    project.configure('lease = "1s"')
    ids = project.push_many([("note", (f"n{n}",), {}) for n in range(30)])
    visit = 1 if boundary.startswith("heartbeat") else 2
    victim = project.start("worker", JOBS_FAILPOINT=f"{boundary}=kill@{visit}")
    assert victim.wait() == -signal.SIGKILL
    project.worker("--drain").wait()
    project.until_empty()
    noted = Counter(project.ledger())
    assert set(noted) == {f"note n{n}" for n in range(30)}
    assert len(ids) == 30
    assert project.dead() == []


def test_a_killed_workers_jobs_are_run_by_another(project):
    project.configure('lease = "1s"')
    project.push("nap", 600.0, "long")
    victim = project.worker()
    project.until(lambda: any(line.startswith("start long") for line in project.ledger()))
    project.push_many([("note", (f"n{n}",), {}) for n in range(20)])
    victim.kill()
    heir = project.worker()
    project.until(lambda: sum(line.startswith("start long") for line in project.ledger()) == 2)
    heir.kill()
    project.worker("--mode", "async", "--concurrency", "10")
    project.until_noted(*[f"note n{n}" for n in range(20)])


# -- 2. At least once, duplicates bounded ------------------------------------------------------------


def test_settled_jobs_are_not_run_again(project):
    """The worker is killed after the settlement was committed, and before its reply: no job runs twice."""
    project.configure('lease = "1s"')
    ids = project.push_many([("note", (f"n{n}",), {}) for n in range(50)])
    project.start("worker", JOBS_FAILPOINT="settle.after_commit=kill@2").wait()
    settled = {n for n, job_id in enumerate(ids) if project.app().operate(lambda queue, it=job_id: queue.get(it)) is None}
    assert settled
    project.worker("--drain").wait()
    ran = Counter(project.ledger())
    assert set(ran) == {f"note n{n}" for n in range(50)}
    assert {ran[f"note n{n}"] for n in settled} == {1}


def test_only_finished_but_unsettled_jobs_run_twice(project):
    project.configure('lease = "3s"')
    project.push_many([("note", (f"n{n}",), {}) for n in range(50)])
    project.start("worker", JOBS_FAILPOINT="settle.before_commit=kill@2").wait()
    before = set(project.ledger())
    project.worker("--drain").wait()
    times = Counter(project.ledger())
    twice = {line for line, count in times.items() if count > 1}
    assert twice <= before
    assert max(times.values()) == 2
    assert len(times) == 50


def test_a_job_that_takes_longer_than_a_lease_runs_once(project):
    project.configure('lease = "2s"')  # a busy machine may stand still for a second of it
    project.push("nap", 4.5, "waits")
    project.push("spin", 4.5, "spins")
    workers = [project.worker(), project.worker(), project.worker()]
    project.until_noted("end waits", "end spins")
    for worker in workers:
        assert worker.stop() == 0
        assert "as well" not in worker.output
    assert Counter(line.split()[0] for line in project.ledger()) == {"start": 2, "end": 2}


def test_a_worker_suspended_for_longer_than_its_lease_is_notified_and_continues(project):
    project.configure('lease = "1s"')
    project.push("nap", 2.0, "long")
    first = project.worker()
    project.until(lambda: any(line.startswith("start long") for line in project.ledger()))
    first.signal(signal.SIGSTOP)
    second = project.worker()
    project.until_noted("end long")
    first.signal(signal.SIGCONT)
    first.until_said("as well")
    second.stop()
    project.push("note", "after")
    project.until_noted("note after")
    assert project.times("end long") == 2
    assert "continuing as" in first.output


CLEANS_UP = """
@job(timeout=0.2, retries=0)
def cleans_up():
    try:
        time.sleep(60)
    finally:
        record("interrupted")
        for _ in range(50):  # each of which may end while the process is frozen
            time.sleep(0.01)
        record("cleaned")

@job(timeout=0.2, retries=0)
async def cleans_up_in_a_loop():
    try:
        await asyncio.sleep(60)
    finally:
        record("interrupted")
        for _ in range(50):
            await asyncio.sleep(0.01)
        record("cleaned")
"""


@pytest.mark.parametrize(
    ("mode", "name"), [("sync", "cleans_up"), ("threads", "cleans_up_in_a_loop"), ("async", "cleans_up_in_a_loop")]
)
def test_a_frozen_worker_does_not_end_for_a_job_that_had_no_time_to_react_to_its_timeout(project, mode, name):
    (project.root / "tasks.py").write_text(TASKS + CLEANS_UP)
    project.configure('pools.default.timeout_grace = "3s"')  # six times as long as cleaning up takes on an idle machine
    project.push(name)
    worker = project.worker("--mode", mode)
    project.until_noted("interrupted")
    worker.signal(signal.SIGSTOP)
    time.sleep(4.0)  # longer than the grace: the clock of the frozen worker goes on
    worker.signal(signal.SIGCONT)
    project.until_noted("cleaned")
    project.push("note", "after")
    project.until_noted("note after")
    assert worker.stop() == 0
    assert [dead.reason for dead in project.dead()] == ["timeout"]


def test_early_acknowledgement_is_at_most_once(project):
    project.configure('lease = "1s"')
    project.push("early", "x")
    project.start("worker", JOBS_FAILPOINT="settle.after=kill").wait()
    project.worker("--drain").wait()
    assert project.ledger() == []  # acknowledged, then lost with its worker: that was the choice
    project.push("early", "y")
    project.worker("--drain").wait()
    assert project.ledger() == ["early y"]  # it failed, and is not retried
    assert project.dead() == []


# -- 3. Graceful means graceful --------------------------------------------------------------------


def test_stop_finishes_running_jobs_and_returns_the_rest_uncharged(project):
    project.push("nap", 1.0, "long")
    project.push_many([("note", (f"n{n}",), {}) for n in range(20)])
    worker = project.worker()
    project.until(lambda: any(line.startswith("start long") for line in project.ledger()))
    assert worker.stop() == 0
    assert project.times("end long") == 1
    left = project.app().operate(lambda backend: backend.browse("default", _ready(), 100))
    assert {(record.attempt, record.redeliveries) for record in left} <= {(0, 0)}
    project.worker("--drain").wait()
    assert set(Counter(line for line in project.ledger() if line.startswith("note")).values()) == {1}


def _ready():
    from jobs_core import State

    return State.READY


@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
def test_after_stop_timeout_the_rest_is_given_back_uncharged(project, mode):
    project.configure('[pools.default]\nstop_timeout = "300ms"')
    project.push("doze", 600.0, "long")
    worker = project.worker("--mode", mode, "--concurrency", "3")
    project.until(lambda: any(line.startswith("start long") for line in project.ledger()))
    assert worker.stop() == 1
    (record,) = project.app().operate(lambda backend: backend.browse("default", _ready(), 10))
    assert (record.attempt, record.redeliveries, record.crashes) == (0, 0, 0)


def test_a_second_interrupt_ends_at_once_and_loses_nothing(project):
    project.push("doze", 600.0, "long")
    worker = project.worker()
    project.until(lambda: any(line.startswith("start long") for line in project.ledger()))
    worker.signal(signal.SIGINT)
    worker.until_said("takes no new jobs")
    worker.signal(signal.SIGINT)
    assert worker.wait() == 1
    assert len(project.app().operate(lambda backend: backend.browse("default", _ready(), 10))) == 1


# -- 4. The one job that kills its workers -----------------------------------------------------------


def test_a_job_that_kills_its_worker_is_found_and_its_neighbours_are_done(project):
    project.configure('lease = "500ms"')
    (project.root / "tasks.py").write_text(
        (project.root / "tasks.py").read_text() + "\n@job\ndef poison():\n    record('poison')\n    os._exit(3)\n"
    )
    project.push_many([("note", (f"n{n}",), {}) for n in range(10)] + [("poison", (), {})] + [("note", ("z",), {})])
    for _ in range(20):
        worker = project.start("worker", "--drain")
        if worker.wait() == 0:
            break
    (dead,) = project.dead()
    assert dead.reason == "crashed"
    assert project.times("poison") <= 5, "twice among its neighbours, three times alone"
    assert {f"note n{n}" for n in range(10)} | {"note z"} <= set(project.ledger())


# -- 5. No polling that a user would notice ----------------------------------------------------------


def test_an_idle_worker_starts_a_job_at_once_and_uses_no_processor_time(project):
    worker = project.worker()
    project.push("note", "warm")
    project.until_noted("note warm")
    before, begin = worker.cpu_seconds(), time.monotonic()
    time.sleep(3.0)  # the test measures idleness
    assert (worker.cpu_seconds() - before) / (time.monotonic() - begin) < 0.05
    watch = Stopwatch()
    project.push("note", "now")
    project.until_noted("note now")
    assert watch.stop() < 1.0


# -- 6. No hoarding ----------------------------------------------------------------------------------


def test_short_jobs_do_not_wait_behind_a_long_one_while_another_worker_is_idle(project):
    workers = [project.worker(), project.worker()]
    project.push_many([("note", (f"warm{n}",), {}) for n in range(200)])  # both have learned that jobs are short
    project.until_empty()
    project.push_many([("nap", (10 * PATIENCE, "long"), {}), *[("note", (f"n{n}",), {}) for n in range(100)]])
    project.until_noted(*[f"note n{n}" for n in range(100)])
    assert project.times("end long") == 0
    for worker in workers:
        worker.kill()


# -- 7. An outage is waited out ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_outage_of_ten_leases_runs_nothing_twice(project, mode):
    project.configure('lease = "2s"')
    nap = "anap" if mode == "async" else "nap"
    workers = [project.worker("--mode", mode, "--concurrency", "3") for _ in range(2)]
    project.push_many([(nap, (6.0, f"before{n}"), {}) for n in range(2)])
    project.push_many([(nap, (22.0, f"through{n}"), {}) for n in range(2 if mode == "async" else 0)])
    expected = 4 if mode == "async" else 2
    project.until(lambda: sum(line.startswith("start") for line in project.ledger()) == expected)
    other = sqlite3.connect(project.root / "queue.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for worker in workers:
        worker.until_said("cannot be reached")
    time.sleep(20.0)  # the outage lasts for ten leases
    other.execute("ROLLBACK")
    other.close()
    assert_work_continues(project)
    assert_nothing_ran_twice(project, workers)


# -- 8 and 9. Bad input ------------------------------------------------------------------------------

BAD = {
    b"\xff\xfe\x00": "bad message",
    b"{": "bad message",
    b"[]": "bad message",
    b'{"v":1}': "bad message",
    b'{"v":1,"topic":"default"}': "bad message",
    b'{"v":1,"topic":"default","job":"tasks.add","args":["x"]}': "bad arguments",
    b'{"v":1,"topic":"default","job":"tasks.add","args":[]}': "bad arguments",
    b'{"v":1,"topic":"default","job":"os.system","args":["touch owned"]}': "unknown job",
    b'{"v":7,"topic":"default"}': "unknown version",
    b'{"v":1,"topic":"default","job":"tasks.note","args":["' + b"x" * 2_000_000 + b'"]}': "bad message",
}


def test_bad_messages_become_dead_letters_unchanged_and_stop_no_worker(project):
    project.configure("unknown_grace = 0")
    ids = {}
    for n, (payload, reason) in enumerate(BAD.items()):
        ids[project.push_raw(payload)] = (payload, reason)
        project.push("note", f"good{n}")
    worker = project.worker("--drain")
    assert worker.wait() == 0
    assert {record.id: (record.payload, record.reason) for record in project.dead()} == ids
    assert sorted(project.ledger()) == sorted(f"note good{n}" for n in range(len(BAD)))
    assert not (project.root / "owned").exists()


def test_a_foreign_signature_is_refused(project):
    from jobs_core.message import Signer, encode, new_message

    project.configure('signing_keys = ["k1:0123456789abcdef0123456789abcdef"]')
    project.push_raw(encode(new_message("tasks.note", "default", ["forged"], {})))
    project.push_raw(encode(new_message("tasks.note", "default", ["x"], {}), signer=Signer(["k2:" + "x" * 32])))
    project.push("note", "mine")
    assert project.worker("--drain").wait() == 0
    assert project.ledger() == ["note mine"]
    assert {record.reason for record in project.dead()} == {"bad message"}
