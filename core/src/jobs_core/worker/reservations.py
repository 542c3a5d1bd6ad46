"""The jobs that a worker has reserved: every run from its reservation to its end, and the room for more.

This is bookkeeping: it returns the runs that may start and the settlements of those that are released, and the courier
starts and sends them. Runs that may start do so in order. Suspects wait for their turn beside the others (`Quarantine`).
Jobs that are acknowledged early wait for a free slot. Jobs that wait behind a job that turns out to be long are released.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ..backends.base import Outcome, Settlement
from ..runs.progress import cursor_to_store
from ..runs.run import Ending, Run
from .checkpoints import Checkpoints
from .deadlines import Deadlines
from .executors.base import Executor
from .isolation import Isolation
from .prefetch import AHEAD, LARGEST_BATCH, Prefetch
from .quarantine import AFTER_OTHERS, HOLD_AFTER, Quarantine
from .wake_up import NEVER

LOST_AFTER = 1.0
"""Seconds after which a run that is neither queued nor in the executor counts as lost; until then it may be in between."""

SUSPECT_PAUSE = 0.5
"""Seconds for which a suspect is deferred to other workers: this one has too many, or is unsupervised and busy."""


class Reservations:
    """The reservations of one worker. It reads the executor's state but does not change it. Only the courier uses it."""

    def __init__(
        self, executor: Executor, isolation: Isolation | None = None, largest: int = LARGEST_BATCH, *, watched: bool = False
    ) -> None:
        self.runs: dict[str, Run] = {}  # given to the executor: pending, running, or finished and not collected
        self.released = 0  # number of jobs released, which do not count against `max_jobs`
        self._executor = executor
        self._run_queue = executor.run_queue
        self.deadlines = Deadlines()
        self.checkpoints = Checkpoints()
        self._early: deque[Run] = deque()  # to be acknowledged before they run, once a slot is free
        self._quarantine = Quarantine(executor.concurrency, isolation or Isolation(), watched=watched)
        self._admitted: list[Run] = []  # suspects to start as soon as the others are released
        self._largest = largest  # most jobs to reserve at a time
        self._most = largest  # most jobs to reserve; fewer after suspects start: as many as run together
        self._prefetch = Prefetch(executor.concurrency)
        self._limited: list[Run] = []  # those with limits, until they have started
        self._plain_come = False  # whether the last jobs that were reserved included some without limits
        self._astray: dict[str, tuple[Run, float]] = {}  # runs neither in the queue nor in the executor, and since when

    # -- how much, and when ------------------------------------------------------------------------

    def room(self) -> int:
        """Return how many more jobs may be reserved."""
        return min(self._prefetch.target() - len(self.runs), self._most)

    def startable(self) -> int:
        """Return how many jobs with limits can start now, so that none of them holds a slot here while another worker idles.

        While plain jobs keep coming, no slot of this worker is ever free when it reserves. Then jobs with limits start before
        those that wait, and as many may be reserved as there are slots: otherwise they would hardly be served.
        """
        free = self._executor.concurrency - len(self.runs)
        if free > 0 or not self._plain_come:
            return max(0, free)
        self._limited = [run for run in self._limited if not (run.started or run.taken) and self.runs.get(run.id) is run]
        return max(0, self._executor.concurrency - len(self._limited))

    def note_limited(self, limited: list[Run], plain: int) -> None:
        """Note the runs with limits among the newly reserved ones, and the number of the others, for `startable`."""
        self._limited += limited
        self._plain_come = plain > 0

    def batch(self) -> int:
        """Return how many jobs are reserved at a time while there are many."""
        return min(self._prefetch.target(), self._largest)

    def closed(self, now: float) -> bool:
        """Return whether nothing may be reserved now, whatever the backend has."""
        return bool(self._early) or (bool(self._quarantine.running) and self._quarantine.alone(now)) or self.stuck(now)

    def stuck(self, now: float) -> bool:
        """Return whether every slot has run the same job for over AHEAD seconds, the longest wait of a reserved job."""
        if not self.full:
            return False
        running = self._executor.started()
        return len(running) >= self._executor.concurrency and all(now - (run.started or run.taken) > AHEAD for run in running)

    @property
    def full(self) -> bool:
        """Return whether every slot has a job."""
        return len(self.runs) >= self._executor.concurrency

    def next_start(self, now: float) -> float:
        """Return the next monotonic time at which a waiting run may be able to start, without an event that reports it."""
        if not self.waiting and not self._quarantine.running and not self._astray:
            return NEVER
        astray = min((since + LOST_AFTER for _, since in self._astray.values()), default=NEVER)
        return min(now + AHEAD if self._early else NEVER, self._quarantine.next(now), astray)

    def looks_ahead(self, more: bool) -> float:
        """Return the seconds until the next check of pending runs: they may wait too long, or be so few that more fit."""
        pending = len(self._run_queue.pending)
        if not pending:
            return NEVER
        return min(AHEAD, max(0.001, self._prefetch.lasts(pending) / 2)) if more else AHEAD

    # -- in ------------------------------------------------------------------------------------------

    def take(self, runs: Iterable[Run], now: float) -> tuple[list[Run], list[Ending]]:
        """Accept reserved runs; return those that start, and settlements that defer the suspects for which there is no room."""
        self._most = self._largest
        ready: list[Run] = []
        deferred: list[Ending] = []
        for run in runs:
            if run.policy.acks == "early":  # runs at most once, even if it is a suspect: it is acknowledged first
                self._early.append(run)
            elif not run.delivery.redeliveries or not self._quarantine.concerns(run):
                ready.append(run)
            elif len(self._quarantine) < max(self._executor.concurrency, LARGEST_BATCH):
                self._quarantine.add(run, now)
            else:
                deferred += self._defer([run], SUSPECT_PAUSE)
        return self.start(ready, now), deferred

    def start(self, runs: list[Run], now: float) -> list[Run]:
        """Note that these runs are given to the executor; return them."""
        for run in runs:
            self.runs[run.delivery.id] = run
            if run.progress is not None:
                self.checkpoints.add(run, now)
                self.deadlines.add(run, now)
            elif run.timeout:
                self.deadlines.add(run, now)
        return runs

    @property
    def waiting(self) -> bool:
        """Return whether jobs wait here for their turn: suspects, and those that are acknowledged early."""
        return bool(self._early or self._admitted or self._quarantine.waiting)

    def pausing(self, now: float) -> bool:
        """Return whether suspects here wait for the end of their first pause, at which they may start."""
        return self._quarantine.pausing(now)

    def defer_shut_out(self) -> list[Ending]:
        """Defer the suspects that wait for those of another worker of the pool."""
        return self._defer(self._quarantine.take_back(), AFTER_OTHERS) if self._quarantine.shut_out else []

    def _defer(self, suspects: list[Run], after: float) -> list[Ending]:
        self.released += len(suspects)
        return [_released(run, after=after) for run in suspects]

    def early(self, acknowledging: int) -> list[Run]:
        """Return the jobs to acknowledge now, one per free slot; `acknowledging` jobs, not yet started, need a slot too."""
        free = self._executor.concurrency - len(self.runs) - len(self._admitted) - acknowledging
        return [self._early.popleft() for _ in range(min(free, len(self._early)))]

    def admit(self, now: float) -> list[Ending]:
        """Admit suspects whose turn has come; return the settlements to send before `admitted` starts them."""
        if not self._quarantine.waiting:
            return []
        if self._quarantine.watched:
            self._admitted += self._quarantine.admit(now)
            return []
        held = any(run.delivery.deferrals >= HOLD_AFTER for _, run in self._quarantine.waiting)
        if not held and not self._quarantine.runs_all(len(self.runs)):
            return self._defer(self._quarantine.take_back(), SUSPECT_PAUSE)
        group = self._quarantine.admit(now)
        self._admitted += group
        self._most = max(1, len(group))
        return self._release(self._quarantine.take_back())

    def admitted(self, now: float) -> list[Run]:
        """Return the admitted suspects, which start now."""
        admitted, self._admitted = self._admitted, []
        return self.start(admitted, now) if admitted else admitted

    def lost(self, now: float) -> list[Run]:
        """Return the runs that an executor took and lost to an exception in its own code; the caller resubmits them.

        Such an exception strikes between any two instructions, so it may strike after a run was taken and before it was
        recorded as started. The executor cannot know this. The courier can: the executor neither has the run nor has
        returned it.
        """
        had = {id(run) for run in (*self._run_queue.pending.copy(), *self._executor.started())}
        nowhere = [run for run in self.runs.values() if id(run) not in had and not run.ended]
        self._astray = {run.id: self._astray.get(run.id, (run, now)) for run in nowhere}
        lost = [run for run, since in self._astray.values() if now >= since + LOST_AFTER]
        for run in lost:
            run.started = 0.0
            del self._astray[run.id]
        return lost

    @property
    def astray(self) -> bool:
        """Return whether some runs may be lost; LOST_AFTER seconds must pass before this is certain."""
        return bool(self._astray)

    # -- out -----------------------------------------------------------------------------------------

    def collect(self) -> tuple[list[Run], list[Run]]:
        """Return the runs that have ended: those that this worker still has reserved, and stale ones."""
        finished = self._run_queue.collect()
        ours: list[Run] = []
        stale: list[Run] = []
        for run in finished:
            if self.runs.get(run.delivery.id) is run:
                del self.runs[run.delivery.id]
                ours.append(run)
            else:
                stale.append(run)
        if self._quarantine.running:
            self._quarantine.ended(finished)
        self._prefetch.learn(finished)
        return ours, stale

    def withdraw(self, run: Run) -> bool:
        """Take back a run that has not started; return False if an executor has it."""
        if self._unqueue(run):
            self.runs.pop(run.delivery.id, None)
            return True
        return False

    def _unqueue(self, run: Run) -> bool:
        try:
            self._run_queue.pending.remove(run)
            return True
        except ValueError:
            return False

    def lose(self, job_id: str) -> None:
        """Drop a reservation that this worker has lost; if the run continues, its outcome will be stale."""
        run = self.runs.get(job_id)
        if run is None or run.policy.acks == "early":
            return
        if self.withdraw(run):
            self._quarantine.ended([run])
        else:
            del self.runs[job_id]

    def drop(self, run: Run) -> None:
        """Forget a run whose code continues: when it ends, it is stale."""
        self.runs.pop(run.delivery.id, None)
        self._quarantine.ended([run])

    def drop_decided(self) -> list[Run]:
        """Remove and return the runs that have ended, but whose end the executor could not report."""
        runs = [run for run in self.runs.values() if run.settlement is not None]
        for run in runs:
            self.drop(run)
        return runs

    def release_waiting(self, now: float) -> list[Ending]:
        """Release jobs that wait behind long ones, so that an idle worker can run them (promise 6)."""
        if (self._run_queue.pending or (self._early and self.runs)) and self.stuck(now):
            return self._release([*self._take_back(), *_all(self._early)])
        return []

    def release_unstarted(self) -> list[Ending]:
        """Release all jobs that have not started."""
        suspects = [*self._quarantine.take_back(), *_all(self._admitted)]
        return self._release([*self._take_back(), *_all(self._early), *suspects])

    def release_running(self) -> list[Ending]:
        """Release the running jobs too: the process is about to end."""
        endings = self._release([run for run in self.runs.values() if run.policy.acks != "early"])
        self.runs.clear()
        return endings

    def _take_back(self) -> list[Run]:
        """Take back all unstarted runs, last first, except acknowledged ones, which no other worker could run."""
        waiting = reversed(self._run_queue.pending.copy())
        return [run for run in waiting if run.policy.acks != "early" and self._unqueue(run)]

    def _release(self, runs: list[Run]) -> list[Ending]:
        self._quarantine.ended(runs)
        self.released += len(runs)
        for run in runs:
            self.runs.pop(run.delivery.id, None)
        return [_released(run) for run in runs]

    def forget(self) -> None:
        """Drop every reservation, since the owner is lost."""
        self._quarantine.ended([*self._take_back(), *_all(self._admitted)])
        self._quarantine.take_back()
        self._early.clear()
        self.runs = {job_id: run for job_id, run in self.runs.items() if run.policy.acks == "early"}


def _all(runs: deque[Run] | list[Run]) -> list[Run]:
    """Remove and return all runs."""
    taken = list(runs)
    runs.clear()
    return taken


def _released(run: Run, *, after: float = 0.0) -> Ending:
    """Return the settlement of a job that is not done here: it returns to its topic at once, or after `after` seconds."""
    outcome = Outcome.DEFER if after else Outcome.RELEASE
    settlement = Settlement(
        run.delivery.id, run.delivery.token, outcome, after=after, ran=bool(run.started), cursor=cursor_to_store(run)
    )
    return settlement, run
