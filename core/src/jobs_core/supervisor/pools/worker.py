"""A worker as the supervisor sees it: from the request to start it until its jobs are released."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Literal, TypeAlias

from ...config import Pool
from ...scoreboard.reader import WorkerFile
from ...scoreboard.state import WORKERS, ChildState
from ..processes.children import Child
from ..system import linux
from ..system.messages import ToWorker, WorkerSpec

State: TypeAlias = Literal["starting", "standby", "serving", "stopping", "releasing"]

AGE_JITTER = 0.1
"""Largest share by which `max_age` and `max_jobs` are lowered at random: workers that started together end one by one."""

GROWTH = 500_000_000
"""Bytes by which a worker may grow after its start, if the configuration sets no `max_memory`."""

SETTLED = 60.0
"""Seconds after a worker's start without a check of its growth: one with large jobs is not replaced all the time."""


class WorkerRecord:
    """The record of one worker. Its pool moves it from state to state."""

    def __init__(self, spec: WorkerSpec, settings: Pool) -> None:
        self.spec = spec
        self.settings = settings
        self.child: Child | None = None
        self.state: State = "starting"
        self.since = time.time()
        self.started_at = time.monotonic()
        self.ready_at: float | None = None  # monotonic
        self.leaving = ""  # why it is to be replaced or told to stop; empty while it is to stay
        self.successor_of: WorkerRecord | None = None  # the worker that has to end before this one serves
        self.error = ""  # why it could not boot
        self.importing = ""  # the module that it imports, which may end it
        self.stop_by: float | None = None  # monotonic: then it is killed
        self.killed_for = ""  # a sentence: why the supervisor killed it
        self.exiting = False  # only its exit functions are left
        self.kill_pending = False  # it is about to be killed
        self.culprit = ""  # the job for which it was killed
        self.memory = 0
        self._first_memory = 0
        self.idle_since: float | None = None
        self.offline_since: float | None = None
        self.max_age = float(settings.max_age) * random.uniform(1 - AGE_JITTER, 1)
        self._file: WorkerFile | None = None

    @property
    def owner(self) -> str:
        return self.spec.owner

    @property
    def pid(self) -> int:
        return self.child.pid if self.child else 0

    def enter(self, state: State) -> None:
        self.state = state
        self.since = time.time()

    def read_memory(self) -> None:
        """Read its resident memory."""
        self.memory = linux.resident(self.pid)
        self._first_memory = self._first_memory or self.memory

    def is_too_large(self, now: float) -> bool:
        """Return whether the worker exceeds `max_memory`; by default, whether it has grown by GROWTH after SETTLED seconds."""
        limit = self.settings.max_memory
        if limit is not None:
            return 0 < limit < self.memory
        settled = self.ready_at is not None and now - self.ready_at > SETTLED
        return settled and self.memory > self._first_memory + GROWTH

    def send(self, message: ToWorker) -> bool:
        return self.child is not None and self.child.send(message)

    def file(self, run_dir: Path) -> WorkerFile | None:
        """Return the worker's scoreboard file; None until the worker has created it."""
        if self._file is None:
            with contextlib.suppress(OSError, ValueError):
                self._file = WorkerFile(run_dir / WORKERS / self.owner)
        return self._file

    def close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def signal(self, number: int) -> None:
        """Send a signal to the process alone. It is a child and not yet reaped, so that its process id cannot be reused."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def dump_stacks(self) -> None:
        """Make the worker write every thread's stack to its file."""
        self.signal(signal.SIGUSR2)

    def kill(self, why: str, *, culprit: str = "", charge: bool = True, run_dir: Path) -> None:
        """Kill the worker and its process group now. Without `charge`, its jobs are released as if they had not run."""
        if self.killed_for:
            return
        self.killed_for, self.culprit = why, culprit
        file = self.file(run_dir)
        if file is not None and not charge:
            file.spare()
        if self.child is not None:
            self.child.kill()

    def shown(self) -> ChildState:
        state = "retiring" if self.leaving and self.state in ("serving", "standby") else self.state
        return ChildState(
            self.owner, self.pid, self.spec.pool, self.spec.generation, state, self.since, self.leaving, self.memory
        )
