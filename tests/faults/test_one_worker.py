"""One worker and jobs that fail, hang, are cancelled, or control their own outcome."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from jobs_core import State

from ..support.stopwatch import Stopwatch

MODES = ["sync", "threads", "async"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_runs_plain_and_async_jobs(project, mode):
    project.push_many([("note", ("plain",), {}), ("anap", (0.01, "async"), {}), ("nap", (0.01, "sleeps"), {})])
    assert project.worker("--drain", "--mode", mode, "--concurrency", "4").wait() == 0
    project.until_noted("note plain", "end async", "end sleeps")


@pytest.mark.parametrize("mode", MODES)
def test_a_failing_job_is_retried_and_then_dead(project, mode):
    project.push_many([("fail", (), {}), ("fail_twice", (), {})])
    worker = project.worker("--drain", "--mode", mode, "--concurrency", "4")
    assert worker.wait() == 0
    assert sorted(project.ledger()) == ["attempt 1", "attempt 2", "attempt 3", "fail 1", "fail 2", "fail 3"]
    (dead,) = project.dead()
    assert (dead.reason, dead.attempt, len(dead.errors)) == ("failed", 3, 3)
    assert 'raise ValueError("no")' in worker.output.replace("text", '"no"')
    assert "jobs_core" not in "".join(line for line in worker.lines if line.startswith("    |"))


def test_several_jobs_run_at_once_in_threads_and_async(project):
    for mode, job in ("threads", "nap"), ("async", "anap"):
        project.push_many([(job, (1.0, f"{mode}{n}"), {}) for n in range(8)])
        worker = project.worker("--drain", "--mode", mode, "--concurrency", "8")
        project.until(lambda mode=mode: sum(line.startswith(f"start {mode}") for line in project.ledger()) == 8)
        assert not any(line.startswith(f"end {mode}") for line in project.ledger())
        assert worker.wait() == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_timeout_interrupts_the_job_and_spares_the_worker(project, mode):
    job, arguments = ("endless", ("late",)) if mode == "sync" else ("anap", (60.0, "late"))
    options = {} if mode == "sync" else {"timeout": 0.3, "retries": 0}
    project.push(job, *arguments, **options)
    project.push("note", "next")
    worker = project.worker("--drain", "--mode", mode)
    assert worker.wait() == 0
    assert project.times("note next") == 1
    (dead,) = project.dead()
    assert dead.reason == "timeout"
    assert "exceeded its timeout of 300ms" in worker.output


def test_a_timeout_interrupts_a_job_blocked_in_a_system_call(project):
    project.push("nap", 600.0, "blocked", timeout=0.3, retries=0)
    assert project.worker("--drain").wait() == 0
    assert project.dead()[0].reason == "timeout"


def test_a_thread_past_its_timeout_has_the_worker_replaced_when_the_others_are_done(project):
    project.push_many([("endless", ("late",), {}), ("nap", (1.5, "other"), {})])
    worker = project.worker("--mode", "threads", "--concurrency", "2")
    worker.until_said(" serves ", times=2)  # the same process, started again
    project.push("note", "next")
    project.until_noted("note next")
    assert (project.times("end other"), project.times("start late")) == (1, 1)
    assert project.dead()[0].reason == "timeout"
    assert worker.stop() == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_running_job_that_is_cancelled_is_interrupted(project, mode):
    job = "nap" if mode == "sync" else "anap"
    job_id = project.push(job, 60.0, "long")
    worker = project.worker("--mode", mode)
    project.until(lambda: any(line.startswith("start long") for line in project.ledger()))
    app = project.app()
    watch = Stopwatch()
    assert app.cancel(job_id) is State.RESERVED
    project.until(lambda: app.status(job_id) is State.CANCELLED)
    assert watch.stop() < 3.0, "at once, and not with a heartbeat, of which there is one in 5 s"
    project.push("note", "next")
    project.until_noted("note next")
    assert worker.stop() == 0
    assert project.times("end long") == 0


def test_a_queued_job_that_is_cancelled_never_runs(project):
    job_id = project.push("note", "x", delay=0.2)
    assert project.app().cancel(job_id) is State.CANCELLED
    assert project.worker("--drain").wait() == 0
    assert project.ledger() == []


def test_an_expired_job_is_dead_and_not_run(project):
    project.push("note", "late", expires_in=0.0)
    assert project.worker("--drain").wait() == 0
    assert project.ledger() == []
    assert project.dead()[0].reason == "expired"


def test_topics_are_served_in_strict_order(project):
    project.push_many([("note", (f"low{n}",), {"topic": "low"}) for n in range(5)])
    project.push_many([("note", (f"high{n}",), {"topic": "high"}) for n in range(5)])
    assert project.worker("--drain", "--topics", "high,low").wait() == 0
    assert project.ledger() == [f"note {topic}{n}" for topic in ("high", "low") for n in range(5)]


def test_follow_ups_come_with_success_and_not_with_failure(project):
    (project.root / "more.py").write_text(
        "from tasks import *\n"
        "@job(retries=0, name='tasks.chain')\n"
        "def chain(fails: bool):\n"
        "    current_job().enqueue(note, 'failed' if fails else 'followed')\n"
        "    if fails: raise ValueError\n"
    )
    project.configure(modules="more")
    project.push_many([("chain", (False,), {}), ("chain", (True,), {})])
    assert project.worker("--drain").wait() == 0
    assert project.ledger() == ["note followed"]


def test_snooze_retry_and_discard_have_their_documented_effect(project):
    (project.root / "more.py").write_text(
        "from tasks import *\n"
        "seen = []\n"
        "@job(retries=1, name='tasks.moody')\n"
        "def moody():\n"
        "    seen.append(current_job().attempt)\n"
        "    record('moody', *seen)\n"
        "    if len(seen) <= 3: raise Snooze(0.01)\n"
        "    if len(seen) == 4: raise Retry(delay=0.01)\n"
        "    raise Discard('enough')\n"
    )
    project.configure(modules="more")
    project.push("moody")
    assert project.worker("--drain").wait() == 0
    assert project.ledger()[-1] == "moody 1 1 1 1 2"
    assert project.dead()[0].reason == "discarded: enough"


def test_plain_json_of_a_foreign_producer_runs_the_default_job(project):
    project.configure('[topics.default]\ndefault_job = "tasks.note"')
    project.push_raw(b'"from PHP"')
    assert project.worker("--drain").wait() == 0
    assert project.ledger() == ["note from PHP"]


@pytest.mark.parametrize("ending", ["sys.exit(3)", "raise KeyboardInterrupt", "raise GeneratorExit"])
@pytest.mark.parametrize("mode", MODES)
def test_a_job_that_tries_to_end_the_process_has_failed(project, mode, ending):
    (project.root / "more.py").write_text(
        f"import sys\nfrom tasks import *\n@job(retries=0, name='tasks.leave')\nasync def leave():\n    {ending}\n"
        f"@job(retries=0, name='tasks.leave2')\ndef leave2():\n    {ending}\n"
    )
    project.configure(modules="more")
    project.push_many([("leave", (), {}), ("leave2", (), {}), ("note", ("next",), {})])
    assert project.worker("--drain", "--mode", mode, "--concurrency", "2").wait() == 0
    assert project.times("note next") == 1
    assert len(project.dead()) == 2


def test_a_worker_that_cannot_settle_still_stops_on_request_and_its_job_runs_again(project):
    project.configure('lease = "1s"\n[pools.default]\nstop_timeout = "100ms"')
    worker = project.worker()
    project.push("note", "warm")
    project.until_noted("note warm")
    project.until_empty()
    with contextlib.closing(sqlite3.connect(project.root / "queue.db")) as db, db:
        db.execute("CREATE TRIGGER evil BEFORE DELETE ON reserved BEGIN SELECT load_extension('/tmp/evil.so'); END")
    project.push("note", "a")
    project.until_noted("note a")
    worker.until_said("retrying until it answers")
    worker.stop()
    assert "Traceback" not in worker.output
    with contextlib.closing(sqlite3.connect(project.root / "queue.db")) as db, db:
        db.execute("DROP TRIGGER evil")
    again = project.worker()
    project.until(lambda: project.ledger().count("note a") == 2)
    project.until_empty()
    assert again.stop() == 0
