"""`[broker] embedded = true`: `jobsctl start` is the only process to start."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from pathlib import Path

import pytest

from jobs_core.scoreboard.writer import start_ticks
from jobs_core.testing.services import free_port

from ..support.project import Project, until
from ..support.supervised import Supervised, gone, kill


@pytest.fixture
def embedding(project: Project) -> Project:
    project.configure(
        'lease = "2s"\nbroker.embedded = true\npools.default.workers = 2',
        backend=f'backend = "zmq+tcp://127.0.0.1:{free_port()}"',
    )
    return project


def broker_pid(project: Project) -> int:
    done = project.run("broker", "status", "--json")
    assert done.returncode == 0, done.stderr
    pid: int = json.loads(done.stdout)["pid"]
    return pid


def test_start_starts_the_broker_and_stop_ends_it_last(embedding: Project):
    supervised = Supervised(embedding)
    embedding.push("note", "one")
    embedding.until_noted("note one")
    pid = broker_pid(embedding)
    assert pid in supervised.children()
    ticks = start_ticks(pid)
    embedding.push("nap", 0.5, "through")
    until(lambda: any(line.startswith("start through") for line in embedding.ledger()))
    assert supervised.stop() == 0
    assert "end through" in embedding.ledger()
    assert gone(pid, ticks)
    done = embedding.run("broker", "status")
    assert done.returncode == 3
    assert "cannot be reached" in done.stderr
    supervised = Supervised(embedding)  # finished jobs were settled: they do not run again
    embedding.push("note", "two")
    embedding.until_noted("note two")
    assert supervised.stop() == 0
    assert sum(line.startswith("start through") for line in embedding.ledger()) == 1


def test_a_killed_broker_is_back_and_nothing_is_lost_or_runs_twice(embedding: Project):
    supervised = Supervised(embedding)
    for number in range(3):
        calls = [("nap", (0.02, f"{number}.{n}"), {}) for n in range(50)]
        embedding.push_many(calls)
        until(lambda: any(line.startswith(f"start {number}.5 ") for line in embedding.ledger()))
        before = broker_pid(embedding)
        kill(before)
        embedding.until_noted(*[f"end {number}.{n}" for n in range(50)])
        until(lambda: embedding.run("broker", "status").returncode == 0)  # the jobs may have finished before it
        assert broker_pid(embedding) != before
    starts = [line.split()[1] for line in embedding.ledger() if line.startswith("start")]
    assert len(starts) == len(set(starts)) == 150
    assert supervised.stop() == 0


def test_a_broker_killed_between_commit_and_confirm_loses_and_duplicates_nothing(embedding: Project):
    """Each broker dies at its own 40th commit; the supervisor starts the next."""
    supervised = Supervised(embedding, JOBS_FAILPOINT="broker.after_commit=kill@40")
    for number in range(30):
        embedding.push_many([("note", (f"{number}.{n}",), {}) for n in range(10)])
    embedding.until_noted(*[f"note {number}.{n}" for number in range(30) for n in range(10)])
    embedding.until_empty()
    assert len(embedding.ledger()) == len(set(embedding.ledger())) == 300
    assert "broker" in supervised.process.output  # the log says that it died
    supervised.process.kill()


def test_killing_all_processes_at_once_loses_no_job(embedding: Project):
    """Supervisor, template, housekeeper, workers and broker: running jobs run again after a lease, waiting ones run once."""
    supervised = Supervised(embedding)
    embedding.push_many([("held", (f"{n}",), {}) for n in range(6)])
    until(lambda: sum(line.startswith("start") for line in embedding.ledger()) == 2)
    for pid in (supervised.pid, *supervised.children()):
        with contextlib.suppress(ProcessLookupError):
            kill(pid)
    supervised.process.wait()
    (embedding.root / "go").touch()
    supervised = Supervised(embedding)
    embedding.until_noted(*[f"end {n}" for n in range(6)])
    embedding.until_empty()
    assert sum(line.startswith("start") for line in embedding.ledger()) == 8
    assert supervised.stop() == 0


def test_reloads_leave_the_broker_alone_and_run_nothing_twice(embedding: Project):
    supervised = Supervised(embedding)
    pid = broker_pid(embedding)
    for number in range(1, 4):
        embedding.push_many([("nap", (0.02, f"{number}.{n}"), {}) for n in range(50)])
        assert embedding.run("reload").returncode == 0
    embedding.until_noted(*[f"end {number}.{n}" for number in range(1, 4) for n in range(50)])
    assert broker_pid(embedding) == pid
    assert sum(line.startswith("start") for line in embedding.ledger()) == 150
    assert supervised.stop() == 0


def test_the_broker_ends_with_a_supervisor_that_is_killed(embedding: Project):
    supervised = Supervised(embedding)
    pid = broker_pid(embedding)
    ticks = start_ticks(pid)
    supervised.process.signal(signal.SIGKILL)
    until(lambda: gone(pid, ticks))


def test_the_broker_reads_the_configuration_that_the_supervisor_was_given(embedding: Project):
    (embedding.root / "jobs.toml").rename(embedding.root / "other.toml")
    process = embedding.start("-c", "other.toml", "start")
    process.until_said(" ready: ")
    assert embedding.run("-c", "other.toml", "broker", "status").returncode == 0
    assert process.stop() == 0


def test_machines_with_keys_of_their_own_share_a_broker(project: Project, tmp_path: Path):
    """One machine embeds it and runs no jobs, one runs them, one enqueues; a fourth, whose key is not listed, is refused."""
    port = free_port()
    assert project.run("broker", "keygen", "keys", "--client", "own", "--client", "runs", "--client", "sends").returncode == 0
    keys = project.root / "keys"
    project.configure(
        f'broker = {{ embedded = true, keys = "keys", listen = ["zmq+tcp://127.0.0.1:{port}"] }}\n'
        'pools.default.topics = ["none"]',
        backend=f'backend = "zmq+tcp://127.0.0.1:{port}?key=keys/own.key_secret&broker=keys/broker.key"',
    )
    supervised = Supervised(project)
    machines = {name: Project(tmp_path / name) for name in ("runs", "sends", "stranger")}
    try:
        for name, machine in machines.items():
            if name == "stranger":
                machine.run("broker", "keygen", ".", "--client", name)
            else:
                shutil.move(keys / f"{name}.key_secret", machine.root)
            shutil.copy(keys / "broker.key", machine.root)
            url = f"zmq+tcp://127.0.0.1:{port}?key={name}.key_secret&broker=broker.key"
            machine.configure(backend=f'backend = "{url}"')
        machines["runs"].worker()
        assert machines["sends"].run("push", "tasks.note", "from afar").returncode == 0
        machines["runs"].until_noted("note from afar")
        refused = machines["stranger"].run("push", "tasks.note", "no")
        assert refused.returncode != 0
        assert "does not accept this client" in refused.stderr
        assert project.ledger() == []
    finally:
        for machine in machines.values():
            machine.close()
    assert supervised.stop() == 0
