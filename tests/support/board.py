"""A run directory as a supervisor would leave it, written by the real writers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jobs_core.scoreboard import layout, state
from jobs_core.scoreboard.layout import Phase
from jobs_core.scoreboard.state import Backlog, ChildState, PoolState, SupervisorState, Totals
from jobs_core.scoreboard.writer import FileScoreboard, start_ticks

FRESH = 60.0
"""Seconds by which the stamps of a board are ahead, so that a slow machine does not make it look like one that has stopped."""


class FakeRun:
    """The attributes of a run that a scoreboard reads."""

    def __init__(self, job: str, topic: str, job_id: str, started: float, timeout: float | None = None) -> None:
        self.job = SimpleNamespace(name=job)
        self.delivery = SimpleNamespace(
            id=job_id, topic=topic, attempt=0, redeliveries=0, deferrals=0, broker_now=100.0, pushed_at=99.97
        )
        self.message = SimpleNamespace(delay=None)
        self.started = started
        self.ended = started
        self.timeout = timeout
        self.slot = -1
        self.trace = b""


class FakeBoard:
    """The run directory; `write` writes the contents of `supervisor` and `backlog`."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        (run_dir / state.WORKERS).mkdir(parents=True, mode=0o700)
        now = time.time()
        pools = [PoolState("default", ["email", "default"], "sync", 1, 2, 8, 2)]
        self.supervisor = SupervisorState(
            os.getpid(), socket.gethostname(), "0.1.0", now - 7500, 1, "serving", now + FRESH,
            config_file="jobs.toml", backend="sqlite:///queue.db", start_ticks=start_ticks(os.getpid()), served=True,
            template_pid=os.getpid(), housekeeper_pid=os.getpid(), pools=pools,
        )  # fmt: skip
        self.backlog = Backlog(now, os.getpid(), True, now + FRESH, 0.002, "", {})
        self.totals = Totals()
        self.workers: dict[str, FileScoreboard] = {}
        self.write()

    def worker(
        self, owner: str, *, pool: str = "default", mode: str = "sync", slots: int = 1, done: int = 0, failed: int = 0,
        phase: Phase = Phase.SERVING, child: str = "serving", memory: int = 45_000_000, pid: int = 0, reason: str = "",
    ) -> FileScoreboard:  # fmt: skip
        """Add a worker; its process is the test's unless `pid` says otherwise."""
        path = self.run_dir / state.WORKERS / owner
        board = FileScoreboard(path, owner=owner, pool=pool, generation=1, mode=mode, slots=slots)
        if pid:
            with path.open("r+b") as file:
                file.seek(layout.PID)
                file.write(pid.to_bytes(4, "little"))
        board.phase(phase)
        board.beat(done, failed, 0)
        self.workers[owner] = board
        if child:
            self.supervisor.workers.append(
                ChildState(owner, pid or os.getpid(), pool, 1, child, time.time() - 100, reason, memory)
            )
        self.write()
        return board

    def write(self, **supervisor: Any) -> None:
        """Write the JSON files as of now."""
        for name, value in supervisor.items():
            setattr(self.supervisor, name, value)
        self.supervisor.written_at = time.time() + FRESH
        state.write(self.run_dir / state.STATE, self.supervisor)
        state.write(self.run_dir / state.BACKLOG, self.backlog)
        state.write(self.run_dir / state.TOTALS, self.totals)

    @contextlib.contextmanager
    def held(self, pid: int = 0) -> Iterator[None]:
        """Hold the lock that shows that a supervisor runs."""
        with (self.run_dir / "supervisor.pid").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{pid or os.getpid()}\n")
            file.flush()
            yield

    def close(self) -> None:
        for board in self.workers.values():
            board.close()


def run(job: str, topic: str = "default", *, ago: float = 0.0, job_id: str = "0198-1", timeout: float | None = None) -> Any:
    """Return a run that began this many seconds ago."""
    return FakeRun(job, topic, job_id, time.monotonic() - ago, timeout)
