"""The jobs that a worker has reserved: every run from its reservation to its end, and whether one more would fit.

Runs that are to start go to the executor, in order; suspects wait for their turn beside the others (`Quarantine`), and jobs
that are acknowledged early until a slot is free. Jobs that wait behind one that turns out long are given back.
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
"""Seconds after which a run that nobody has is nobody's, and not on its way between two instructions of an executor."""

PUT_OFF = 0.5
"""Seconds for which a suspect is left to others: there are too many here, or an unsupervised worker is busy."""


class Reservations:
    """See the module. Used by the courier alone."""

    def __init__(
        self, executor: Executor, settlements: Settlements, isolation: Isolation | None = None, *, watched: bool = False
    ) -> None:
        self.deadlines = Deadlines()
        self.given_back = 0  # jobs that were taken and not run
        self._executor = executor
        self._run_queue = executor.run_queue
        self._settlements = settlements
        self._runs: dict[str, Run] = {}  # handed over: pending, running, or finished and not collected
        self._early: deque[Run] = deque()  # acknowledged before they run: wait here for a free slot
        self._quarantine = Quarantine(executor.concurrency, isolation or Isolation(), watched=watched)
        self._most = LARGEST_BATCH  # to reserve: where suspects are held apart, no more than may start together
        self._prefetch = Prefetch(executor.concurrency)
        self._astray: dict[str, tuple[Run, float]] = {}  # where nobody has them, and since when

    def __len__(self) -> int:
        """How many runs the executor has."""
        return len(self._runs)

    def get(self, job_id: str) -> Run | None:
        """A run that the executor has."""
        return self._runs.get(job_id)

    # -- how much ----------------------------------------------------------------------------------

    def room(self) -> int:
        """How many more jobs may be reserved."""
        return min(self._prefetch.target() - len(self._runs), self._most)

    def batch(self) -> int:
        """How many jobs are reserved at a time while there are many."""
        return min(self._prefetch.target(), LARGEST_BATCH)

    def looks_at(self, now: float) -> float:
        """The monotonic time at which something here may start that nothing wakes the courier for."""
        astray = min((since + LOST_AFTER for _, since in self._astray.values()), default=_NEVER)
        return min(now + AHEAD if self._early else _NEVER, self._quarantine.next(now), astray)

    def closed(self, now: float) -> bool:
        """Whether nothing is to be reserved now, whatever there is."""
        return bool(self._early) or self._quarantine.alone(now) or self.stuck(now)

    def stuck(self, now: float) -> bool:
        """Whether every slot has been busy with the same job for longer than we hold jobs for."""
        running = self._executor.started()
        return len(running) >= self._executor.concurrency and all(now - (run.started or run.taken) > AHEAD for run in running)

    @property
    def full(self) -> bool:
        """Whether every slot has a job."""
        return len(self._runs) >= self._executor.concurrency

    def half_through(self) -> float:
        """Seconds after which half of what is pending will have been run, as far as one knows."""
        return max(0.001, self._prefetch.lasts(len(self._run_queue.pending)) / 2)

    # -- in ------------------------------------------------------------------------------------------

    def take(self, runs: Iterable[Run], now: float) -> None:
        """Start what was reserved, or keep what has to wait."""
        self._most = LARGEST_BATCH
        ready: list[Run] = []
        for run in runs:
            if run.policy.acks == "early":  # at most once, whatever it saw: first of all it is acknowledged
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
        """Start suspects and early acknowledged jobs whose turn has come. Raises what settling raises."""
        if self._quarantine:
            self._start_suspects(now)
        free = self._executor.concurrency - len(self._runs) - self._settlements.acknowledging
        if self._early and free > 0:
            for run in [self._early.popleft() for _ in range(min(free, len(self._early)))]:
                self._settlements.acknowledge(run)
            self._settlements.send()
        self.start_acknowledged(now)

    def start_acknowledged(self, now: float) -> None:
        """Start what is acknowledged and was not run: nobody else will, not even when we are to stop."""
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
        """Start what an executor took and never began, if something was raised in its own code.

        An exception from outside strikes between any two instructions, so also after a run was taken and before it was
        written down as going on. The executor cannot know; we do, from what it neither has nor gave back.
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
        """The runs that have ended: ours, and those that are no longer ours."""
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
        """Take back a run that has not started; False if an executor has it."""
        try:
            self._run_queue.pending.remove(run)
        except ValueError:
            return False
        self._runs.pop(run.delivery.id, None)
        return True

    def lose(self, job_id: str) -> None:
        """A reservation is no longer ours; if the run goes on, its end will be stale."""
        run = self._runs.get(job_id)
        if run is None or run.policy.acks == "early":
            return
        if self.withdraw(run):
            self._quarantine.ended([run])
        else:
            del self._runs[job_id]

    def give_back_what_waits_long(self, now: float) -> None:
        """Return what waits behind jobs that turned out long: an idle worker may run it (promise 6)."""
        if (self._run_queue.pending or (self._early and self._runs)) and self.stuck(now):
            self._give_back(self._take_back())
            self._give_back(self._early)
            self._early.clear()

    def _take_back(self) -> list[Run]:
        """What no executor has started, but for what is acknowledged: that is run here, or never."""
        taken = self._run_queue.take_back()
        if any(run.policy.acks == "early" for run in taken):
            self._executor.submit([run for run in reversed(taken) if run.policy.acks == "early"])
            taken = [run for run in taken if run.policy.acks != "early"]
        return taken

    def give_back_unstarted(self) -> None:
        """Return all that has not started."""
        self._give_back(self._take_back())
        self._give_back(self._early)
        self._give_back(self._quarantine.take_back())
        self._early.clear()

    def give_up(self) -> None:
        """Return what runs, too: the process is about to end."""
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
        """Forget a run that goes on: nobody will hear of its end."""
        self._runs.pop(run.delivery.id, None)
        self._quarantine.ended([run])

    def ended(self) -> list[Run]:
        """Take out the runs that have ended, whether the executor came to say so or not."""
        runs = [run for run in self._runs.values() if run.ended]
        for run in runs:
            self.drop(run)
        return runs

    def end_all(self) -> list[Run]:
        """Every run that the executor has: nobody will hear of their ends."""
        runs = list(self._runs.values())
        self._runs.clear()
        return runs

    def cannot_end(self) -> bool:
        """Whether there are runs, and each was told to end but goes on where no interrupt reaches it."""
        out_of_reach = (
            run.interrupted is not None and not run.ended and not self._executor.can_interrupt(run)
            for run in self._runs.values()
        )
        return bool(self._runs) and all(out_of_reach)

    def forget(self) -> None:
        """The owner is lost, and with it every reservation."""
        self._quarantine.ended(self._take_back())
        self._quarantine.take_back()
        self._early.clear()
        self._runs = {job_id: run for job_id, run in self._runs.items() if run.policy.acks == "early"}
