"""Places for those who wait: a bounded number of streams and long polls, of which no user takes all."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterator

from jobs_core.units import count

from .errors import Refused


class Places:
    """Who holds how many places. Any thread may use it.

    A user may hold as many as are left for others: the first one half of them, a second one a quarter. So a user with a hundred
    open pages is served, and nobody finds all places taken by one user. `what` names what is held, such as "open stream".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._held: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Return how many places are held."""
        return self._held.total()

    def check(self, user: str, most: int) -> None:
        """Raise Refused if a user may not take one more of `most` places."""
        left = most - self.used
        if left <= 0:
            raise Refused(503, f"this process already has {count(most, self._what)}: try again later, or ask without waiting")
        if self._held[user] >= left:
            raise Refused(429, f"{user} already has {count(self._held[user], self._what)}, and the rest is for other users")

    @contextlib.contextmanager
    def taken(self, user: str, most: int) -> Iterator[None]:
        """Hold a place. Raises Refused."""
        with self._lock:
            self.check(user, most)
            self._held[user] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[user] -= 1
                self._held += collections.Counter()  # forgets users without a place
