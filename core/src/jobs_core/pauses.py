"""Pauses between tries, which double, and between looks, which take a small share of the time."""

from __future__ import annotations

_ENOUGH = 64
"""More doublings than any limit needs; at 1024, a float would overflow."""


def doubled(first: float, times: int, longest: float) -> float:
    """Return `first` doubled `times` times, `longest` at most: few tries in a long outage, little delay after a short one."""
    return min(longest, first * 2.0 ** min(times, _ENOUGH))


class Pace:
    """The pauses between looks of one kind. Not thread-safe.

    A look that took long counts once the next has, too: if the machine stood still during one alone, as it does when it is
    suspended for an hour, the next would be days later.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._before = 0.0

    def pause(self, took: float, least: float) -> float:
        """Return the seconds until the next look after one that took so long, and `least` at least."""
        counted, self._before = min(took, self._before), took
        return max(least, counted / self._share)
