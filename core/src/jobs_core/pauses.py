"""Pauses that double with every try: they keep tries few in a long outage, and delays small after a short one."""

from __future__ import annotations

_ENOUGH = 64
"""More doublings than any limit needs; at 1024, a float would overflow."""


def doubled(first: float, times: int, longest: float) -> float:
    """Return `first` doubled `times` times, but at most `longest`."""
    return min(longest, first * 2.0 ** min(times, _ENOUGH))
