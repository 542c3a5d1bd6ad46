"""The state that a worker last saw, so that it need not look before each wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

LONGEST_LOOK = 5.0
"""Seconds after which a waiting worker looks at the store again, in case a wake token was lost with its receiver."""


class Forecast(NamedTuple):
    """The state seen by a worker that left nothing ready.

    It remains valid: a job that becomes ready later leaves a wake token.
    """

    topics: tuple[str, ...]
    seen_at: float  # monotonic
    due: float  # monotonic: when the next scheduled job is due

    @classmethod
    def now(cls, topics: Sequence[str], due: float) -> Forecast:
        """Return an outlook: nothing is ready in these topics, and the next scheduled job is due in so many seconds."""
        at = time.monotonic()
        return cls(tuple(topics), at, at + due)

    def calm(self, topics: Sequence[str]) -> float:
        """Return for how many seconds these topics need no look; 0 if one is needed now."""
        if self.topics != tuple(topics):
            return 0.0
        return max(0.0, min(self.due, self.seen_at + LONGEST_LOOK) - time.monotonic())

    def until_due(self) -> float:
        """Return the seconds until the next scheduled job is due."""
        return self.due - time.monotonic()


UNKNOWN = Forecast((), 0.0, 0.0)
