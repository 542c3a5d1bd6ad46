"""Run suspects apart from other jobs, to identify the job that kills its workers.

Suspects are jobs that were lost twice with their worker or connection. They wait in a separate queue, and only a worker that
has reserved no other job fetches them: if it dies, no other job becomes a suspect. It fetches one at first, and twice as
many each time that all succeed; a job that was lost three times runs alone. A busy worker looks for suspects now and then.
If there are any, it finishes its other jobs and then runs suspects for a moment: there may be hundreds, since a worker that
dies loses all its jobs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from jobs_core.backends.base import Outcome, Settlement

from .consumer import Consumer
from .messages import BrokerMessage
from .unacked import Unacked

EVERY = 1.0
"""Seconds after which a busy worker looks for suspects again; ten times as long if its other jobs did not end in time."""

DRY = 1.0
"""Seconds that a busy worker waits for its other jobs to finish."""

SPELL = 0.25
"""Seconds for which the worker then prefers suspects to other jobs."""

MOST = 256


class Suspects:
    """Decides when a worker takes suspects, and how many. Used by one thread."""

    def __init__(self, unacked: Unacked) -> None:
        self._unacked = unacked
        self._next_look = 0.0
        self._dry_until = 0.0
        self._spell_until = 0.0
        self._more = False  # the last look found suspects, so there may be more
        self._batch = 1
        self._most = MOST
        self._went_well = 0

    @property
    def drying(self) -> bool:
        """Return whether the worker takes no other jobs at present, so that it can start suspects."""
        return self._dry_until > 0

    @property
    def more(self) -> bool:
        """Return whether to look for more suspects at once, because all that were taken have ended."""
        return self._more and not self._unacked.held

    def before(self, consumer: Consumer, topics: Sequence[str], limit: int) -> list[BrokerMessage]:
        """Return suspects, if it is time to look for them and no other job is reserved."""
        now = time.monotonic()
        due = self.drying or now >= self._next_look
        if not due and now >= self._spell_until:
            return []
        if not self._unacked.held:
            if due:
                self._dry_until = 0.0
                self._spell_until = now + SPELL
                self._next_look = now + EVERY
            return self._take(consumer, topics, limit)
        if not due:
            return []
        if not self.drying:
            self._next_look = now + EVERY
            if consumer.suspects_wait(topics):
                self._dry_until = now + DRY
        elif now >= self._dry_until:
            self._dry_until = 0.0
            self._next_look = now + 10 * EVERY
        return []

    def when_idle(self, consumer: Consumer, topics: Sequence[str], limit: int) -> list[BrokerMessage]:
        """Return suspects, for a worker that found no other job."""
        return [] if self._unacked.held else self._take(consumer, topics, limit)

    def _take(self, consumer: Consumer, topics: Sequence[str], limit: int) -> list[BrokerMessage]:
        if self._went_well >= self._batch:
            self._batch = min(2 * self._batch, self._most)
        self._went_well = 0
        found = consumer.take_suspects(topics, min(limit, self._batch))
        self._more = bool(found)
        if not found:
            self._spell_until = 0.0
        return found

    def settled(self, settlement: Settlement) -> None:
        """Adjust the batch to the outcome of one suspect: if it was released, the worker had taken more than it can run."""
        if settlement.outcome is Outcome.RELEASE:
            self._most = self._batch = max(1, self._batch - 1)
        else:
            self._went_well += 1
