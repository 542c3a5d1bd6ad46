"""Machines that share a backend see one another, and obey commands: two supervisors of one queue file stand for two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs_core.scoreboard.state import read_board

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


def _serving(found: dict[str, dict]) -> dict[str, dict] | None:
    return found if found.keys() == {".jobs", "second"} and {one["state"] for one in found.values()} == {"serving"} else None
