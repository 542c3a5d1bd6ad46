"""Random kills of all processes while jobs run: every job is in the ledger, and kills explain all duplicates."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from typing import NamedTuple

from ..support.project import Project
from ..support.supervised import Supervised, kill

JOBS = int(os.environ.get("JOBS_CHAOS_JOBS", "4000"))
SECONDS = float(os.environ.get("JOBS_CHAOS_SECONDS", "10"))
SEED = int(os.environ.get("JOBS_CHAOS_SEED", "0")) or time.time_ns() % 1_000_000

UNSETTLED = 0.25
"""Seconds that a finished job may be unsettled here: 10 ms, plus a write on a loaded machine."""

TASKS = """
import os, time
from pathlib import Path
from jobs_core import job

LEDGER = os.open(Path(__file__).parent / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@job
def work(number: int, seconds: float):
    os.write(LEDGER, f"start {number} {os.getpid()} {time.monotonic()}\\n".encode())
    time.sleep(seconds)
    os.write(LEDGER, f"end {number} {os.getpid()} {time.monotonic()}\\n".encode())
"""


def test_random_kills_of_all_processes_lose_nothing_and_repeat_only_running_jobs(project: Project):
    rng = random.Random(SEED)
    (project.root / "tasks.py").write_text(TASKS)
    # A job may be running at many kills here without being guilty: it would be taken for a poisonous one.
    project.configure('max_redeliveries = 1000\nlease = "5s"\npools.default = {workers = 3, mode = "threads", concurrency = 4}')
    supervised = Supervised(project)
    kills: list[tuple[float, set[int]]] = []  # when, and which workers died of it
    counted: Counter[str] = Counter()
    end = time.monotonic() + SECONDS
    pushed = 0
    batch = max(1, JOBS // int(SECONDS * 10))
    while time.monotonic() < end or pushed < JOBS:
        if pushed < JOBS:
            numbers = range(pushed, min(JOBS, pushed + batch))
            project.push_many([("work", (number, rng.choice((0.0, 0.002, 0.02))), {}) for number in numbers])
            pushed += len(numbers)
        victim = rng.choices(("nobody", "worker", "template", "housekeeper", "supervisor"), (60, 25, 4, 4, 3))[0]
        state = supervised.board().supervisor
        assert state is not None
        if victim == "nobody":
            time.sleep(0.05)  # the pace of the kills
            continue
        workers = supervised.pids()
        died: set[int] = set()
        if victim == "supervisor":
            died = workers
            supervised.kill()
            supervised = Supervised(project)  # as systemd would
        else:
            named = {"template": state.template_pid, "housekeeper": state.housekeeper_pid}
            pid = named.get(victim) or (rng.choice(sorted(workers)) if workers else 0)
            if pid not in supervised.children():
                continue
            died = {pid} & workers
            try:
                kill(pid)
            except ProcessLookupError:  # an earlier kill has ended it, and it was reaped meanwhile
                continue
        counted[victim] += 1
        kills.append((time.monotonic(), died))
    project.until_empty()
    assert supervised.stop() == 0
    runs = [Run(*line.split()) for line in project.ledger()]
    seed = f"seed {SEED}, kills {dict(counted)}"
    assert not project.dead(), seed
    ended = {run.number for run in runs if run.kind == "end"}
    missing = [number for number in range(JOBS) if str(number) not in ended]
    assert not missing, f"{seed}: lost {len(missing)}, such as {missing[:5]}"
    starts = Counter(run.number for run in runs if run.kind == "start")
    doubled = sum(count - 1 for count in starts.values())
    allowed = sum(_at_risk(runs, pid, at) for at, died in kills for pid in died)
    print(f"{JOBS} jobs, {seed}: lost 0, ran again {doubled} of {allowed} at risk")
    assert doubled <= allowed, seed


class Run(NamedTuple):
    """A line of the ledger."""

    kind: str
    number: str
    pid: str
    at: str


def _at_risk(runs: list[Run], pid: int, killed: float) -> int:
    """Return the jobs that a process ran when it was killed, or finished so shortly before that they may not be settled."""
    mine = [run for run in runs if run.pid == str(pid)]
    ends = {run.number: float(run.at) for run in mine if run.kind == "end"}
    return sum(run.kind == "start" and ends.get(run.number, killed) > killed - UNSETTLED for run in mine)
