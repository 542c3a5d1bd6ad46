"""Machines that share a backend see one another, and obey commands: two supervisors of one queue file stand for two."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from jobs_core.backends.documents import LARGEST
from jobs_core.machines import StacksReport, WorkerStacks, reports, stacks_of
from jobs_core.scoreboard.state import read_board
from jobs_core.supervisor.housekeeper.stacks import TakenStacks, _Asked

from ..support.project import Project, until
from ..support.supervised import Supervised


@pytest.fixture
def two(project: Project):
    """Return two supervisors, with run directories of their own."""
    first = Supervised(project)
    second = Supervised(project, JOBS_RUN_DIR=str(project.root / "second"))
    yield first, project.root / "second"
    second.stop()


def machines(project: Project) -> dict[str, dict]:
    """Return the reports by run directory."""
    done = project.run("machines", "list", "--json")
    assert done.returncode == 0, done.stderr
    return {Path(report["run_dir"]).name: report for report in json.loads(done.stdout)}


def test_machines_are_listed_and_obey_commands(project: Project, two):
    first, run_dir = two

    def board(of: Path | None = None):
        found = read_board(of or run_dir).supervisor
        assert found is not None
        return found

    found = until(lambda: _serving(machines(project)))
    name = found["second"]["name"]

    said = project.run("machines", "quiet", name)
    assert said.stdout == f"{name}: done\n", said.stderr
    assert machines(project)["second"]["state"] == "quiet", "a machine that is done has reported its new state"
    assert board().quiet
    assert not board(first.run_dir).quiet

    said = project.run("machines", "resume", "--all")
    assert said.stdout.count(": done\n") == 2, said.stderr
    until(lambda: not board().quiet)

    said = project.run("machines", "scale", "default", "3", name, "--force")
    assert said.stdout == f"{name}: done\n", said.stderr
    assert [pool["wanted"] for pool in machines(project)["second"]["pools"] if pool["name"] == "default"] == [3]
    assert not any(pool.scaled for pool in board(first.run_dir).pools)

    said = project.run("machines", "quiet", "--pool", "default", name)
    assert said.stdout == f"{name}: done\n", said.stderr
    until(lambda: [(pool.name, pool.quiet) for pool in board().pools if pool.quiet] == [("default", True)])
    assert not board().quiet

    said = project.run("machines", "reload", "--all")
    assert said.stdout.count(": done\n") == 2, said.stderr
    until(lambda: (board().generation, board(first.run_dir).generation) == (2, 2))

    first.stop()
    assert machines(project).keys() == {"second"}, "a machine that stops is gone at once"


def test_a_size_outlasts_reload_and_restart_and_reaches_machines_that_start_later(project: Project):
    first = Supervised(project)

    def wanted(run_dir: Path) -> tuple[int, bool]:
        found = read_board(run_dir).supervisor
        pool = next(pool for pool in found.pools if pool.name == "default") if found else None
        return (pool.wanted, pool.scaled) if pool else (0, False)

    configured = wanted(first.run_dir)
    assert project.here("machines", "scale", "default", "2", "--all", "--force").endswith(": done\n")
    assert wanted(first.run_dir) == (2, True)
    project.here("reload")
    until(lambda: wanted(first.run_dir) == (2, True))
    first.stop()
    again, later = Supervised(project), Supervised(project, JOBS_RUN_DIR=str(project.root / "second"))
    for run_dir in (again.run_dir, project.root / "second"):
        until(lambda run_dir=run_dir: wanted(run_dir) == (2, True))
    assert "pool default is set to 2 workers on all machines by " in project.run("check").stdout
    assert project.here("machines", "auto", "default", "--all").count(": done\n") == 2
    assert wanted(again.run_dir) == wanted(project.root / "second") == configured
    later.stop()
    again.stop()


def test_stacks_that_a_command_takes_can_be_read_on_other_machines(project: Project):
    first = Supervised(project)
    backend = project.app().new_backend()
    backend.open("looks")
    project.here("push", "tasks.nap", "600")
    running = until(lambda: [run for report in reports(backend) for run in report.longest])
    [machine] = [report.name for report in reports(backend)]
    assert stacks_of(backend, machine) is None
    assert project.here("machines", "stacks", machine).endswith(": done\n")
    found = until(lambda: stacks_of(backend, machine))
    [busy] = [worker for worker in found.workers if worker.pid == running[0].pid]
    assert busy.running == [f"tasks.nap {running[0].id}"]
    assert busy.complete
    assert "in nap" in busy.text
    assert found.left_out == 0
    assert {worker.pool for worker in found.workers} == {worker.pool for worker in read_board(first.run_dir).supervisor.workers}
    first.process.kill()
    backend.close()


@pytest.mark.parametrize(("workers", "kept"), [(1, 1), (20, 20), (200, 28)])
def test_stacks_of_many_workers_are_cut_until_they_fit(tmp_path, monkeypatch, workers, kept):
    stacks = TakenStacks("web1.abc", tmp_path)
    made = [
        WorkerStacks(pid, "default", 'File "x"\n' * 8000, True, ["job id"] if pid == 7 else []) for pid in range(1, workers + 1)
    ]
    monkeypatch.setattr(stacks, "_workers", lambda asked: iter(made))
    data = stacks._report("id", _Asked({}, ""))
    report = msgspec.json.decode(data, type=StacksReport)
    assert len(data) <= LARGEST
    assert len(report.workers) + report.left_out == workers
    assert len(report.workers) >= kept * 0.7
    assert workers < 7 or report.workers[0].pid == 7, "a worker that runs something comes first"


def test_commands_that_the_supervisor_does_not_answer_leave_nothing_behind(tmp_path):
    stacks = TakenStacks("web1.abc", tmp_path)
    for number in range(100):
        stacks.begin(str(number), "")
    stacks.ended("99", "there is no such pool")
    assert len(stacks._asked) < 20
    assert not stacks.is_due


def _serving(found: dict[str, dict]) -> dict[str, dict] | None:
    return found if found.keys() == {".jobs", "second"} and {one["state"] for one in found.values()} == {"serving"} else None
