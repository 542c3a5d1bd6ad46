"""How long to wait before something that keeps dying is started again."""

from __future__ import annotations

import time

FIRST, LONGEST = 0.1, 30.0
QUICK = 1.0
"""A child that lived shorter than this after it was ready died quickly, seconds."""


class Backoff:
    """Nothing after the first quick death but the first pause, doubling up to the longest; forgotten after a good life."""

    def __init__(self) -> None:
        self.failures = 0
        self.until = 0.0  # monotonic
        self.since = 0.0  # monotonic: the last quick death

    def died(self, lived: float | None, longest: float = LONGEST) -> None:
        """A child died after it had been ready for `lived` seconds, or None if it never was; wait at most `longest`."""
        if lived is not None and lived >= QUICK:
            self.failures, self.until = 0, 0.0
            return
        self.failures += 1
        self.since = time.monotonic()
        self.until = self.since + min(longest, FIRST * 2.0 ** (self.failures - 1))

    def well(self) -> None:
        """A child has proved that it can live."""
        self.failures, self.until = 0, 0.0

    def left(self) -> float:
        """Seconds until the next start is due."""
        return max(0.0, self.until - time.monotonic())
