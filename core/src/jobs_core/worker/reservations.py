"""The jobs that a worker has reserved: every run from its reservation to its end, and the room for more.

Runs that may start go to the executor, in order. Suspects wait for their turn beside the others (`Quarantine`). Jobs
that are acknowledged early wait for a free slot. Jobs that wait behind a job that turns out to be long are released.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from .deadlines import Deadlines
from .executors.base import Executor
from .isolation import Isolation
from .prefetch import AHEAD, LARGEST_BATCH, Prefetch
from .quarantine import HOLD_AFTER, Quarantine
from .run import Run
from .run_queue import SETTLE_INTERVAL
from .settlements import Settlements

_NEVER = float("inf")

LOST_AFTER = 1.0
"""Seconds until a run that neither queue nor executor has counts as lost; before, an executor may be just moving it."""

PUT_OFF = 0.5
"""Seconds for which a suspect is deferred to other workers: this one has too many, or is unsupervised and busy."""


class Reservations:
    """The reservations of one worker, see the module. Only the courier uses it."""

    def __init__(
        self, executor: Executor, settlements: Settlements, isolation: Isolation | None = None, *, watched: bool = False
    ) -> None:
        self.deadlines = Deadlines()
        self.given_back = 0  # jobs that were reserved and not run
        self._executor = executor
        self._run_queue = executor.run_queue
        self._settlements = settlements
        self._runs: dict[str, Run] = {}  # given to the executor: pending, running, or finished and not collected
        self._early: deque[Run] = deque()  # acknowledged before they run: they wait here for a free slot
        self._quarantine = Quarantine(executor.concurrency, isolation or Isolation(), watched=watched)
        self._most = LARGEST_BATCH  # at most so many are reserved: where suspects are isolated, no more than may start together
        self._prefetch = Prefetch(executor.concurrency)
        self._astray: dict[str, tuple[Run, float]] = {}  # runs that neither queue nor executor has, and since when

    def __len__(self) -> int:
        """Return how many runs the executor has."""
        return len(self._runs)

    def get(self, job_id: str) -> Run | None:
        """Return a run that the executor has."""
        return self._runs.get(job_id)

    # -- how much ----------------------------------------------------------------------------------

    def room(self) -> int:
        """Return how many more jobs may be reserved."""
        return min(self._prefetch.target() - len(self._runs), self._most)

    def batch(self) -> int:
        """Return how many jobs are reserved at a time while there are many."""
        return min(self._prefetch.target(), LARGEST_BATCH)

    def looks_at(self, now: float) -> float:
        """Return the monotonic time at which a run may start here without a call that wakes the courier."""
        astray = min((since + LOST_AFTER for _, since in self._astray.values()), default=_NEVER)
        return min(now + AHEAD if self._early else _NEVER, self._quarantine.next(now), astray)

    def closed(self, now: float) -> bool:
        """Return whether nothing may be reserved now, whatever the backend has."""
        return bool(self._early) or self._quarantine.alone(now) or self.stuck(now)

    def stuck(self, now: float) -> bool:
        """Return whether every slot has been busy with the same job for more than AHEAD, the longest wait of a reserved job."""
        running = self._executor.started()
        return len(running) >= self._executor.concurrency and all(now - (run.started or run.taken) > AHEAD for run in running)

    @property
    def full(self) -> bool:
        """Return whether every slot has a job."""
        return len(self._runs) >= self._executor.concurrency

    def half_through(self) -> float:
        """Return the estimated seconds until half of the pending jobs have been run."""
        return max(0.001, self._prefetch.lasts(len(self._run_queue.pending)) / 2)

    # -- in ------------------------------------------------------------------------------------------

    def take(self, runs: Iterable[Run], now: float) -> None:
        """Start reserved runs, or keep those that have to wait."""
        self._most = LARGEST_BATCH
        ready: list[Run] = []
        for run in runs:
            if run.policy.acks == "early":  # at most once, even for a suspect: it is acknowledged before anything else
                self._early.append(run)
            elif self._quarantine.concerns(run):
                self._suspect(run, now)
            else:
                ready.append(run)
        self._hand_over(ready, now)

    def _suspect(self, run: Run, now: float) -> None:
        if len(self._quarantine) >= max(self._executor.concurrency, LARGEST_BATCH):
            self._settlements.give_back(run, after=PUT_OFF)
        else:
            self._quarantine.add(run, now)

    def _hand_over(self, runs: Sequence[Run], now: float) -> None:
        if not runs:
            return
        for run in runs:
            self._runs[run.delivery.id] = run
            if run.timeout:
                self.deadlines.add(run, now)
        self._run_queue.be_quiet(now + SETTLE_INTERVAL)
        self._executor.submit(runs)

    def start_waiting(self, now: float) -> None:
        """Start suspects and early acknowledged jobs whose turn has come. Raises the errors of settling."""
        if self._quarantine:
            self._start_suspects(now)
        free = self._executor.concurrency - len(self._runs) - self._settlements.acknowledging
        if self._early and free > 0:
            for run in [self._early.popleft() for _ in range(min(free, len(self._early)))]:
                self._settlements.acknowledge(run)
            self._settlements.send()
        self.start_acknowledged(now)

    def start_acknowledged(self, now: float) -> None:
        """Start jobs that are acknowledged and not yet run, even while stopping: no other worker will run them."""
        if self._settlements.acknowledged:
            ready, self._settlements.acknowledged = self._settlements.acknowledged, []
            self._hand_over(ready, now)

    def _start_suspects(self, now: float) -> None:
        if self._quarantine.watched:
            self._hand_over(self._quarantine.admit(now), now)
        elif self._quarantine.runs_all(len(self._runs)) or any(
            run.delivery.deferrals >= HOLD_AFTER for run in self._quarantine.waiting()
        ):
            group = self._quarantine.admit(now)
            self._most = max(1, len(group))
            self._give_back(self._quarantine.take_back())
            self._settlements.send()
            self._hand_over(group, now)
        else:
            for run in self._quarantine.take_back():
                self._settlements.give_back(run, after=PUT_OFF)

    def hand_over_again(self, now: float) -> None:
        """Resubmit runs that an executor took and never began, if an exception was raised in its own code.

        Such an exception strikes between any two instructions, so it may strike after a run was taken and before it was
        recorded as going on. The executor cannot know this. The courier can: it is a run that the executor neither has
        nor has returned.
        """
        if not self._executor.upset:
            return
        self._executor.upset = False
        had = {id(run) for run in (*self._run_queue.pending.copy(), *self._executor.started())}
        nowhere = [run for run in self._runs.values() if id(run) not in had and not run.ended]
        self._astray = {run.id: self._astray.get(run.id, (run, now)) for run in nowhere}
        lost = [run for run, since in self._astray.values() if now >= since + LOST_AFTER]
        for run in lost:
            run.started = 0.0
            del self._astray[run.id]
        self._executor.board.settled((None, run) for run in lost)  # some have a place there already
        if lost:
            self._executor.submit(lost)
        if self._astray:
            self._executor.upset = True

    # -- out -----------------------------------------------------------------------------------------

    def collect(self) -> tuple[list[Run], list[Run]]:
        """Return the runs that have ended: those still reserved by this worker, and those that are no longer."""
        finished = self._run_queue.collect()
        ours, stale = [], []
        for run in finished:
            if self._runs.get(run.delivery.id) is run:
                del self._runs[run.delivery.id]
                ours.append(run)
            else:
                stale.append(run)
        self._quarantine.ended(finished)
        self._prefetch.learn(finished)
        return ours, stale

    def withdraw(self, run: Run) -> bool:
        """Take back a run that has not started; return False if an executor has it."""
        try:
            self._run_queue.pending.remove(run)
        except ValueError:
            return False
        self._runs.pop(run.delivery.id, None)
        return True

    def lose(self, job_id: str) -> None:
        """Drop a reservation that this worker has lost; if the run continues, its outcome will be stale."""
        run = self._runs.get(job_id)
        if run is None or run.policy.acks == "early":
            return
        if self.withdraw(run):
            self._quarantine.ended([run])
        else:
            del self._runs[job_id]

    def give_back_what_waits_long(self, now: float) -> None:
        """Release jobs that wait behind jobs that turned out to be long: an idle worker may run them (promise 6)."""
        if (self._run_queue.pending or (self._early and self._runs)) and self.stuck(now):
            self._give_back(self._take_back())
            self._give_back(self._early)
            self._early.clear()

    def _take_back(self) -> list[Run]:
        """Take back all runs that have not started, except acknowledged ones: those run here or never."""
        taken = self._run_queue.take_back()
        if any(run.policy.acks == "early" for run in taken):
            self._executor.submit([run for run in reversed(taken) if run.policy.acks == "early"])
            taken = [run for run in taken if run.policy.acks != "early"]
        return taken

    def give_back_unstarted(self) -> None:
        """Release all jobs that have not started."""
        self._give_back(self._take_back())
        self._give_back(self._early)
        self._give_back(self._quarantine.take_back())
        self._early.clear()

    def give_up(self) -> None:
        """Release the running jobs too: the process is about to end."""
        self._give_back([run for run in self._runs.values() if run.policy.acks != "early"])
        self._runs.clear()

    def _give_back(self, runs: Iterable[Run]) -> None:
        runs = list(runs)
        self._quarantine.ended(runs)
        for run in runs:
            self.given_back += 1
            self._runs.pop(run.delivery.id, None)
            self._settlements.give_back(run)

    def drop(self, run: Run) -> None:
        """Forget a run that continues: its outcome will not be reported."""
        self._runs.pop(run.delivery.id, None)
        self._quarantine.ended([run])

    def ended(self) -> list[Run]:
        """Remove and return the runs that have ended, even if the executor could not report them."""
        runs = [run for run in self._runs.values() if run.settlement is not None]
        for run in runs:
            self.drop(run)
        return runs

    def end_all(self) -> list[Run]:
        """Remove and return every run that the executor has: their outcomes will not be reported."""
        runs = list(self._runs.values())
        self._runs.clear()
        return runs

    def cannot_end(self) -> bool:
        """Return whether runs remain, and all of them were interrupted but continue where no interrupt reaches them."""
        out_of_reach = (
            run.interrupted is not None and not run.ended and not self._executor.can_interrupt(run)
            for run in self._runs.values()
        )
        return bool(self._runs) and all(out_of_reach)

    def forget(self) -> None:
        """Drop every reservation, since the owner is lost."""
        self._quarantine.ended(self._take_back())
        self._quarantine.take_back()
        self._early.clear()
        self._runs = {job_id: run for job_id, run in self._runs.items() if run.policy.acks == "early"}
