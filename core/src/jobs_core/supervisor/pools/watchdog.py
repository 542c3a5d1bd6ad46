"""The check, once a second, of the workers' shared memory for workers that hang, are too old, too large, or idle.

A worker whose courier has been silent for 0.8 of its lease is killed before its jobs run elsewhere. A worker is also
killed if one of its jobs has ignored its timeout for longer than `timeout_grace`, or if it cannot reach a backend that
answers the housekeeper: when its lease expires, its jobs would run elsewhere, too. Workers write their stacks before they
are killed. If the supervisor itself was suspended (the machine slept), its workers probably were, too: all their
deadlines start again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ... import events
from ...scoreboard.layout import Phase
from ...scoreboard.reader import RunEntry, WorkerFile, WorkerHeader
from ..system.loop import Loop
from .pool import WorkerPool
from .worker import WorkerRecord

INTERVAL = 1.0
MEMORY_EVERY = 5
"""Checks between two readings of a worker's memory, which cost a system call each."""

SILENCE = 0.8
"""Share of the lease after which a silent worker is killed."""

LONGEST_PAUSE = 3.0
"""Longest interval between two answers of a serving backend to the housekeeper, seconds; it asks once a second."""

COURIER_FIRST = 1.0
"""Seconds that a worker's courier has, after a job's grace period, to stop the job itself."""

STOOD_STILL = 2.0
"""Seconds between two checks that show that the supervisor was suspended."""

STACKS_PATIENCE = 0.3
"""Seconds between the request for stacks and the kill."""


class Watchdog:
    """The checks of all workers; it kills workers itself, and has pools replace them. Belongs to the supervisor's loop."""

    def __init__(self, loop: Loop, run_dir: Path, pools: Iterable[WorkerPool], lease: Callable[[], float]) -> None:
        self._loop = loop
        self._run_dir = run_dir
        self._pools = pools
        self._lease = lease
        self._checks = 0
        self._checked_at = self._awake_since = time.monotonic()
        self._answered = self._answers_since = -math.inf  # the housekeeper's answers from a backend with leases
        self._done: dict[str, tuple[float, int]] = {}  # pool → time, and jobs done by then
        self.rates: dict[str, float] = {}
        self.busy: dict[str, int] = {}

    def backend_answers(self) -> None:
        """Note that the housekeeper got an answer from a backend that gives a silent worker's jobs to others."""
        now = time.monotonic()
        if now - self._answered > LONGEST_PAUSE:
            self._answers_since = now
        self._answered = now

    def check(self) -> None:
        """Check all workers once."""
        now = time.monotonic()
        self._checks += 1
        if now - self._checked_at > STOOD_STILL:
            self._awake_since = now
        self._checked_at = now
        read_memory = self._checks % MEMORY_EVERY == 1
        for pool in self._pools:
            done = busy = 0
            for worker in list(pool.workers.values()):
                file = self._file_of(worker, now)
                if file is None:
                    continue
                header, running = file.header(), file.running()
                busy += bool(running)
                done += header.done + header.failed
                idle = not running and not header.in_flight
                worker.idle_since = (worker.idle_since or now) if idle else None
                self._check_worker(worker, file, header, running, now)
                if read_memory:
                    worker.read_memory()
                self._replace_if_due(pool, worker, now)
            self._measure(pool, done, busy, now)
            pool.check(now)

    def _file_of(self, worker: WorkerRecord, now: float) -> WorkerFile | None:
        """Return the scoreboard file of a worker to check, else None; kill a worker that should have stopped by now."""
        if worker.state == "releasing":
            return None
        if worker.stop_by is not None and now > max(worker.stop_by, self._awake_since + STOOD_STILL):
            self._kill(worker, "it did not stop in time", charge=False)
            return None
        file = worker.file(self._run_dir)
        return None if worker.ready_at is None or worker.exiting else file

    def _check_worker(self, worker: WorkerRecord, file: WorkerFile, header: WorkerHeader, running: int, now: float) -> None:
        silent = now - max(header.beat, self._awake_since)
        if silent > SILENCE * self._lease():
            why = f"no heartbeat for {silent:.0f} s: a job held the interpreter, or the process was stopped"
            self._kill(worker, why, still=lambda file: file.header().beat == header.beat)
            return
        if header.phase != Phase.OFFLINE:
            worker.offline_since = None
        else:
            worker.offline_since = worker.offline_since or now
            alone = now - max(worker.offline_since, self._answers_since, self._awake_since)
            if alone > SILENCE * self._lease() and now - self._answered <= LONGEST_PAUSE:
                self._kill(worker, f"it has not reached the backend, although others have, for {alone:.0f} s")
                return
        if not running:
            return
        late = self._late(worker, file, header, now)
        if late is not None:
            why = f"{late.job} {late.id} ran {late.seconds(now):.0f} s and ignored its timeout"
            self._kill(worker, why, culprit=late.id, still=lambda file: self._late(worker, file, file.header(), now) == late)

    def _late(self, worker: WorkerRecord, file: WorkerFile, header: WorkerHeader, now: float) -> RunEntry | None:
        """Return the first run that is overdue and that the worker's own courier cannot stop.

        The courier stops overdue runs if it can: if it has made a turn since then, the job no longer holds the GIL.
        """
        grace = float(worker.settings.timeout_grace)
        for entry in file.entries():
            ends = max(entry.deadline, self._awake_since) + grace
            if entry.deadline and now > ends + COURIER_FIRST and header.beat < ends:
                return entry
        return None

    def _replace_if_due(self, pool: WorkerPool, worker: WorkerRecord, now: float) -> None:
        """Replace a worker that is too old or too large, once its running jobs have ended.

        One that waits for its predecessor's end is not replaced: its own successor would not wait for that any more.
        """
        if worker.leaving or worker.ready_at is None or worker.state == "standby":
            return
        settings = worker.settings
        if settings.max_age and now - worker.ready_at > worker.max_age:
            pool.replace(worker, "max_age")
        elif worker.is_too_large(now):
            pool.replace(worker, "max_memory")

    def _kill(
        self,
        worker: WorkerRecord,
        why: str,
        *,
        culprit: str = "",
        charge: bool = True,
        still: Callable[[WorkerFile], bool] = lambda file: True,
    ) -> None:
        """Kill a worker, after it has written its stacks: they show where it hung, and are the only trace of it.

        The request for them, USR2, may wake a worker that hung, as it interrupts system calls. If `still` then returns
        False, the worker has continued, and is not killed, for the sake of its other jobs.
        """
        if worker.killed_for or worker.kill_pending:
            return
        worker.kill_pending = True
        events.emit(events.KillingWorker(worker.owner, worker.pid, worker.spec.pool, why))
        worker.dump_stacks()

        def kill() -> None:
            file = worker.file(self._run_dir)
            if file is None or still(file):
                worker.kill(f"killed: {why}", culprit=culprit, charge=charge, run_dir=self._run_dir)
            else:
                worker.kill_pending = False
                events.emit(events.WorkerSpared(worker.owner, worker.pid, worker.spec.pool))

        self._loop.after(STACKS_PATIENCE, kill)

    def _measure(self, pool: WorkerPool, done: int, busy: int, now: float) -> None:
        """Update the pool's jobs per second, for scaling; keep the old rate if the count fell because a worker ended."""
        before = self._done.get(pool.name)
        self._done[pool.name] = now, done
        self.busy[pool.name] = busy
        if before is not None and done >= before[1]:
            self.rates[pool.name] = (done - before[1]) / max(now - before[0], 1e-3)
