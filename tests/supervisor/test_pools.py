"""The number of workers, their replacement, and the topics that they serve first."""

from __future__ import annotations

import time

import pytest

from jobs_core.scoreboard.state import Board

from ..support.project import PATIENCE, TASKS, Project, until
from ..support.supervised import Supervised, kill

COUNTED = (
    TASKS
    + """
@job
def counted(text: str):
    record("counted", text, os.getpid())
"""
)


def test_no_worker_runs_more_than_max_jobs_and_none_is_missed(project: Project):
    (project.root / "tasks.py").write_text(COUNTED)
    project.configure("pools.default.workers = 2\npools.default.max_jobs = 25")
    supervised = Supervised(project)
    project.push_many([("counted", (f"n{number}",), {}) for number in range(500)])
    project.until_empty()
    lines = [line.split() for line in project.ledger()]
    assert sorted(text for _, text, _ in lines) == sorted(f"n{number}" for number in range(500))
    runs: dict[str, int] = {}
    for _, _, pid in lines:
        runs[pid] = runs.get(pid, 0) + 1
    assert max(runs.values()) <= 25
    state = supervised.board().supervisor
    assert state is not None
    assert state.crashed == 0
    supervised.stop()


def test_max_jobs_of_one_is_a_process_for_every_job(project: Project):
    (project.root / "tasks.py").write_text(COUNTED)
    project.configure("pools.default.max_jobs = 1")
    supervised = Supervised(project)
    project.push_many([("counted", (f"n{number}",), {}) for number in range(20)])
    project.until_empty()
    pids = [line.split()[2] for line in project.ledger()]
    assert len(pids) == len(set(pids)) == 20, [*project.ledger(), supervised.process.output]
    supervised.stop()


def test_a_pool_of_one_never_runs_two_jobs_at_once_while_its_worker_is_replaced(project: Project):
    project.configure('pools.default.max_age = "400ms"')
    supervised = Supervised(project)
    project.push("nap", 4.0, "long")  # longer than the lives of several successors, which are looked at once a second
    project.push_many([("nap", (0.3, f"n{number}"), {}) for number in range(10)])
    project.until_noted("end long", *[f"end n{number}" for number in range(10)])
    running = 0
    for line in project.ledger():
        running += 1 if line.startswith("start") else -1
        assert running in (0, 1), project.ledger()
    state = supervised.board().supervisor
    assert state is not None
    assert state.pools[0].restarts["max_age"] >= 2
    supervised.stop()


@pytest.mark.parametrize("limit", ['max_age = "300ms"', "max_jobs = 1"])
def test_a_job_longer_than_its_workers_life_runs_once_to_its_end_and_a_stop_does_not_wait_for_it(project: Project, limit: str):
    project.configure(f'pools.default.{limit}\npools.default.stop_timeout = "100ms"')
    supervised = Supervised(project)
    project.push("doze", 2.5, "long")
    project.until_noted("end long")
    assert [line.split()[:2] for line in project.ledger()] == [["start", "long"], ["end", "long"]]
    project.push("doze", 10 * PATIENCE, "longer")
    until(lambda: any(worker.reason for worker in supervised.board().supervisor.workers))
    supervised.stop()


def test_a_pool_of_one_runs_one_job_though_the_worker_that_waits_to_serve_is_killed(project: Project):
    project.configure("pools.default.max_jobs = 1")
    supervised = Supervised(project)
    project.push("held", "first")
    project.until(lambda: any(line.startswith("start first") for line in project.ledger()))
    project.push("note", "second")
    killed: list[int] = []

    def waiting(board: Board) -> list[int]:
        assert board.supervisor is not None
        return [each.pid for each in board.supervisor.workers if each.state == "standby" and each.pid not in killed]

    for _ in range(2):  # its successor, and the one of that
        killed += supervised.until(waiting)
        kill(killed[-1])
    supervised.until(waiting)
    assert len(project.ledger()) == 1
    (project.root / "go").touch()
    project.until_noted("end first", "note second")
    supervised.stop()


def test_a_worker_that_grew_too_large_is_replaced_between_jobs(project: Project):
    (project.root / "tasks.py").write_text(COUNTED + "\nheld = []\n@job\ndef grow():\n    held.append(bytearray(80_000_000))\n")
    project.configure('pools.default.max_memory = "100MB"')
    supervised = Supervised(project)
    (before,) = supervised.pids()
    project.push("grow")
    until(lambda: before not in supervised.pids())
    supervised.until(lambda board: board.supervisor.pools[0].restarts == {"max_memory": 1})  # written 50 ms later
    assert supervised.board().supervisor.crashed == 0
    supervised.stop()


def test_a_job_that_makes_its_worker_too_large_runs_once_to_its_end(project: Project):
    grow = "\n@job\ndef grow(text):\n    large = bytearray(80_000_000)\n    held.function(text)\n"
    (project.root / "tasks.py").write_text(TASKS + grow)
    project.configure('pools.default.max_memory = "100MB"\npools.default.stop_timeout = "100ms"')
    supervised = Supervised(project)
    project.push("grow", "large")
    until(lambda: any(worker.reason == "max_memory" for worker in supervised.board().supervisor.workers))  # read every 5 s
    time.sleep(0.5)  # longer than stop_timeout
    (project.root / "go").touch()
    project.until_noted("end large")
    until(lambda: supervised.board().supervisor.pools[0].restarts == {"max_memory": 1})
    assert [line.split()[:2] for line in project.ledger()] == [["start", "large"], ["end", "large"]]
    supervised.stop()


@pytest.mark.parametrize("mode", ["threads", "async"])
def test_a_worker_ends_by_itself_beside_a_job_that_was_cancelled_by_force(project: Project, mode: str):
    project.configure(f'pools.default.mode = "{mode}"\npools.default.concurrency = 2\npools.default.timeout_grace = "100ms"')
    supervised = Supervised(project)
    (before,) = supervised.pids()
    (job_id,) = project.push_many([("nap", (600, "forced"), {})])
    project.until(lambda: any(line.startswith("start forced") for line in project.ledger()))
    project.app().cancel(job_id, force=True)
    until(lambda: before not in supervised.pids())
    assert "being killed" not in supervised.process.output, "which is what its missing heartbeat would lead to"
    supervised.stop()


def test_topics_are_served_in_the_order_of_the_pool(project: Project):
    project.configure('pools.default.topics = ["first", "second", "third"]')
    for topic in ("third", "second", "first"):
        project.push_many([("note", (f"{topic}{number}",), {"topic": topic}) for number in range(20)])
    supervised = Supervised(project)
    project.until_empty("first", "second", "third")
    order = [line.split()[1].rstrip("0123456789") for line in project.ledger()]
    assert order == ["first"] * 20 + ["second"] * 20 + ["third"] * 20
    supervised.stop()


def test_pools_do_not_starve_each_other(project: Project):
    project.configure('pools.slow.topics = ["slow"]\npools.quick.topics = ["quick"]')
    supervised = Supervised(project)
    project.push_many([("nap", (0.5, f"s{number}"), {"topic": "slow"}) for number in range(20)])
    project.push_many([("note", (f"q{number}",), {"topic": "quick"}) for number in range(50)])
    project.until_noted(*[f"note q{number}" for number in range(50)])
    assert sum(line.startswith("end s") for line in project.ledger()) < 20
    supervised.process.stop()


def test_a_preloaded_worker_does_not_import_again_and_one_that_died_is_back_soon(project: Project):
    (project.root / "tasks.py").write_text(TASKS + "\nrecord('import', os.getpid())\ntime.sleep(1.0)\n")
    project.configure("pools.default.workers = 2")
    supervised = Supervised(project)
    assert sum(line.startswith("import") for line in project.ledger()) == 1
    victim = min(supervised.pids())
    kill(victim)
    until(lambda: len(supervised.pids() - {victim}) == 2)
    assert sum(line.startswith("import") for line in project.ledger()) == 1
    supervised.stop()
