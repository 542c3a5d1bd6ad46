"""The runs that the courier ends early: cancelled runs, overdue runs, and runs that ignore their interruption.

Within a worker, the rule for timeouts is implemented here only. An overdue run counts as one attempt with the reason
"timeout", whether an interrupt or the end of its process ended it. If an event loop is blocked, the run that blocks it is
charged, even if another run is the overdue one. All other runs that end with the process return to their topics
uncharged. Code that holds the GIL blocks the courier too; then the supervisor applies the same rule
(`supervisor.housekeeper.timeouts`).

A grace period counts only time in which the run could react. If the machine or the process stood still (a paused virtual
machine, a frozen container, SIGSTOP), the monotonic clock may have gone on. So the courier looks at least five times in a
grace period, and the time between two looks counts for at most two fifths of it.
"""

from __future__ import annotations

import time
from collections import deque

from .. import events
from ..errors import JobCancelled, JobInterrupted, JobTimeout
from ..runs.run import Run
from .executors.base import Executor
from .executors.steps import overdue, step_is_overdue
from .reservations import Reservations
from .wake_up import NEVER

LOOKS = 5
LONGEST_LOOK = 1.0
SHORTEST_LOOK = 0.01
"""Number of looks in a grace period, and bounds of the seconds between two of them."""


class Interruptions:
    """The interrupted runs of one worker, and their grace periods. Only the courier uses it."""

    def __init__(self, reservations: Reservations, executor: Executor, grace: float) -> None:
        self._reservations = reservations
        self._executor = executor
        self._grace = grace
        self._look = max(SHORTEST_LOOK, min(LONGEST_LOOK, grace / LOOKS))
        self._looked_at = self._awake = 0.0  # the last look, and the seconds that have counted until then
        self.told: deque[tuple[float, Run]] = deque()  # interrupted runs, and the value of `_awake` that ends their grace

    def next(self) -> float:
        """Return the monotonic time at which a run may have exceeded its timeout, or its grace period."""
        look = self._looked_at + min(self._look, self.told[0][0] - self._awake) if self.told else NEVER
        return min(self._reservations.deadlines.next(), look)

    def _count(self, now: float) -> float:
        """Count the time since the last look, as far as it counts; return all that has counted."""
        self._awake += max(0.0, min(now - self._looked_at, 2 * self._look))
        self._looked_at = max(now, self._looked_at)
        return self._awake

    def cancel(self, job_id: str) -> Run | None:
        """Interrupt a cancelled run; if it has not started, withdraw it and return it to be concluded."""
        run = self._reservations.runs.get(job_id)
        if run is None or run.interrupted is not None:
            return None
        if self._reservations.withdraw(run):
            run.error = JobCancelled("cancelled before it started")
            return run
        self._executor.interrupt(run, JobCancelled("cancelled while it ran"))
        return None

    def force(self, job_id: str) -> None:
        """Start the grace period of a cancelled run; when it is over, the worker stops waiting for the run."""
        run = self._reservations.runs.get(job_id)
        if run is not None and all(run is not told for _, told in self.told):
            self.told.append((self._count(time.monotonic()) + self._grace, run))

    def interrupt_overdue(self, now: float) -> bool:
        """Interrupt the runs that have exceeded their timeout; return whether one of them can end only with the process."""
        out_of_reach = False
        deadlines, runs = self._reservations.deadlines, self._reservations.runs
        for run in deadlines.due(now):
            if runs.get(run.delivery.id) is not run:
                continue
            step = step_is_overdue(run)
            events.emit(events.JobOverdue(*run.about, (run.policy.step_timeout if step else run.timeout) or 0.0, step))
            out_of_reach = out_of_reach or not self._executor.can_interrupt(run)
            self.told.append((self._count(now) + self._grace, run))
            self._executor.interrupt(run, overdue(run))
        return out_of_reach

    def end_stubborn(self, now: float) -> tuple[list[Run], bool]:
        """Mark as ended each run that has ignored its interruption for its grace period, although its code continues.

        Return the runs that have ended, and True if the event loop is blocked, so that no other run can continue.
        """
        ended: list[Run] = []
        awake = self._count(now)
        while self.told and self.told[0][0] <= awake:
            _, run = self.told.popleft()
            if self._reservations.runs.get(run.delivery.id) is not run or run.ended:
                continue
            culprit, error = self._executor.holder(run), run.interrupted
            if culprit is not None and culprit is not run:
                error = JobTimeout(
                    f"it held the event loop for more than {self._grace:g} s, and job {run.id} could not be stopped"
                )
            assert error is not None
            ended.append(self._end(culprit or run, error, now))
            self._reservations.drop(culprit or run)
            if culprit is not None:
                ended += self._reservations.drop_decided()  # plain functions whose end the blocked loop cannot report
                return ended, True
        return ended, False

    def end_unreachable(self, now: float) -> list[Run]:
        """If every remaining run was told to end but no interrupt can reach it, mark all as ended and return them."""
        runs = list(self._reservations.runs.values())
        if any(run.interrupted is None or run.ended or self._executor.can_interrupt(run) for run in runs):
            return []
        for run in runs:
            assert run.interrupted is not None
            self._end(run, run.interrupted, now)
        self._reservations.runs.clear()  # a suspect among them keeps its isolation until the process ends
        return runs

    def _end(self, run: Run, error: JobInterrupted, now: float) -> Run:
        """Mark a run as ended, although its code continues until the process ends; note in its history where it was."""
        if run.settlement is None:  # otherwise it has just ended by itself
            error.__cause__ = JobInterrupted(self._executor.where(run))
            run.error, run.ended = error, now
        return run
