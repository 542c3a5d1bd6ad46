"""What the supervisor looks at every second, in the workers' own memory: who hangs, who is too old or too large, who is idle.

A worker whose courier is silent for 0.8 of its lease is killed before its jobs run elsewhere; so is one with a job
that ignored its timeout for its grace, and one that alone does not reach a backend which answers the housekeeper: at the
end of its lease its jobs would run elsewhere, too. They write their stacks first. If the supervisor itself stood still, its
workers most likely did, too (a machine that slept): every clock that it holds against them begins anew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ... import events
from ...scoreboard.layout import Phase
from ...scoreboard.reader import Entry, Header, WorkerFile
from ..system.loop import Loop
from .pool import Pool
from .worker import WorkerRecord

INTERVAL = 1.0
MEMORY_EVERY = 5
"""Looks between two readings of a worker's memory: they cost a system call each."""

SILENCE = 0.8
"""Share of the lease."""

LONGEST_PAUSE = 3.0
"""Seconds between two answers that the housekeeper gets from a backend that serves; it asks once a second."""

COURIER_FIRST = 1.0
"""Seconds past a job's grace that its worker's courier has to end it by itself."""

STOOD_STILL = 2.0
"""Seconds between two looks after which the supervisor knows that it did not run."""

STACKS_PATIENCE = 0.3
"""Seconds between asking for the stacks and killing."""


class Watchdog:
    """Looks, and acts through the pools. Belongs to the supervisor's loop."""

    def __init__(self, loop: Loop, run_dir: Path, pools: Iterable[Pool], lease: Callable[[], float]) -> None:
        self._loop = loop
        self._run_dir = run_dir
        self._pools = pools
        self._lease = lease
        self._looks = 0
        self._looked = self._awake_since = time.monotonic()
        self._answered = self._answers_since = -math.inf  # the housekeeper, of a backend with leases
        self._done: dict[str, tuple[float, int]] = {}  # by pool: when, and jobs done by then
        self.rates: dict[str, float] = {}
        self.busy: dict[str, int] = {}

    def backend_answers(self) -> None:
        """The housekeeper was answered, by a backend that gives a silent worker's jobs to others."""
        now = time.monotonic()
        if now - self._answered > LONGEST_PAUSE:
            self._answers_since = now
        self._answered = now

    def look(self) -> None:
        """Once over all workers."""
        now = time.monotonic()
        self._looks += 1
        if now - self._looked > STOOD_STILL:
            self._awake_since = now
        self._looked = now
        weigh = self._looks % MEMORY_EVERY == 1
        for pool in self._pools:
            done = busy = 0
            for worker in list(pool.workers.values()):
                if worker.state == "releasing":
                    continue
                if worker.stop_by is not None and now > max(worker.stop_by, self._awake_since + STOOD_STILL):
                    self._kill(worker, "it did not stop in time", charge=False)
                    continue
                file = worker.file(self._run_dir)
                if file is None or worker.ready_at is None or worker.ending:
                    continue
                header = file.header()
                running = file.running()
                busy += bool(running)
                done += header.done + header.failed
                idle = not running and not header.in_hand
                worker.idle_since = (worker.idle_since or now) if idle else None
                self._look_at(pool, worker, file, header, running, now)
                if weigh:
                    worker.weigh()
                self._is_due(pool, worker, now)
            self._measure(pool, done, busy, now)
            pool.look(now)

    def _look_at(self, pool: Pool, worker: WorkerRecord, file: WorkerFile, header: Header, running: int, now: float) -> None:
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

    def _late(self, worker: WorkerRecord, file: WorkerFile, header: Header, now: float) -> Entry | None:
        """The first run here that should have ended, and that its worker's courier cannot end.

        Its own courier ends a run, if it can: one that has made a turn since then holds the interpreter no longer.
        """
        grace = float(worker.settings.timeout_grace)
        for entry in file.entries():
            ends = max(entry.deadline, self._awake_since) + grace
            if entry.deadline and now > ends + COURIER_FIRST and header.beat < ends:
                return entry
        return None

    def _is_due(self, pool: Pool, worker: WorkerRecord, now: float) -> None:
        """Old or large: to be replaced, between jobs."""
        if worker.leaving or worker.ready_at is None:
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
        """Stacks first: they say what hung, and the next instant nobody could tell.

        The signal for them may wake what hung, as it interrupts system calls. A worker for which `why` holds no more (`still`)
        has gone on to other jobs, and is spared for them.
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

    def _measure(self, pool: Pool, done: int, busy: int, now: float) -> None:
        """Jobs a second of a pool, for scaling. Workers that left take their count along: then there is no rate this time."""
        before = self._done.get(pool.name)
        self._done[pool.name] = now, done
        self.busy[pool.name] = busy
        if before is not None and done >= before[1]:
            self.rates[pool.name] = (done - before[1]) / max(now - before[0], 1e-3)
