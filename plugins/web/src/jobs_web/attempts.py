"""Failed attempts to be let in, counted in bounded memory."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable

MOST_FAILURES = 10
"""Wrong tokens within WINDOW after which a browser, or the programs of an address, have to wait, and logins there are slow."""

WINDOW = 60.0
MOST_CLIENTS = 10_000


class Attempts:
    """Counts the failed logins of each client, by its session or address. Only the event loop uses it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: collections.OrderedDict[str, list[float]] = collections.OrderedDict()

    def wait(self, client: str) -> float:
        """Return for how many seconds a client has to wait before it may try again."""
        recent = self._recent(client)
        return recent[-MOST_FAILURES] + WINDOW - self._clock() if len(recent) >= MOST_FAILURES else 0.0

    def failed(self, client: str) -> None:
        """Count a failed login."""
        self._failed[client] = [*self._recent(client), self._clock()][-MOST_FAILURES:]
        self._failed.move_to_end(client)
        while len(self._failed) > MOST_CLIENTS:
            self._failed.popitem(last=False)

    def _recent(self, client: str) -> list[float]:
        return [at for at in self._failed.get(client, ()) if at > self._clock() - WINDOW]
