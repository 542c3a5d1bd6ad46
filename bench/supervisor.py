"""The costs and delays of a supervisor: start, restart, repair, memory, many workers, many jobs at once."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs_core import App
from jobs_core.config_sources import load
from jobs_core.message import new_message
from jobs_core.scoreboard.state import Board, SupervisorState, read_board
from jobs_core.scoreboard.writer import start_ticks

from .support import median

HEAVY = """
import os, time
from pathlib import Path
from jobs_core import job

LEDGER = os.open(Path(__file__).parent / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
BALLAST = [str(number) * 3 for number in range({ballast})]
time.sleep({pause})

@job
def nap(seconds: float):
    os.write(LEDGER, f"start {{os.getpid()}} {{time.monotonic()}}\\n".encode())
    time.sleep(seconds)

@job
async def anap(seconds: float):
    import asyncio
    await asyncio.sleep(seconds)
    os.write(LEDGER, b"end\\n")
"""


class SupervisorRun:
    """A supervisor in its own directory."""

    def __init__(self, directory: Path, toml: str, *, ballast: int = 0, pause: float = 0.0) -> None:
        self.directory = directory
        self.run_dir = directory / ".jobs"
        (directory / "tasks.py").write_text(HEAVY.format(ballast=ballast, pause=pause))
        (directory / "jobs.toml").write_text(f'backend = "sqlite:///queue.db"\nmodules = ["tasks"]\n{toml}\n')
        self.app = App(load(directory / "jobs.toml", environ={}).config)
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobs_core", "start"], cwd=directory, stderr=(directory / "log").open("wb")
        )

    def board(self) -> Board:
        return read_board(self.run_dir, most_entries=0)

    def until_served(self) -> float:
        """Return the seconds from the command until all workers serve."""
        until(lambda: (state := self.board().supervisor) is not None and state.served)
        return time.monotonic() - self.begun

    def pids(self) -> list[int]:
        views = self.board().workers
        return [view.header.pid for view in views if start_ticks(view.header.pid) == view.header.start_ticks]

    def serving(self) -> int:
        state = self.board().supervisor
        return sum(worker.state == "serving" for worker in state.workers) if state else 0

    def push(self, job: str, count: int, *args: Any) -> None:
        messages = [self.app.outgoing(new_message(f"tasks.{job}", "default", args, {})) for _ in range(count)]
        self.app._producer.push(messages, 30.0)

    def ledger(self) -> list[str]:
        path = self.directory / "ledger"
        return path.read_text().splitlines() if path.exists() else []

    def stop(self) -> float:
        """Return the seconds that a graceful stop takes."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        return time.monotonic() - begin


@contextlib.contextmanager
def supervised(toml: str, **options: Any) -> Iterator[SupervisorRun]:
    with tempfile.TemporaryDirectory(prefix="jobs-bench-") as directory:
        run = SupervisorRun(Path(directory), toml, **options)
        try:
            yield run
        finally:
            if run.process.poll() is None:
                run.stop()
            run.app.close()


def until(condition: Any, patience: float = 60.0, pause: float = 0.001) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(pause)


def respawn() -> dict[str, float]:
    """Measure until the successor of a killed worker serves, with an application that takes 2 s to import, and its job
    reruns."""
    with supervised("pools.default.workers = 2", pause=2.0) as run:
        run.until_served()
        back, again = [], []
        for _ in range(5):
            before = len(run.ledger())
            run.push("nap", 1, 30.0)
            until(lambda before=before: len(run.ledger()) > before)
            victim = int(run.ledger()[-1].split()[1])
            others = set(run.pids())
            killed_at, begin = time.time(), time.monotonic()
            os.kill(victim, signal.SIGKILL)
            until(lambda before=before: len(run.ledger()) > before + 1)
            again.append(float(run.ledger()[-1].split()[2]) - begin)
            until(lambda others=others: any(pid not in others for pid in run.pids()) and run.serving() == 2)
            until(lambda since=killed_at: any(crash.at >= since for crash in _state(run).crashes))
            state = _state(run)
            died, served = state.crashes[-1].at, max(worker.since for worker in state.workers if worker.state == "serving")
            back.append(served - died)
            for view in read_board(run.run_dir).workers:  # its second life is not measured
                if view.running:
                    run.app.operate(lambda backend, job_id=view.running[0].id: backend.cancel(job_id))
            until(lambda: not any(view.running_count for view in run.board().workers))
        return {"respawn, ms": median(back) * 1000, "a killed worker's job runs again, ms": median(again) * 1000}


def _state(run: SupervisorRun) -> SupervisorState:
    state = run.board().supervisor
    assert state is not None
    return state


def memory() -> dict[str, float]:
    """Measure the memory of all processes of a small application, and of one more idle worker of a 100 MB application."""
    with supervised("pools.default.workers = 2") as run:
        run.until_served()
        time.sleep(6.0)  # idle
        state = _state(run)
        pids = [state.pid, state.template_pid, state.housekeeper_pid, *run.pids()]
        figures = {
            "supervisor USS, MB": smaps(state.pid, "Private_Clean", "Private_Dirty"),
            "all processes with two workers PSS, MB": sum(smaps(pid, "Pss") for pid in pids),
        }
    with supervised("pools.default.workers = 3", ballast=1_100_000) as run:
        run.until_served()
        time.sleep(6.0)
        each = [smaps(pid, "Private_Clean", "Private_Dirty") for pid in run.pids()]
        resident = [smaps(pid, "Rss") for pid in run.pids()]
    return {**figures, "one more worker USS, MB": median(each), "its resident size, MB": median(resident)}


def smaps(pid: int, *names: str) -> float:
    """Return the megabytes of a process according to /proc."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE) if name in names) / 1000


def many_workers() -> dict[str, float]:
    """Measure 200 workers: from start to all serving, the CPU time of the idle supervisor, a graceful stop."""
    with supervised("pools.default.workers = 200") as run:
        served = run.until_served()
        time.sleep(3.0)
        before, begin = cpu(run.process.pid), time.monotonic()
        time.sleep(10.0)
        idle = (cpu(run.process.pid) - before) / (time.monotonic() - begin) * 100
        stopped = run.stop()
    return {"200 workers: start, s": served, "200 workers: idle supervisor, % CPU": idle, "200 workers: stop, s": stopped}


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ten_thousand() -> dict[str, float]:
    """Measure 10,000 jobs of one second at once, in two workers."""
    with supervised('pools.default = {workers = 2, mode = "async", concurrency = 5000}') as run:
        run.until_served()
        begin = time.monotonic()
        run.push("anap", 10_000, 1.0)
        pushed = time.monotonic()
        size = run.directory / "ledger"
        until(lambda: size.exists() and size.stat().st_size >= 40_000, pause=0.01)
        ended = time.monotonic()
    return {"10,000 x 1 s: from the enqueue, s": ended - begin, "10,000 x 1 s: after the enqueue, s": ended - pushed}


SCENARIOS = {
    "respawn": respawn,
    "processes": memory,
    "many-workers": many_workers,
    "ten-thousand": ten_thousand,
}
GOALS = {
    "respawn, ms": ("≤", 100.0),
    "a killed worker's job runs again, ms": ("≤", 1000.0),
    "supervisor USS, MB": ("≤", 20.0),
    "all processes with two workers PSS, MB": ("≤", 60.0),
    "one more worker USS, MB": ("≤", 3.0),
    "200 workers: start, s": ("≤", 3.0),
    "200 workers: idle supervisor, % CPU": ("≤", 1.0),
    "200 workers: stop, s": ("≤", 1.0),
    "10,000 x 1 s: from the enqueue, s": ("≤", 3.0),
}
