"""An outage of the backend: each reason for it told once, tried again with full jitter, over when a call succeeds."""

from __future__ import annotations

import random
import time

from .. import events

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
MOST_REASONS = 10
"""Told in one outage: a reason that carries a number could be another one every time."""


class Outage:
    """Whether the backend answers, and when to try again. Used by the courier alone.

    Who is back first keeps house, and gives all others one more lease: within it they have to be back, too.
    """

    def __init__(self, lease: float = 30.0) -> None:
        self._longest = min(LONGEST_PAUSE, lease / 4)
        self._since: float | None = None
        self._told: set[str] = set()  # reasons: what begins as a dead server may go on as a wrong password
        self._tries = 0
        self._next_try = 0.0

    @property
    def lasts(self) -> bool:
        """Whether the last call failed."""
        return self._since is not None

    def began(self, error: Exception) -> None:
        """A call failed: wait before the next, longer every time, at random so that workers do not come together."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        reason = str(error)
        if reason not in self._told and len(self._told) < MOST_REASONS:
            self._told.add(reason)
            events.emit(events.BackendLost(reason))
        ceiling = min(self._longest, FIRST_PAUSE * 2.0 ** min(self._tries, 16))
        self._tries += 1
        self._next_try = now + random.uniform(FIRST_PAUSE / 2, ceiling)

    def over(self) -> None:
        """A call succeeded."""
        if self._since is not None:
            events.emit(events.BackendBack(time.monotonic() - self._since))
            self._since, self._tries, self._next_try = None, 0, 0.0
            self._told.clear()

    def may_try(self, now: float) -> bool:
        return now >= self._next_try

    def left(self, now: float) -> float:
        """Seconds until the next try."""
        return self._next_try - now

    def pause(self) -> float:
        """Seconds until the next try, from now."""
        return max(0.0, self._next_try - time.monotonic())
