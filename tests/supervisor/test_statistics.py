"""What `jobsctl stats` shows is what real workers of real supervisors did: exactly, also over kills, reloads and machines."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from jobs_core.backends.statistics import MINUTE, all_of
from jobs_core.statistics import Tally

from ..support.clock import Clock
from ..support.project import Project, until
from ..support.supervised import Supervised


def stats(project: Project, *arguments: str) -> dict:
    done = project.run("stats", "--since", "2h", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def counted(project: Project) -> Tally:
    """Add up all rows in the backend, those of the minute that has not ended, too."""
    found = Tally()
    backend = project.app().new_backend()
    backend.open(None)
    for row in all_of(backend, MINUTE, 0, ""):
        found.add(row)
    backend.close()
    return found


def test_runs_of_two_machines_count_exactly_over_a_killed_housekeeper_a_reload_and_a_killed_worker(project: Project):
    first = Supervised(project)
    second = Supervised(project, JOBS_RUN_DIR=str(project.root / "second"))
    project.push_many([("note", (f"{n}",), {}) for n in range(200)] + [("fail", (), {})] * 5)
    project.until_empty("default")
    state = first.board().supervisor
    assert state is not None
    housekeeper = state.housekeeper_pid
    os.kill(housekeeper, signal.SIGKILL)
    until(lambda: (now := first.board().supervisor) and now.housekeeper_pid not in (0, housekeeper))
    os.kill(first.workers()[0].header.pid, signal.SIGKILL)
    assert project.run("reload").returncode == 0
    project.push_many([("note", (f"more-{n}",), {}) for n in range(100)])
    project.until_empty("default")
    first.stop()
    second.stop()
    found = counted(project)
    assert (found.outcome("done"), found.outcome("retry"), found.outcome("dead"), found.runs) == (300, 10, 5, 315)
    assert found.run.most is not None
    assert found.run.most > 0
    assert found.wait.count == 305


def test_a_minute_is_reported_when_it_has_ended(project: Project, tmp_path: Path):
    begun = int(time.time()) // 60 - 2
    clock = Clock(tmp_path, begun * 60 - int(time.time()))
    supervised = Supervised(project, **clock.environment)

    def pushed() -> int | None:
        backlog = supervised.board().backlog
        return backlog.topics["default"].pushed if backlog and "default" in backlog.topics else None

    until(lambda: pushed() == 0)
    project.push("note", "x")
    project.until_noted("note x")
    until(lambda: pushed() == 1)
    path = supervised.run_dir / "statistics.json"

    def reported() -> bool:
        kept = json.loads(path.read_bytes()) if path.exists() else {"minute": 0}
        return kept["minute"] > begun and not kept["unsent"]

    clock.move(0)  # two minutes have passed
    until(reported)
    data = stats(project)
    assert (data["topics"]["default"]["done"], data["topics"]["default"]["enqueued"]) == (1, 1)
    assert data["reports"] in (1, 2), "one for each minute that has ended: two if a minute was not enough until here"
    assert not list(Path(supervised.run_dir).glob("statistics.json.*"))
