"""Suspects: jobs that were running when two workers died, or more. They run beside all other jobs, but few at a time.

The rule of suspicion, in one place:

- A first death is mostly a kill from outside. What it interrupted is handed back at full strength, and runs as any job.
- With r >= 2 deaths a job is a suspect. Suspects run at most ceil(concurrency / 16^(r - 1)) together, in at most one
  worker of a pool at a time, each after a pause that grows with r. Nothing else waits for them.
- A worker that dies while suspects run in it died of them: they are charged, their neighbours are not
  (`supervisor.repair`). So the group that contains the culprit shrinks with every death until it is alone.
- The pause is for a neighbour that is poisonous and not yet suspected: meanwhile it kills without a suspect beside it, and is
  charged itself.

Where nobody sees what a worker has started (one without a supervisor), all that it held is charged when its lease ends.
There suspects have to be held without others to be told apart: as many as may run together start when the worker runs nothing
but suspects, and nothing else is reserved for the moment that a poisonous job needs. Those that outlive the moment hold up
nobody, the next suspects included.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from .isolation import Isolation
from .run import Run

SUSPECT = 2
"""Deaths of a worker from which on a job is a suspect."""

PAUSE, LONGEST_PAUSE = 0.5, 2.0
"""Seconds that a suspect waits for each death beyond the first, and at most."""

SOLITUDE = 0.5
"""Seconds for which an unsupervised worker takes nothing beside a suspect; others may wait so long, and no longer."""

LOOK_AGAIN = 0.25
"""Seconds between two looks whether another worker of the pool is done with its suspects."""

HOLD_AFTER = 3
"""After so many deferrals an unsupervised worker that is never idle runs a suspect beside other jobs."""

_NEVER = float("inf")


class Quarantine:
    """The suspects of one worker, waiting and running. Used by the courier alone."""

    def __init__(self, concurrency: int, isolation: Isolation, *, watched: bool) -> None:
        self.watched = watched  # a supervisor sees what has started
        self._concurrency = concurrency
        self._isolation = isolation
        self._waiting: deque[tuple[float, Run]] = deque()
        self._running: dict[str, Run] = {}
        self._alone_until = 0.0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def concerns(self, run: Run) -> bool:
        """Whether a run is a suspect's. Also where one job runs at a time: what ended before it may not be settled yet."""
        return run.delivery.redeliveries >= SUSPECT

    def add(self, run: Run, now: float) -> None:
        """Keep a suspect until it may start."""
        pause = min(PAUSE * (run.delivery.redeliveries - 1), LONGEST_PAUSE) if self.watched else 0.0
        self._waiting.append((now + pause, run))

    def next(self, now: float) -> float:
        """The monotonic time to look again; infinity if what waits does so for others to end."""
        until = self._alone_until if self.alone(now) else _NEVER
        return min((since for since, _ in self._waiting if since > now), default=until)

    def admit(self, now: float) -> list[Run]:
        """The suspects that start now, those with most deaths first."""
        if self.alone(now):
            return []
        beside = list(self._running.values()) if self.watched else []
        if beside and len(beside) >= self._most(beside):
            return []
        ripe = sorted((run for since, run in self._waiting if since <= now), key=lambda run: -run.delivery.redeliveries)
        group = ripe[: max(0, self._most([*beside, *ripe[:1]]) - len(beside))] if ripe else []
        if not group:
            return []
        if not self._isolation.enter():
            self._waiting = deque((max(since, now + LOOK_AGAIN), run) for since, run in self._waiting)
            return []
        chosen = set(map(id, group))
        self._waiting = deque(each for each in self._waiting if id(each[1]) not in chosen)
        self._running.update((run.delivery.id, run) for run in group)
        if not self.watched:
            self._alone_until = now + SOLITUDE
        return group

    def _most(self, runs: Iterable[Run]) -> int:
        """How many suspects may run together with these."""
        return min(self.limit(run.delivery.redeliveries) for run in runs)

    def limit(self, redeliveries: int) -> int:
        """How many suspects with so many deaths may run together."""
        return max(1, math.ceil(self._concurrency / 16.0 ** min(redeliveries - 1, 8)))

    def runs_all(self, runs: int) -> bool:
        """Whether all that this worker runs are suspects."""
        return runs == len(self._running)

    def alone(self, now: float) -> bool:
        """Whether nothing is to be reserved beside a suspect now."""
        return bool(self._running) and now < self._alone_until

    def ended(self, runs: Iterable[Run]) -> None:
        """These run no longer, or will not."""
        if not self._running:
            return
        for run in runs:
            if self._running.get(run.delivery.id) is run:
                del self._running[run.delivery.id]
        if not self._running:
            self._alone_until = 0.0
            self._isolation.leave()

    def waiting(self) -> list[Run]:
        """Every suspect that has not started."""
        return [run for _, run in self._waiting]

    def take_back(self) -> list[Run]:
        """Take every suspect that has not started."""
        taken = self.waiting()
        self._waiting.clear()
        return taken
