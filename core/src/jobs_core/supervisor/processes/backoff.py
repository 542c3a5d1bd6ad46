"""The pause before a process that keeps dying is started again."""

from __future__ import annotations

import math
import time

from ...pauses import doubled

FIRST, LONGEST = 0.1, 30.0
QUICK = 1.0
"""Seconds; a child that ended sooner after it was ready died quickly."""


class RestartBackoff:
    """The pause after quick deaths: none after the first, which may be an accidental `kill -9`; then one that doubles.

    It doubles up to the longest, and is reset once a child has lived long enough. Children that were already running at
    the last quick death are of the same round: their deaths show nothing about children that were started since. So a whole
    pool that is killed is restarted at once, and a round of a crash loop counts once.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.until = 0.0  # monotonic
        self.since = 0.0  # monotonic: the last quick death that counted

    def died(self, lived: float | None, longest: float = LONGEST, *, started_at: float = math.inf) -> None:
        """Note that a child died after it had been ready for `lived` seconds; None if it never was ready.

        If it never was, even the first death has a pause, since nothing suggests that the next child will be ready. Wait at
        most `longest` seconds. If several children run at a time, `started_at` (monotonic) is when this one was started.
        """
        if lived is not None and lived >= QUICK:
            self.reset()
            return
        if self.failures and started_at < self.since:
            return
        self.failures += 1
        self.since = time.monotonic()
        times = self.failures - (1 if lived is None else 2)
        self.until = self.since + (doubled(FIRST, times, longest) if times >= 0 else 0.0)

    def reset(self) -> None:
        """Reset the pause, because a child has lived long enough."""
        self.failures, self.until = 0, 0.0

    def left(self) -> float:
        """Return the seconds until the next start is due."""
        return max(0.0, self.until - time.monotonic())
