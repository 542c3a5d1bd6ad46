"""Pauses that double between tries: a long outage costs few tries, and a short one little time."""

from __future__ import annotations

_ENOUGH = 64
"""Doublings after which a second is longer than the universe has existed; at 1024, a float would overflow."""


def doubled(first: float, times: int, longest: float) -> float:
    """Return `first`, doubled so many times: `longest` at most, however often."""
    return min(longest, first * 2.0 ** min(times, _ENOUGH))
