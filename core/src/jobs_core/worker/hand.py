"""What a worker has in hand: every run from its reserve to its end, and whether one more would fit.

A run that is to start goes to the executor, in order; suspects wait until the worker is theirs alone, and jobs that are
acknowledged early until a slot is free. What waits behind a job that turns out long is given back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from ..backends.base import Outcome, Settlement
from .deadlines import Deadlines
from .executors.base import Executor
from .handover import SETTLE_INTERVAL
from .outbox import Outbox
from .prefetch import AHEAD, LARGEST_BATCH, Prefetch
from .quarantine import HOLD_AFTER, Quarantine
from .run import Run

PUT_OFF = 0.5
"""Seconds for which a suspect is left to workers that are idle."""


class Hand:
    """See the module. Used by the courier alone."""

    def __init__(self, executor: Executor, outbox: Outbox) -> None:
        self.deadlines = Deadlines()
        self.given_back = 0  # jobs that were taken and not run
        self._executor = executor
        self._handover = executor.handover
        self._outbox = outbox
        self._runs: dict[str, Run] = {}  # handed over: pending, running, or finished and not collected
        self._early: deque[Run] = deque()  # acknowledged before they run: wait here for a free slot
        self._quarantine = Quarantine(executor.concurrency)
        self._suspects_run = False  # only suspects run: nothing else is reserved beside them
        self._one_by_one = False  # the last reserve found a suspect that was run alone: the next asks for no more than one
        self._prefetch = Prefetch(executor.concurrency)

    def __len__(self) -> int:
        """How many runs the executor has."""
        return len(self._runs)

    def get(self, job_id: str) -> Run | None:
        """A run that the executor has."""
        return self._runs.get(job_id)

    # -- how much ----------------------------------------------------------------------------------

    def room(self) -> int:
        """How many more jobs may be reserved."""
        most = 1 if self._one_by_one else LARGEST_BATCH  # or hundreds would be reserved to be given back, for each of hundreds
        return min(self._prefetch.target() - len(self._runs), most)

    def batch(self) -> int:
        """How many jobs are reserved at a time while there are many."""
        return min(self._prefetch.target(), LARGEST_BATCH)

    @property
    def some_wait(self) -> bool:
        """Whether there are runs here that the executor is not to have yet: nothing else is taken beside them."""
        return bool(self._quarantine or self._early)

    def closed(self, now: float) -> bool:
        """Whether nothing is to be reserved now, whatever there is."""
        return self.some_wait or self._suspects_run or self.stuck(now)

    def stuck(self, now: float) -> bool:
        """Whether every slot has been busy with the same job for longer than we hold jobs for."""
        running = self._executor.started()
        return len(running) >= self._executor.concurrency and all(now - run.started > AHEAD for run in running)

    @property
    def full(self) -> bool:
        """Whether every slot has a job."""
        return len(self._runs) >= self._executor.concurrency

    def half_through(self) -> float:
        """Seconds after which half of what is pending will have been run, as far as one knows."""
        return max(0.001, self._prefetch.lasts(len(self._handover.pending)) / 2)

    # -- in ------------------------------------------------------------------------------------------

    def take(self, runs: Iterable[Run], now: float) -> None:
        """Start what was reserved, or keep what has to wait."""
        self._one_by_one = False
        ready: list[Run] = []
        for run in runs:
            if self._quarantine.concerns(run):
                self._quarantine.add(run)
            elif run.policy.acks == "early":
                self._early.append(run)
            else:
                ready.append(run)
        self._hand_over(ready, now)

    def _hand_over(self, runs: Sequence[Run], now: float) -> None:
        if not runs:
            return
        for run in runs:
            self._runs[run.delivery.id] = run
            if run.timeout:
                self.deadlines.add(run, now)
        self._handover.be_quiet(now + SETTLE_INTERVAL)
        self._executor.submit(runs)

    def start_waiting(self, now: float) -> None:
        """Start suspects and early acknowledged jobs whose turn has come. Raises what settling raises."""
        if self._quarantine:
            group = self._quarantine.admit(len(self._runs))
            if len(group) == 1:
                self._one_by_one = True
                self._give_back(self._quarantine.take_back())
                self._outbox.send()
            self._suspects_run = bool(group) or self._suspects_run
            self._hand_over(group, now)
        free = self._executor.concurrency - len(self._runs)
        if self._early and free > 0:
            batch = [self._early.popleft() for _ in range(min(free, len(self._early)))]
            for run in batch:
                self._outbox.add(Settlement(run.delivery.id, run.delivery.token, Outcome.DONE))
            self._outbox.send()
            self._hand_over(batch, now)

    # -- out -----------------------------------------------------------------------------------------

    def collect(self) -> tuple[list[Run], list[Run]]:
        """The runs that have ended: ours, and those that are no longer ours."""
        finished = self._handover.collect()
        ours, stale = [], []
        for run in finished:
            if self._runs.get(run.delivery.id) is run:
                del self._runs[run.delivery.id]
                ours.append(run)
            else:
                stale.append(run)
        self._suspects_run = self._suspects_run and bool(self._runs)
        self._prefetch.learn(finished)
        return ours, stale

    def withdraw(self, run: Run) -> bool:
        """Take back a run that has not started; False if an executor has it."""
        try:
            self._handover.pending.remove(run)
        except ValueError:
            return False
        self._runs.pop(run.delivery.id, None)
        return True

    def lose(self, job_id: str) -> None:
        """A reservation is no longer ours; if the run goes on, its end will be stale."""
        run = self._runs.get(job_id)
        if run is not None and not self.withdraw(run):
            del self._runs[job_id]

    def give_back_what_waits_long(self, now: float) -> None:
        """Return what waits behind jobs that turned out long: an idle worker may run it (promise 6)."""
        if (self._handover.pending or (self._early and self._runs)) and self.stuck(now):
            self._give_back(self._handover.take_back())
            self._give_back(self._early)
            self._early.clear()
        if self._quarantine and self._runs and not self._suspects_run:
            self._put_off_suspects()

    def _put_off_suspects(self) -> None:
        """Leave suspects to a worker that is idle; one that nobody took for a while gets this one to run dry."""
        for run in self._quarantine.take_back():
            if run.delivery.deferrals >= HOLD_AFTER:
                self._quarantine.add(run)
            else:
                self._outbox.give_back(run, after=PUT_OFF)

    def give_back_unstarted(self) -> None:
        """Return all that has not started."""
        self._give_back(self._handover.take_back())
        self._give_back(self._early)
        self._give_back(self._quarantine.take_back())
        self._early.clear()

    def give_up(self) -> None:
        """Return what runs, too: the process is about to end."""
        self._give_back(list(self._runs.values()))

    def _give_back(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self.given_back += 1
            self._runs.pop(run.delivery.id, None)
            self._outbox.give_back(run)

    def end_all(self) -> list[Run]:
        """Every run that the executor has: nobody will hear of their ends."""
        runs = list(self._runs.values())
        self._runs.clear()
        return runs

    def all_interrupted(self) -> bool:
        """Whether there are runs, and each was told to end."""
        return bool(self._runs) and all(run.interrupted is not None for run in self._runs.values())

    def forget(self) -> None:
        """The owner is lost, and with it every reservation."""
        self._handover.take_back()
        self._quarantine.take_back()
        self._early.clear()
        self._suspects_run = False
        self._runs.clear()
