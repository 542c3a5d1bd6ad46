"""Scheduled jobs, from real processes that are killed at the worst moment."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections import Counter

import pytest

from ..support.project import PATIENCE, Project

TASKS = """
import os
from pathlib import Path
from jobs_core import current_job, job

LEDGER = os.open(Path(__file__).parent / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@job
def tick():
    headers = current_job().headers
    os.write(LEDGER, f"{headers['schedule']} {headers['tick']:.0f}\\n".encode())
"""

SCHEDULE = """
[schedule.minute]
job = "tasks.tick"
every = 60
[schedule.three]
job = "tasks.tick"
cron = "*/3 * * * *"
tz = "Asia/Kathmandu"
"""

# The housekeeper of one machine, which reads the time line by line: only the clock is not real.
MACHINE = """
import sys
from pathlib import Path
from jobs_core import App
from jobs_core.schedule import Ticker
from jobs_core.worker.main import prepare
sys.path.insert(0, ".")
app = App()
prepare(app)
ticker = Ticker(app, Path(sys.argv[1]))
backend = app.new_backend()
backend.open(None)
for line in sys.stdin:
    ticker.refresh(backend)
    ticker.enqueue(ticker.due(float(line)), backend.push, backend.push_guarded)
    print("done", flush=True)
"""

START = 1_800_000_000.0  # a multiple of both


class Machine:
    """A process with a state file; it may die at any line."""

    def __init__(self, project: Project, name: str) -> None:
        self._project, self._name, self.deaths = project, name, 0
        self._start("")

    def _start(self, failpoint: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", MACHINE, f"{self._name}.json"],
            cwd=self._project.root,
            env=self._project.environment(JOBS_FAILPOINT=failpoint),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, now: float) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{now}\n")
        self._process.stdin.flush()

    def heard(self) -> bool:
        assert self._process.stdout
        return self._process.stdout.readline() == "done\n"

    def restart(self, failpoint: str = "") -> None:
        self.close()
        self._start(failpoint)

    def close(self) -> int:
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        code = self._process.wait(PATIENCE)
        self._process.stdout.close()
        return code


@pytest.fixture
def machines(tmp_path):
    project = Project(tmp_path / "project", TASKS)
    project.configure(SCHEDULE)
    made = [Machine(project, name) for name in "ab"]
    yield project, made
    for machine in made:
        machine.close()
    project.close()


def test_each_tick_runs_once_though_machines_die_between_enqueue_and_noting_it(machines):
    project, both = machines
    project.worker()
    deaths = 0
    for minute in range(20):
        now = START + minute * 60
        if minute % 4 == 1:  # one of them, in turn, dies once it has enqueued
            both[minute // 4 % 2].restart("schedule.pushed=kill")
        for machine in both:
            machine.tell(now)  # both at once
        for machine in both:
            if not machine.heard():
                deaths += 1
                machine.restart()
                machine.tell(now + 5)
                assert machine.heard()
    assert deaths == 5
    wanted = {f"minute {START + minute * 60:.0f}" for minute in range(1, 20)}
    wanted |= {f"three {START + minute * 60:.0f}" for minute in range(3, 20, 3)}
    project.until_noted(*wanted)
    project.until_empty()
    assert Counter(project.ledger()) == Counter(wanted)


def test_a_machine_that_was_down_for_hours_runs_nothing_that_another_ran(machines):
    project, (here, away) = machines
    project.worker()
    for machine in (here, away):
        machine.tell(START)
        assert machine.heard()
    away.close()
    for minute in range(1, 121):
        here.tell(START + minute * 60)
        assert here.heard()
    away.restart()
    away.tell(START + 120 * 60 + 30)
    assert away.heard()
    wanted = {f"minute {START + minute * 60:.0f}" for minute in range(1, 121)}
    wanted |= {f"three {START + minute * 60:.0f}" for minute in range(3, 121, 3)}
    project.until_noted(*wanted)
    project.until_empty()
    assert Counter(project.ledger()) == Counter(wanted)


def test_when_all_were_down_the_latest_tick_runs_once(machines):
    project, both = machines
    project.worker()
    for machine in both:
        machine.tell(START)
        assert machine.heard()
        machine.restart()
    for machine in both:
        machine.tell(START + 7230)
    for machine in both:
        assert machine.heard()
    project.until_noted(f"minute {START + 7200:.0f}", f"three {START + 7200:.0f}")
    project.until_empty()
    assert len(project.ledger()) == 2


def test_no_tick_of_an_entry_gets_in_after_a_pause_has_returned_whatever_the_machines_are_doing(machines):
    project, both = machines
    project.worker()

    def tell(minute: int) -> None:
        for machine in both:
            machine.tell(START + minute * 60)

    for minute in range(4):
        tell(minute)
    done = project.run("schedule", "pause", "minute")  # while they are still at it
    assert done.returncode == 0, done.stderr
    for minute in range(4, 8):
        tell(minute)
    for machine in both:
        assert all(machine.heard() for _ in range(8))
    wanted = {f"minute {START + minute * 60:.0f}" for minute in range(1, 4)} | {f"three {START + n * 60:.0f}" for n in (3, 6)}
    project.until_noted(f"three {START + 6 * 60:.0f}")
    project.until_empty()
    ledger = Counter(project.ledger())
    assert set(ledger) <= wanted, "a tick after the pause"
    assert set(ledger.values()) == {1}
