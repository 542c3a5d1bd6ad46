"""How long to wait before something that keeps dying is started again."""

from __future__ import annotations

import math
import time

FIRST, LONGEST = 0.1, 30.0
QUICK = 1.0
"""A child that lived shorter than this after it was ready died quickly, seconds."""


class Backoff:
    """No pause after the first quick death, which may have been anybody's `kill -9`; from the second on the first pause,
    doubling up to the longest; forgotten after a good life.

    Children that were there already at the last quick death are of the same round: their deaths say nothing about those
    that came since. So a whole pool that is killed is back at once, and in a crash loop a round counts once.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.until = 0.0  # monotonic
        self.since = 0.0  # monotonic: the last quick death that counted

    def died(self, lived: float | None, longest: float = LONGEST, *, started_at: float = math.inf) -> None:
        """Take note that a child died after it had been ready for `lived` seconds; None if it never was.

        Then even the first death has a pause, since nothing suggests that the next child will be ready. Wait at most
        `longest`. `started_at` (monotonic) is when the child was made, where there are several at a time.
        """
        if lived is not None and lived >= QUICK:
            self.well()
            return
        if self.failures and started_at < self.since:
            return
        self.failures += 1
        self.since = time.monotonic()
        doubled = self.failures - (1 if lived is None else 2)
        self.until = self.since + (min(longest, FIRST * 2.0**doubled) if doubled >= 0 else 0.0)

    def well(self) -> None:
        """A child has proved that it can live."""
        self.failures, self.until = 0, 0.0

    def left(self) -> float:
        """Seconds until the next start is due."""
        return max(0.0, self.until - time.monotonic())
