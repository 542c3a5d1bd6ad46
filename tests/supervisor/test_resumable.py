"""A job of very many short steps, in real workers: a graceful end repeats none of them, and a kill those of about a second."""

from __future__ import annotations

import itertools
import os
import signal
import struct
from typing import NamedTuple

import pytest

from jobs_core.units import count
from jobs_core.worker.checkpoints import CHECKPOINT_INTERVAL

from ..support.project import Project
from ..support.stopwatch import LONGEST
from ..support.supervised import Supervised

TASKS = '''
import os
import struct
import time

from jobs_core import current_job, job

NOTE = struct.Struct("<qqd").pack


@job(resumable=True)
def walk() -> None:
    """Note each step at once, in a way that a kill cannot undo."""
    notes = os.open("steps", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    pid = os.getpid()
    for row in current_job().steps(range(10**12)):
        os.write(notes, NOTE(row, pid, time.monotonic()))
        if row % 50 == 0 and os.path.exists("enough"):
            break
'''

NOTE = 24
"""Bytes of the note of one step."""

SLACK = 2.0
"""Seconds by which a loaded machine may delay the courier, or the processes that it serves."""


class Step(NamedTuple):
    row: int
    pid: int
    at: float


class Walk:
    """The job, and the steps that it has noted."""

    def __init__(self, project: Project, pool: str) -> None:
        project.configure(f"[pools.default]\nworkers = 1\n{pool}\n")
        self.project = project
        self.job_id = project.push("walk")
        self._read: list[Step] = []
        (project.root / "steps").touch()

    def steps(self) -> list[Step]:
        with (self.project.root / "steps").open("rb") as notes:
            notes.seek(len(self._read) * NOTE)
            data = notes.read()
        self._read += [Step(*each) for each in struct.iter_unpack("<qqd", data[: len(data) // NOTE * NOTE])]
        return self._read

    def last_pid(self) -> int | None:
        """Return the process that has done the last step."""
        with (self.project.root / "steps").open("rb") as notes:
            size = notes.seek(0, os.SEEK_END) // NOTE * NOTE
            if not size:
                return None
            notes.seek(size - NOTE)
            return Step(*struct.unpack("<qqd", notes.read(NOTE))).pid

    def until_another(self, *pids: int) -> int:
        """Wait until another process than these has done steps; return it."""
        return self.project.until(lambda: (pid := self.last_pid()) not in (None, *pids) and pid)

    def stored(self) -> int:
        """Return the number of steps that are done according to the stored cursor."""
        app = self.project._apps[0]
        cursor = app.operate(lambda backend: backend.get(self.job_id)).cursor
        return int(cursor.removeprefix(b'{"cursor":').removesuffix(b"}") or 0)

    def finish(self) -> list[Step]:
        (self.project.root / "enough").touch()
        self.project.until_empty()
        return self.steps()


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path / "project", TASKS)
    yield made
    made.close()


def seconds_of(steps: list[Step]) -> float:
    """Return how long steps took; in a longer one than LONGEST of the stopwatch, the machine stood still."""
    return sum(min(after.at - before.at, LONGEST) for before, after in itertools.pairwise(steps))


def rows_of(steps: list[Step]) -> list[int]:
    return [step.row for step in steps]


def test_a_stop_and_a_new_start_repeat_no_step(project):
    walk = Walk(project, 'mode = "threads"\nconcurrency = 2')
    first = Supervised(project)
    pid = walk.until_another()
    assert first.process.stop() == 0
    stopped = len(walk.steps())
    assert walk.stored() == stopped, "the stop stores the last cursor"
    assert f"{walk.job_id} in topic default was released after {count(stopped, 'step')}," in first.process.output
    Supervised(project)
    walk.until_another(pid)
    rows = rows_of(walk.finish())
    assert rows == [*range(len(rows))]


def test_a_reload_repeats_no_step(project):
    walk = Walk(project, 'mode = "async"\nconcurrency = 2')
    supervisor = Supervised(project)
    pid = walk.until_another()
    supervisor.process.signal(signal.SIGHUP)
    walk.until_another(pid)
    rows = rows_of(walk.finish())
    assert rows == [*range(len(rows))]


@pytest.mark.parametrize("limit", ["max_jobs = 1", 'max_age = "1s"'])
def test_recycling_repeats_no_step(project, limit):
    walk = Walk(project, limit)
    Supervised(project)
    pid = walk.until_another()
    walk.until_another(pid, walk.until_another(pid))
    rows = rows_of(walk.finish())
    assert rows == [*range(len(rows))]
    assert not project.dead()


def test_a_kill_repeats_no_step_before_the_stored_cursor_and_about_a_second_at_most(project):
    walk = Walk(project, "")
    Supervised(project)
    pids: list[int] = []
    killed: list[int] = []
    for _ in range(2):
        pids.append(walk.until_another(*pids))
        before = walk.stored()
        killed.append(project.until(lambda before=before: (now := walk.stored()) > before and now))
        os.kill(pids[-1], signal.SIGKILL)
    walk.until_another(*pids)
    runs = [[*run] for _, run in itertools.groupby(walk.finish(), lambda step: step.pid)]
    assert len(runs) == 3
    for run, following, stored in zip(runs, runs[1:], killed, strict=False):
        assert rows_of(run) == [*range(run[0].row, run[-1].row + 1)]
        assert stored <= following[0].row <= run[-1].row + 1
        repeated = [step for step in run if step.row >= following[0].row]
        if repeated:
            assert seconds_of(repeated) <= CHECKPOINT_INTERVAL + SLACK
    assert not project.dead(), "crashes are charged, but two are not too many"
