"""An outage of the backend: each reason is logged once, retries have full jitter, and a successful call ends the outage."""

from __future__ import annotations

import random
import time

from .. import events
from ..pauses import doubled

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
MOST_REASONS = 10
"""Largest number of reasons logged in one outage: a reason with a number in it could differ every time."""


class Outage:
    """The state of the connection to the backend, and the time of the next try. Only the courier uses it.

    The first worker to reconnect does the housekeeping, which extends all other workers' leases by one lease: they have
    that long to reconnect. That of the carrier of the outbox is told as one of the outbox.
    """

    def __init__(self, lease: float = 30.0, *, of_outbox: bool = False) -> None:
        self._of_outbox = of_outbox
        self._longest = min(LONGEST_PAUSE, lease / 4)
        self.lasts = False  # the last call failed
        self.next_try = 0.0  # monotonic; before, no call is made
        self._since = 0.0
        self._told: set[str] = set()  # reasons already logged: an outage may have several
        self._tries = 0

    def began(self, error: Exception) -> None:
        """Note a failed call, and wait before the next: longer every time, at random so that workers do not retry together."""
        now = time.monotonic()
        if not self.lasts:
            self.lasts, self._since = True, now
        reason = str(error)
        if reason not in self._told and len(self._told) < MOST_REASONS:
            self._told.add(reason)
            events.emit(events.BackendLost(reason, self._of_outbox))
        ceiling = doubled(FIRST_PAUSE, self._tries, self._longest)
        self._tries += 1
        self.next_try = now + random.uniform(FIRST_PAUSE / 2, ceiling)

    def over(self) -> None:
        """Note a successful call, which ends the outage."""
        if self.lasts:
            events.emit(events.BackendBack(time.monotonic() - self._since, self._of_outbox))
            self.lasts, self._tries, self.next_try = False, 0, 0.0
            self._told.clear()

    def pause(self) -> float:
        """Return the seconds until the next try, counted from now."""
        return max(0.0, self.next_try - time.monotonic())
