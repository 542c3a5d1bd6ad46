"""What a worker knows of the near future, so that it need not look before each wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

LONGEST_LOOK = 5.0
"""A waiting worker looks at the store this often, in case that a wake token was lost with its receiver, seconds."""


class Outlook(NamedTuple):
    """What one saw who left nothing ready behind. It holds on: whatever becomes ready later leaves a wake token."""

    topics: tuple[str, ...]
    seen_at: float  # monotonic
    due: float  # monotonic: when the next scheduled job falls due

    @classmethod
    def now(cls, topics: Sequence[str], due: float) -> Outlook:
        """Nothing is ready in these topics, and the next scheduled job falls due in so many seconds."""
        at = time.monotonic()
        return cls(tuple(topics), at, at + due)

    def calm(self, topics: Sequence[str]) -> float:
        """For how many seconds these topics need no look; 0 if it is time for one."""
        if self.topics != tuple(topics):
            return 0.0
        return max(0.0, min(self.due, self.seen_at + LONGEST_LOOK) - time.monotonic())

    def until_due(self) -> float:
        """Seconds until the next scheduled job falls due."""
        return self.due - time.monotonic()


UNKNOWN = Outlook((), 0.0, 0.0)
