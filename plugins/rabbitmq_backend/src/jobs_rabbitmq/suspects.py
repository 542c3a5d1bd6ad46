"""Jobs that were lost twice, with their workers or connections: run apart, so that the one that kills is told from the rest.

They wait in a queue of their own and are fetched only by a worker that holds nothing else; should it die, nothing else is
suspected with them. One at first; where that goes well, twice as many each time, of those that were lost no more than
twice; one that was lost three times runs alone. A busy worker looks for them now and then, and lets itself run dry for a
moment if there are any.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from jobs_core.backends.base import Outcome, Settlement

from .consumer import Consumer
from .holding import Holding
from .letters import Letter

EVERY = 1.0
"""How often a busy worker looks for suspects, seconds; where it could not run dry for them, ten times as seldom."""

DRY = 1.0
"""How long it waits to run dry, seconds."""

MOST = 256


class Suspects:
    """When a worker takes suspects, and how many. One thread."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._next_look = 0.0
        self._dry_until = 0.0
        self._batch = 1
        self._most = MOST
        self._went_well = 0

    @property
    def drying(self) -> bool:
        """Whether nothing else is taken at present."""
        return self._dry_until > 0

    def before(self, consumer: Consumer, topics: Sequence[str], limit: int) -> list[Letter]:
        """Suspects, if it is time for some and nothing else is held."""
        now = time.monotonic()
        if now < self._next_look and not self.drying:
            return []
        if not self._holding.held:
            self._dry_until = 0.0
            self._next_look = now + EVERY
            return self._take(consumer, topics, limit)
        if not self.drying:
            self._next_look = now + EVERY
            if consumer.suspects_wait(topics):
                self._dry_until = now + DRY
        elif now >= self._dry_until:
            self._dry_until = 0.0
            self._next_look = now + 10 * EVERY
        return []

    def when_idle(self, consumer: Consumer, topics: Sequence[str], limit: int) -> list[Letter]:
        """Suspects, for a worker that found nothing else."""
        return [] if self._holding.held else self._take(consumer, topics, limit)

    def _take(self, consumer: Consumer, topics: Sequence[str], limit: int) -> list[Letter]:
        if self._went_well >= self._batch:
            self._batch = min(2 * self._batch, self._most)
        self._went_well = 0
        return consumer.take_suspects(topics, min(limit, self._batch))

    def settled(self, settlement: Settlement) -> None:
        """Learn from how one has ended: what is given back was more than the worker runs at once."""
        if settlement.outcome is Outcome.RELEASE:
            self._most = self._batch = max(1, self._batch - 1)
        else:
            self._went_well += 1
