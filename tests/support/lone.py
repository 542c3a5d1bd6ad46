"""A process that others take for a supervisor: it holds the lock, publishes a board and obeys commands, without workers.

It is ready in a quarter of a second. `python -m tests.support.lone RUN_DIR` prints `ready`, and each command that it
receives.
"""

from __future__ import annotations

import os
import sys
import time

from jobs_core.config_sources import load
from jobs_core.scoreboard import state
from jobs_core.scoreboard.state import ChildState, PoolState, SupervisorState
from jobs_core.scoreboard.writer import FileScoreboard, start_ticks
from jobs_core.supervisor.control import Command, ControlSocket
from jobs_core.supervisor.pidfile import PidFile
from jobs_core.supervisor.processes.child_setup import title
from jobs_core.supervisor.search import TITLE
from jobs_core.supervisor.system.loop import Loop
from jobs_core.worker import stacks


def main() -> None:
    effective = load()
    config = effective.config
    run_dir = (config.base_dir / config.run_dir).resolve()
    workers = run_dir / state.WORKERS
    workers.mkdir(parents=True, mode=0o700, exist_ok=True)
    pid_file = PidFile(run_dir)
    title(f"{TITLE}{run_dir}")
    stacks.arm(workers / "w1.stacks")
    board = FileScoreboard(workers / "w1", owner="w1", pool="default", generation=1, mode="sync", slots=1)
    board.beat(0, 0, 0)
    loop = Loop()
    ended = False

    def obey(command: Command) -> None:
        nonlocal ended
        print(*command.message.values(), flush=True)
        command.answer(done=True, wanted=command.message.get("workers"), generation=2)
        if command.message["do"] in ("stop", "exit"):
            pid_file.close()
            loop.stop()

    control = ControlSocket(loop, run_dir, obey, publish=lambda: None)
    now = time.time()
    state.write(
        run_dir / state.STATE,
        SupervisorState(
            os.getpid(), "here", "0.1.0", now, 1, "serving", now,
            config_file=str(effective.file or ""), base_dir=str(config.base_dir), lease=float(config.lease),
            backend=config.backend or "", start_ticks=start_ticks(os.getpid()), served=True,
            pools=[PoolState("default", ["default"], "sync", 1, 1, 1, 1)],
            workers=[ChildState("w1", os.getpid(), "default", 1, "serving", now, "", 50_000_000)],
        ),
    )  # fmt: skip
    print("ready", flush=True)
    loop.run()
    control.close()


if __name__ == "__main__":
    sys.exit(main())
