"""A whole supervisor on Redis: its reports on the server, kills of all processes, new code."""

from __future__ import annotations

import contextlib
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
    redis_project.push_many([("nap", (1.0, name), {}) for name in names])
    redis_project.until(lambda: sum(line.startswith("start") for line in redis_project.ledger()) == 2)
    for pid in (supervised.pid, *supervised.children()):
        with contextlib.suppress(ProcessLookupError):
            kill(pid)
    supervised.process.wait()
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
