"""The suspects: jobs that were running when two or more workers died. They run beside all other jobs, but few at a time.

The rule of suspicion is implemented here only:

- The first death is usually a kill from outside. The jobs that it interrupted return to their topics and run like any
  other job.
- With r >= 2 deaths a job is a suspect. Suspects run at most ceil(concurrency / 16^(r - 1)) together, in at most one
  worker of a pool at a time, each after a pause that grows with r. No other job waits for them.
- If a worker dies while it runs suspects, the suspects are charged and the jobs beside them are not
  (`supervisor.housekeeper.repair`). So the group that contains the culprit shrinks with every death until the culprit
  runs alone.
- The pause exposes a job that kills workers and is not yet a suspect: it kills a worker during the pause, while no
  suspect runs there, and is charged itself.

Without a supervisor, it is unknown which jobs a dead worker had started, and all its reservations are charged when its
lease expires. Such a death points to a suspect only if the worker had reserved no other jobs. Therefore an unsupervised
worker starts suspects when it runs nothing else, as many as may run together, and reserves nothing beside them for the
short time in which a culprit would kill it. Suspects that survive this time delay no other job, not even other suspects.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from ..runs.run import Run
from .isolation import Isolation
from .wake_up import NEVER

SUSPECT = 2
"""Number of worker deaths from which a job counts as a suspect."""

PAUSE, LONGEST_PAUSE = 0.5, 2.0
"""Seconds that a suspect waits for each death beyond the first, and the longest wait."""

SOLITUDE = 0.5
"""Seconds for which an unsupervised worker reserves nothing beside a suspect: the longest time that others wait for it."""

AFTER_OTHERS = 2.0
"""Seconds for which a worker that may reserve no more jobs defers its suspects while another worker runs suspects."""

LOOK_AGAIN = 0.25
"""Seconds between two checks whether another worker of the pool has finished its suspects."""

HOLD_AFTER = 3
"""Number of deferrals after which an unsupervised worker that is never idle runs a suspect beside other jobs."""


class Quarantine:
    """The suspects of one worker, waiting and running. Only the courier uses it, and only while there are suspects."""

    def __init__(self, concurrency: int, isolation: Isolation, *, watched: bool) -> None:
        self.watched = watched  # a supervisor sees which jobs have started
        self._concurrency = concurrency
        self._isolation = isolation
        self.waiting: deque[tuple[float, Run]] = deque()  # each with the earliest time of its start
        self.running: dict[str, Run] = {}
        self._alone_until = 0.0
        self._pauses_until = 0.0  # the latest end of a suspect's pause
        self.shut_out = False  # whether suspects wait for those of another worker

    def __len__(self) -> int:
        """Return the number of suspects that wait."""
        return len(self.waiting)

    def concerns(self, run: Run) -> bool:
        """Return whether a run is a suspect. This matters even if one job runs at a time: earlier ones may be unsettled."""
        return run.delivery.redeliveries >= SUSPECT

    def add(self, run: Run, now: float) -> None:
        """Keep a suspect until it may start."""
        pause = min(PAUSE * (run.delivery.redeliveries - 1), LONGEST_PAUSE) if self.watched else 0.0
        self.waiting.append((now + pause, run))
        self._pauses_until = max(self._pauses_until, now + pause)

    def pausing(self, now: float) -> bool:
        """Return whether a waiting suspect may still be in the pause that began with its reservation."""
        return bool(self.waiting) and now < self._pauses_until

    def next(self, now: float) -> float:
        """Return the monotonic time of the next check; infinity if all suspects here wait for other runs to end."""
        until = self._alone_until if self.alone(now) else NEVER
        return min((since for since, _ in self.waiting if since > now), default=until)

    def admit(self, now: float) -> list[Run]:
        """Return the suspects that start now, those with the most deaths first."""
        if self.alone(now):
            return []
        beside = list(self.running.values()) if self.watched else []
        if beside and len(beside) >= self._most(beside):
            return []
        ripe = sorted((run for since, run in self.waiting if since <= now), key=lambda run: -run.delivery.redeliveries)
        group = ripe[: max(0, self._most([*beside, *ripe[:1]]) - len(beside))] if ripe else []
        if not group:
            return []
        self.shut_out = not self._isolation.enter()
        if self.shut_out:
            self.waiting = deque((max(since, now + LOOK_AGAIN), run) for since, run in self.waiting)
            return []
        chosen = set(map(id, group))
        self.waiting = deque(each for each in self.waiting if id(each[1]) not in chosen)
        self.running.update((run.delivery.id, run) for run in group)
        if not self.watched:
            self._alone_until = now + SOLITUDE
        return group

    def _most(self, runs: Iterable[Run]) -> int:
        """Return how many suspects may run at once if these are among them."""
        return min(self.limit(run.delivery.redeliveries) for run in runs)

    def limit(self, redeliveries: int) -> int:
        """Return how many suspects with this number of deaths may run together."""
        return max(1, math.ceil(self._concurrency / 16.0 ** min(redeliveries - 1, 8)))

    def runs_all(self, runs: int) -> bool:
        """Return whether all runs of this worker are suspects."""
        return runs == len(self.running)

    def alone(self, now: float) -> bool:
        """Return whether nothing may be reserved beside a suspect now."""
        return bool(self.running) and now < self._alone_until

    def ended(self, runs: Iterable[Run]) -> None:
        """Note that these runs have ended, or will not start."""
        if not self.running:
            return
        for run in runs:
            if self.running.get(run.delivery.id) is run:
                del self.running[run.delivery.id]
        if not self.running:
            self._alone_until = 0.0
            self._isolation.leave()

    def take_back(self) -> list[Run]:
        """Remove and return every suspect that has not started."""
        taken = [run for _, run in self.waiting]
        self.waiting.clear()
        return taken
