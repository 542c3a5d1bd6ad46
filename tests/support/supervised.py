"""A real supervisor in a project's directory, and the contents of its scoreboard."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs_core.scoreboard.state import Board, WorkerView, read_board
from jobs_core.scoreboard.writer import start_ticks

from .project import PATIENCE, Process, Project, until
from .stopwatch import Stopwatch


class Supervised:
    """`jobsctl start` in the foreground; it ends with the project."""

    def __init__(self, project: Project, *, ready: bool = True, **environment: str) -> None:
        self.project = project
        self.process: Process = project.start("start", **environment)
        if ready:
            self.process.until_said(" ready: ")

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def run_dir(self) -> Path:
        return self.project.root / ".jobs"

    def board(self) -> Board:
        return read_board(self.run_dir)

    def workers(self) -> list[WorkerView]:
        """Return the workers whose process is alive."""
        return [view for view in self.board().workers if start_ticks(view.header.pid) == view.header.start_ticks]

    def pids(self) -> set[int]:
        return {view.header.pid for view in self.workers()}

    def worker_of(self, text: str) -> int:
        """Return the process that wrote `start TEXT PID` into the ledger last."""
        return int([line for line in self.project.ledger() if line.startswith(f"start {text} ")][-1].split()[2])

    def children(self) -> list[int]:
        """Return every process of this supervisor."""
        pids = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[1]) == self.pid and fields[0] != "Z":
                    pids.append(int(entry.name))
        return pids

    def until(self, condition: Callable[[Board], Any], patience: float = PATIENCE) -> Any:
        """Wait until the board shows something; print the log if it does not."""
        try:
            return until(lambda: condition(self.board()), patience)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.process.output}") from None

    def until_state(self, state: str) -> None:
        self.until(lambda board: board.supervisor is not None and board.supervisor.state == state)

    def until_serving(self, number: int) -> None:
        """Wait until exactly this many workers serve, and there are no others."""

        def serving(board: Board) -> bool:
            if board.supervisor is None:
                return False
            states = [worker.state for worker in board.supervisor.workers]
            return len(states) == number and all(state == "serving" for state in states)

        self.until(serving)

    def stop(self) -> int:
        return self.process.stop()

    def kill(self) -> None:
        """Send SIGKILL to the supervisor alone: tests check what becomes of the rest."""
        self.process.kill()


def gone(pid: int, ticks: int) -> bool:
    """Return True if a process has ended (a zombie has)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True
    return fields[0] == "Z" or int(fields[19]) != ticks


def seconds_until(condition: Callable[[], Any], patience: float = PATIENCE) -> float:
    """Return the seconds until a condition held, by a stopwatch that stands still with the machine."""
    watch = Stopwatch()
    until(condition, patience)
    return watch.stop()


def kill(pid: int) -> None:
    """Kill one process, like a crash."""
    assert pid > 0, f"{pid} would be the process group of the tests"
    os.kill(pid, signal.SIGKILL)
