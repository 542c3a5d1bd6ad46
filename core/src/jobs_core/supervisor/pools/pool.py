"""One pool, kept at its wanted number of workers: each is replaced before it stops, or at once if it crashed."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from pathlib import Path

from ... import events
from ...config import Pool, Workers
from ...ids import new_token
from ...loaders.importing import ended_importing
from ...scoreboard.state import Crash, PoolState
from ..processes import exit_functions
from ..processes.backoff import LONGEST, QUICK, RestartBackoff
from ..processes.children import Ended
from ..processes.exit_codes import WorkerExit
from ..processes.generation import Generation
from ..system.messages import (
    Due,
    Exiting,
    Failed,
    FromChild,
    Importing,
    RanTooFast,
    Ready,
    Repair,
    Serve,
    Stop,
    StopReserving,
    WorkerSpec,
)
from .scaling import PoolScaler
from .worker import AGE_JITTER, WorkerRecord

KILL_AFTER = 2.0
"""Seconds past its `stop_timeout` after which a worker that was told to stop is killed."""

AS_LONG_AS_IT_TAKES = 1e9
"""Stop timeout in seconds, practically unlimited, of a worker whose end is not urgent: its successor serves meanwhile."""

JOBS_FAULT = 0.4
"""Longest pause in seconds after a worker died while running jobs: the culprit is soon found, and others must not wait."""

MOST_AT_ONCE = 32
"""Largest number of workers that start at a time: each takes a moment of its template, and all compete for CPU time."""

FIXES = {
    errno.EMFILE: " (raise the limit: ulimit -n, or LimitNOFILE= in the unit)",
    errno.EAGAIN: " (raise the limit of processes: ulimit -u, TasksMax= in the unit, or pids.max of the container)",
    errno.ENOMEM: " (the machine or the container has no memory left: fewer workers, or a larger limit)",
}
"""Fixes for the most common errors that prevent a worker's start."""


class WorkerPool:
    """The workers of one pool. All methods belong to the supervisor's loop.

    A worker that is to be replaced stays in `outgoing` and serves until its successor is ready. If each worker of a pool
    runs one job at a time, the successor waits for its predecessor's end, so that never more jobs run than the pool has
    workers.
    """

    def __init__(
        self,
        name: str,
        settings: Pool,
        host: str,
        run_dir: Path,
        *,
        restarts: dict[str, int],
        generation: Callable[[], Generation | None],
        on_change: Callable[[], None],
        on_crash: Callable[[Crash], None],
        repair: Callable[[Repair], None],
        alert: Callable[[RanTooFast], None],
        wake_after: Callable[[float], None],
    ) -> None:
        self.name = name
        self.settings = settings
        self.workers: dict[str, WorkerRecord] = {}
        self.outgoing: list[WorkerRecord] = []
        self.quiet = False
        self.closing = False
        self.restarts = restarts  # by reason, since the first start in this run directory
        self.last_error = ""
        self.cannot_boot = False
        self._host = host
        self._run_dir = run_dir
        self._generation = generation
        self._on_change = on_change
        self._on_crash = on_crash
        self._repair = repair
        self._alert = alert
        self._wake_after = wake_after
        self._backoff = RestartBackoff()
        self._scaled: int | None = None
        self._configure(settings)

    # -- how many --------------------------------------------------------------------------------

    def _configure(self, settings: Pool) -> None:
        self.settings = settings
        workers = settings.workers
        self.least, self.most = (workers.min, workers.max) if isinstance(workers, Workers) else (workers, workers)
        self.scaler = PoolScaler(self.least, self.most, float(settings.grow_age), float(settings.shrink_after))
        self.wanted = self.least

    def reconfigure(self, settings: Pool) -> None:
        """Adopt new settings; current workers keep the old ones until they are replaced.

        A pool that was about to stop and is configured again continues.
        """
        wanted = self.wanted
        self.closing = False
        self._configure(settings)
        self._scaled = None
        self.wanted = max(self.least, min(wanted, self.most))

    def scale(self, number: int | None) -> None:
        """Keep this many workers, whatever the configuration says; None returns to the configured size."""
        self._scaled = number
        self.wanted = self.least if number is None else number
        self.balance()

    @property
    def slots(self) -> int:
        """Return the number of jobs that one worker runs at once."""
        return 1 if self.settings.mode == "sync" else self.settings.concurrency

    @property
    def failures(self) -> int:
        """Return the number of consecutive rounds of quick deaths."""
        return self._backoff.failures

    @property
    def scales(self) -> bool:
        """Return whether the pool grows and shrinks by itself."""
        return self._scaled is None and self.most > self.least

    def staying(self) -> list[WorkerRecord]:
        """Return the workers that are not about to leave."""
        return [worker for worker in self.workers.values() if not worker.leaving and worker.state != "releasing"]

    def is_up(self) -> bool:
        """Return whether as many workers serve as are wanted."""
        return sum(worker.state in ("serving", "standby") for worker in self.staying()) >= self.wanted

    def balance(self) -> None:
        """Start missing workers, and stop surplus ones."""
        if self.closing:
            return
        staying = self.staying()
        missing = self.wanted - len(staying)
        if missing > 0:
            self._start(missing)
        elif missing < 0:
            self._stop_surplus(staying, -missing, "scaled down")
        elif self.outgoing and self.is_up():
            # These workers need no new successors: enough workers serve already.
            while self.outgoing:
                surplus = self.outgoing.pop()
                self._tell_to_stop(surplus, _patience(surplus))

    def shrink(self, number: int) -> None:
        """Stop up to `number` idle workers, and no busy ones."""
        idle = [worker for worker in self.staying() if worker.idle_since is not None]
        chosen = idle[:number]
        self.wanted -= len(chosen)
        for worker in chosen:
            self._count_restart("shrink")
            self.stop(worker, "shrink")

    def _stop_surplus(self, staying: list[WorkerRecord], number: int, why: str) -> None:
        """Stop workers in the order of least loss: not yet serving, then idle, then busy ones after their job."""
        order = sorted(staying, key=lambda worker: (worker.state == "serving", worker.idle_since is None))
        for worker in order[:number]:
            self.stop(worker, why)

    # -- starting --------------------------------------------------------------------------------

    def _start(self, number: int) -> None:
        left = self._backoff.left()
        generation = self._generation()
        if left > 0:
            self._wake_after(left)
            return
        if generation is None or not generation.ready or self.name not in generation.config.pools:
            return  # a generation reports when it is ready; a pool that a reload removes gets no workers
        booting = sum(worker.state == "starting" for worker in self.workers.values())
        for _ in range(min(number, MOST_AT_ONCE - booting)):
            if not self._start_one(generation):
                return

    def _start_one(self, generation: Generation) -> bool:
        settings = self.settings
        limit = settings.max_jobs
        replaces = next((old for old in self.outgoing if old.spec.generation == generation.number), None)
        spec = WorkerSpec(
            owner=f"{self._host}-{self.name[:24]}-{new_token(6)}",
            pool=self.name,
            generation=generation.number,
            max_jobs=max(1, round(limit * random.uniform(1 - AGE_JITTER, 1))) if limit else 0,
            standby=self.quiet or (replaces is not None and self.slots == 1),
        )
        worker = WorkerRecord(spec, settings)
        try:
            worker.child = generation.make(
                spec,
                lambda message: self._on_message(worker, message),
                lambda ended: self._ended(worker, ended),
                lambda error: self._failed_to_start(worker, error),
            )
        except OSError as error:
            self._cannot_start(f"cannot start a worker: {error.strerror or error}{FIXES.get(error.errno or 0, '')}")
            return False
        self.workers[spec.owner] = worker
        self._on_change()
        return True

    def _failed_to_start(self, worker: WorkerRecord, error: str) -> None:
        self.workers.pop(worker.owner, None)
        self._cannot_start(error)

    def _cannot_start(self, error: str) -> None:
        self._backoff.died(None)
        self.last_error = error
        events.emit(events.CannotStart(self.name, error, self._backoff.left()))
        self._wake_after(self._backoff.left())
        self._on_change()

    # -- messages from workers ---------------------------------------------------------------------

    def _on_message(self, worker: WorkerRecord, message: FromChild) -> None:
        match message:
            case Ready():
                self._on_ready(worker)
            case Due(reason):
                self.replace(worker, reason)
            case Failed(error):
                worker.error = error
            case Importing(module):
                worker.importing = module
            case Exiting():
                self._on_exiting(worker)
            case RanTooFast():
                self._alert(message)

    def _on_ready(self, worker: WorkerRecord) -> None:
        worker.ready_at = time.monotonic()
        worker.importing = ""
        self.cannot_boot = False
        if worker.state != "starting":
            return  # it has been told to stop meanwhile
        if worker.leaving:
            worker.enter("serving")
            return
        old = self.outgoing.pop(0) if self.outgoing else None
        if old is not None and old.state != "releasing":
            self._tell_to_stop(old, _patience(old))
        if worker.spec.standby and (self.quiet or (old is not None and old.state == "stopping" and not old.exiting)):
            worker.successor_of = old
            worker.enter("standby")
        else:
            self._serve(worker)
        self.balance()
        self._on_change()

    def _serve(self, worker: WorkerRecord) -> None:
        worker.successor_of = None
        worker.ready_at = time.monotonic()  # its age counts from here
        worker.enter("serving")
        if worker.spec.standby and not self.quiet:
            worker.send(Serve())

    # -- stopping ----------------------------------------------------------------------------------

    def replace(self, worker: WorkerRecord, why: str) -> None:
        """Start a successor of a worker; once the successor is ready, the worker is told to stop."""
        if worker.leaving or self.closing:
            return
        worker.leaving = why
        self._count_restart(why)
        self.outgoing.append(worker)
        self.balance()
        self._on_change()

    def stop(self, worker: WorkerRecord, why: str, timeout: float | None = None) -> None:
        """Tell a worker to finish its running jobs, and to exit."""
        worker.leaving = worker.leaving or why
        if worker in self.outgoing:
            self.outgoing.remove(worker)
        self._tell_to_stop(worker, timeout)
        self._on_change()

    def _tell_to_stop(self, worker: WorkerRecord, timeout: float | None = None) -> None:
        patience = float(worker.settings.stop_timeout) if timeout is None else timeout
        stop_by = time.monotonic() + patience + KILL_AFTER
        told = worker.state == "stopping" and worker.stop_by is not None and worker.stop_by <= stop_by
        if told or worker.state == "releasing":
            return
        worker.enter("stopping")
        worker.stop_by = stop_by
        if not worker.send(Stop(patience)) and worker.pid:
            worker.kill("it does not respond", charge=False, run_dir=self._run_dir)

    def stop_all(self, why: str) -> None:
        """Stop the pool."""
        self.closing = True
        self.outgoing.clear()
        for worker in list(self.workers.values()):
            if worker.state != "releasing":
                self.stop(worker, why)

    def kill_all(self) -> None:
        """Kill the pool at once; its jobs are released as if they had not run."""
        self.closing = True
        for worker in list(self.workers.values()):
            if worker.state != "releasing":
                worker.leaving = worker.leaving or "exit"
                worker.kill("killed by exit", charge=False, run_dir=self._run_dir)

    def be_quiet(self, quiet: bool) -> None:
        """Reserve no new jobs, or reserve jobs again."""
        self.quiet = quiet
        for worker in self.workers.values():
            if worker.state == "serving":
                worker.send(StopReserving() if quiet else Serve())
            elif worker.state == "standby" and not quiet and worker.successor_of is None:
                self._serve(worker)
        self._on_change()

    def _on_exiting(self, worker: WorkerRecord) -> None:
        """React to a worker that has run its last job: its successor does not wait for its exit functions."""
        worker.exiting = True
        worker.stop_by = time.monotonic() + exit_functions.PATIENCE + KILL_AFTER
        self._let_successors_serve(worker)

    def _let_successors_serve(self, worker: WorkerRecord) -> None:
        for successor in self.workers.values():
            if successor.successor_of is worker and successor.state == "standby":
                self._serve(successor)

    # -- ended -------------------------------------------------------------------------------------

    def _ended(self, worker: WorkerRecord, ended: Ended) -> None:
        asked = worker.state == "stopping"
        lived = time.monotonic() - worker.ready_at if worker.ready_at is not None else None
        worker.close_file()
        worker.enter("releasing")
        if worker in self.outgoing:
            self.outgoing.remove(worker)
        waited_for = worker.successor_of
        if waited_for is not None and waited_for.state == "stopping" and not waited_for.exiting and not self.closing:
            self.outgoing.insert(0, waited_for)  # the next successor waits for it in turn
        self._let_successors_serve(worker)
        self._report_end(worker, ended, asked, lived)
        self.balance()
        self._on_change()

    def _report_end(self, worker: WorkerRecord, ended: Ended, asked: bool, lived: float | None) -> None:
        """Count the end, have the worker's jobs released, and record a crash."""
        log = worker.child.output.tail() if worker.child else []
        jobs = self._started(worker)  # before its file is added to the totals and removed
        crash, reason = self._judge(worker, ended, asked, lived, jobs)
        if not worker.leaving:
            self._count_restart("crash" if crash else "exit")
        if crash or self.cannot_boot:
            self.last_error = reason
        if not worker.leaving:
            self._backoff.died(lived, JOBS_FAULT if jobs and lived is not None else LONGEST, started_at=worker.started_at)
        self._repair(
            Repair(
                worker.owner, time.time(), reason, crash, worker.culprit, ended.signal_name, ended.exit_code,
                ended.peak_memory, log, charge=crash or bool(worker.culprit),
            )
        )  # fmt: skip
        if crash or (self.cannot_boot and lived is None):
            self._on_crash(
                Crash(
                    time.time(), worker.owner, ended.pid, self.name, reason, ended.signal_name, ended.exit_code,
                    ended.peak_memory, jobs,
                )
            )  # fmt: skip
            events.emit(events.WorkerDied(worker.owner, ended.pid, self.name, reason, len(jobs), self._backoff.left()))

    def _judge(self, worker: WorkerRecord, ended: Ended, asked: bool, lived: float | None, jobs: list[str]) -> tuple[bool, str]:
        """Return whether a worker's end was a crash, not a planned end or a reported failure to boot; and its reason."""
        if worker.killed_for:
            return bool(worker.culprit) or not worker.leaving, worker.killed_for
        if jobs and lived is not None and not worker.exiting:
            return True, str(ended)  # a job has ended it, by os._exit or os.exec: then the exit code means nothing to us
        if ended.exit_code == WorkerExit.FINE and (asked or lived is not None):
            return False, "it stopped"
        if ended.exit_code == WorkerExit.REPLACE:
            if worker.leaving != "timeout":
                self._count_restart("timeout")
            return False, "a job did not end when told to"
        if ended.exit_code == WorkerExit.CANNOT_BOOT or lived is None:
            self.cannot_boot = True
            how = ended_importing(worker.importing, ended) if worker.importing else ended
            return ended.exit_code != WorkerExit.CANNOT_BOOT, f"it cannot boot: {worker.error or how}"
        if not asked or ended.signal:
            return True, str(ended)
        return False, "it stopped"

    def _started(self, worker: WorkerRecord) -> list[str]:
        file = worker.file(self._run_dir)
        if file is None:
            return []
        jobs = [f"{entry.job} {entry.id}" for entry in file.entries()]
        worker.close_file()
        return jobs

    def check(self, now: float) -> None:
        """Reset the back-off once a worker has served for over QUICK seconds: the cause of the earlier deaths is gone."""
        if self._backoff.failures:
            since = self._backoff.since
            lived = (worker.ready_at for worker in self.workers.values() if worker.ready_at and worker.state == "serving")
            if any(since < ready_at < now - QUICK for ready_at in lived):
                self._backoff.reset()
                self._on_change()

    def repaired(self, owner: str) -> bool:
        """Forget a dead worker whose jobs have been released; return whether it was one of this pool."""
        return self.workers.pop(owner, None) is not None

    # -- state.json --------------------------------------------------------------------------------

    def _count_restart(self, why: str) -> None:
        self.restarts[why] = self.restarts.get(why, 0) + 1

    def shown(self) -> PoolState:
        left = self._backoff.left()
        return PoolState(
            name=self.name,
            quiet=self.quiet,
            topics=list(self.settings.topics),
            mode=self.settings.mode,
            concurrency=self.slots,
            min=self.least,
            max=self.most,
            wanted=self.wanted,
            scaled=self._scaled is not None,
            restarts=dict(self.restarts),
            failures=self._backoff.failures,
            next_start=time.time() + left if left else 0.0,
            cannot_boot=self.cannot_boot,
            last_error=self.last_error,
        )


def _patience(worker: WorkerRecord) -> float:
    """Return how many seconds a replaced worker has to finish its running jobs.

    With a limit, a job that runs longer than `max_age`, or needs more than `max_memory`, would begin again in each worker and
    never end. Only a reload has a limit, so that the new code does not wait for long.
    """
    return float(worker.settings.stop_timeout) if worker.leaving == "reload" else AS_LONG_AS_IT_TAKES
