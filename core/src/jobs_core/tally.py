"""How many jobs a connection has pushed: added to the counts of a store together with a push, but not with each one."""

from __future__ import annotations

MOST_KEPT = 16
"""Jobs after which those that are kept are added to the store's counts."""

SHARE = 32
"""The first SHARE jobs of a connection are added at once; then, for each SHARE that it has pushed, one more may be kept."""

INTERVAL = 1.0
"""Seconds after which a push adds what is kept, too: rare pushes are added at once."""


class Tally:
    """The jobs that one connection has pushed, and that its store has not counted yet.

    A count in the store costs a statement, which a producer that enqueues one job after the other would feel. So a connection
    keeps up to 15 of its jobs, and about one of 32 that it pushed in all, until a later push, or until it disconnects. They
    are not counted if its process ends without that. One thread at a time.

    Each push adds its jobs to `kept`, takes their number from `left`, and adds all of `kept` to the store's counts if `left` is
    not above 0, or if the time `until` has come; then it calls `added`.
    """

    __slots__ = ("_pushed", "kept", "left", "until")

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}  # by topic
        self.left: int = 0
        self.until: float = 0.0  # by the caller's clock
        self._pushed = 0

    def added(self, now: float) -> None:
        """Note that all that was kept is in the store."""
        self._pushed += sum(self.kept.values())
        self.kept.clear()
        self.left = min(MOST_KEPT, self._pushed // SHARE)
        self.until = now + INTERVAL
