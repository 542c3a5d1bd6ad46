"""The state of the store that a worker saw last, so that the worker need not look again before each wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

LONGEST_LOOK = 5.0
"""Seconds after which a waiting worker looks at the store again, in case a wake token was lost with its receiver."""


class Forecast(NamedTuple):
    """The state that a worker saw after it had reserved every ready job.

    It remains valid: each job that becomes ready later leaves a wake token.
    """

    topics: tuple[str, ...]
    seen_at: float  # monotonic
    due: float  # monotonic: when the next scheduled job is due

    @classmethod
    def now(cls, topics: Sequence[str], due: float) -> Forecast:
        """Return the forecast that nothing is ready in these topics and that the next scheduled job is due in `due` seconds."""
        at = time.monotonic()
        return cls(tuple(topics), at, at + due)

    def calm(self, topics: Sequence[str]) -> float:
        """Return the seconds for which a worker need not look at these topics; 0 if it has to look now."""
        if self.topics != tuple(topics):
            return 0.0
        return max(0.0, min(self.due, self.seen_at + LONGEST_LOOK) - time.monotonic())

    def until_due(self) -> float:
        """Return the seconds until the next scheduled job is due."""
        return self.due - time.monotonic()


UNKNOWN = Forecast((), 0.0, 0.0)
