"""A whole supervisor on Redis: its reports on the server, kills of all processes, new code."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections import Counter

import pytest

from jobs_core.testing.services import program

from ..support.supervised import Supervised, kill


@pytest.fixture
def redis_project(project, server):
    project.configure('lease = "2s"\npools.default.workers = 2', backend=f'backend = "redis://127.0.0.1:{server.port}"')
    return project


def test_a_start_warns_that_jobs_are_lost_with_the_server_and_they_are(redis_project, server):
    server.command("CONFIG", "SET", "appendonly", "no")
    supervised = Supervised(redis_project)
    assert "WARNING" in supervised.process.until_said("the backend works, but appendonly is off")
    lost = redis_project.push("note", "lost by choice", topic="elsewhere")
    server.command("SHUTDOWN", "NOSAVE")
    server.wait()
    server.start()
    redis_project.push("note", "after")
    redis_project.until_noted("note after")
    assert server.command("HEXISTS", "{jobs}:job", lost) == b":0"
    assert supervised.stop() == 0


def test_a_wrong_password_is_reported_in_one_line_and_fixed_without_a_restart(redis_project, server):
    server.command("CONFIG", "SET", "requirepass", "another")
    supervised = Supervised(redis_project, ready=False)
    supervised.process.until_said("died: it cannot boot: redis://127.0.0.1")
    assert "it requires a password" in supervised.process.output
    assert "Traceback" not in supervised.process.output
    client = [program("redis-cli", "redis-tools"), "-p", str(server.port), "-a", "another", "--no-auth-warning"]
    assert subprocess.run([*client, "CONFIG", "SET", "requirepass", ""], capture_output=True, timeout=60).stdout == b"OK\n"
    supervised.until_serving(2)
    assert supervised.stop() == 0


def test_killing_all_processes_at_once_loses_no_job_and_reruns_those_in_flight(redis_project):
    supervised = Supervised(redis_project)
    names = [f"{n}" for n in range(6)]
    redis_project.push_many([("held", (name,), {}) for name in names])
    redis_project.until(lambda: sum(line.startswith("start") for line in redis_project.ledger()) == 2)
    for pid in (supervised.pid, *supervised.children()):
        with contextlib.suppress(ProcessLookupError):
            kill(pid)
    supervised.process.wait()
    (redis_project.root / "go").touch()
    supervised = Supervised(redis_project)
    redis_project.until_noted(*[f"end {name}" for name in names])
    redis_project.until_empty()
    runs = Counter(line.split()[1] for line in redis_project.ledger() if line.startswith("start"))
    assert runs.total() == len(names) + 2
    assert supervised.stop() == 0


def test_reloads_under_load_run_every_job_once(redis_project):
    supervised = Supervised(redis_project)
    names = [f"n{number}" for number in range(500)]
    for reload in range(5):
        redis_project.push_many([("note", (name,), {}) for name in names[reload * 100 : (reload + 1) * 100]])
        assert redis_project.run("reload").returncode == 0
    redis_project.until_empty()
    assert sorted(redis_project.ledger()) == sorted(f"note {name}" for name in names)
    assert supervised.stop() == 0


def test_kills_of_workers_and_server_leave_every_done_job_in_the_history_once_with_how_it_ended(redis_project, server):
    more = 'lease = "2s"\npools.default.workers = 2\n[topics.default]\nkeep_done = "1h"\nkeep_logs = true'
    redis_project.configure(more, backend=f'backend = "redis://127.0.0.1:{server.port}"')
    supervised = Supervised(redis_project)
    ids = redis_project.push_many([("nap", (0.05, f"order-{n}"), {}) for n in range(120)])

    def ended() -> int:
        return sum(line.startswith("end") for line in redis_project.ledger())

    for fault, share in enumerate((20, 40, 60, 80)):
        redis_project.until(lambda share=share: ended() >= share)
        if fault % 2:
            server.kill()
            server.start()
        else:
            kill(min(supervised.pids()))
    redis_project.until(lambda: {line.split()[1] for line in redis_project.ledger() if line.startswith("end")} >= {"order-119"})
    redis_project.until_empty()
    listed = json.loads(redis_project.here("list", "default", "--state", "done", "--limit", "1000", "--json"))
    assert Counter(job["id"] for job in listed) == Counter(ids)
    assert {tuple(run["outcome"] for run in job["timeline"]) for job in listed} == {("done",)}
    (found,) = redis_project.here("list", "default", "--state", "done", "--text", "order-77").splitlines()
    assert found.startswith(ids[77])
    shown = redis_project.here("show", ids[77])
    assert "attempt 1 begins in process" in shown
    assert "done" in shown
    assert redis_project.here("follow", ids[77])
    assert supervised.stop() == 0
