"""Jobs that were lost twice, with their workers or connections: run apart, to identify the one that kills its workers.

They wait in a queue of their own and are fetched only by a worker that holds no other job; if it dies, no other job is
suspected with them. One at first; as long as that succeeds, twice as many each time, of those that were lost no more than
twice; one that was lost three times runs alone. A busy worker looks for them now and then, finishes its other jobs if there
are any, and then runs one after the other for a moment: there may be hundreds, since a worker that dies loses all its jobs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from jobs_core.backends.base import Outcome, Settlement

from .consumer import Consumer
from .messages import BrokerMessage
from .unacked import Unacked

EVERY = 1.0
"""Seconds between two looks of a busy worker for suspects; ten times as long if it could not finish its other jobs."""

DRY = 1.0
"""Seconds that it waits for its other jobs to finish."""

SPELL = 0.25
"""Seconds for which it then runs suspects before other jobs."""

MOST = 256


class Suspects:
    """The decisions when a worker takes suspects, and how many. One thread."""

    def __init__(self, unacked: Unacked) -> None:
        self._unacked = unacked
        self._next_look = 0.0
        self._dry_until = 0.0
        self._spell_until = 0.0
        self._more = False  # there were some, and they succeeded: there may be more
        self._batch = 1
        self._most = MOST
        self._went_well = 0

    @property
    def drying(self) -> bool:
        """Return whether no other jobs are taken at present."""
        return self._dry_until > 0

    @property
    def more(self) -> bool:
        """Return whether to look for more at once, because those taken have ended."""
        return self._more and not self._unacked.held

    def before(self, consumer: Consumer, topics: Sequence[str], limit: int) -> list[BrokerMessage]:
        """Return suspects, if it is time for some and no other job is held."""
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
        """Learn from the outcome of one: if it was released, more were taken than the worker runs at once."""
        if settlement.outcome is Outcome.RELEASE:
            self._most = self._batch = max(1, self._batch - 1)
        else:
            self._went_well += 1
