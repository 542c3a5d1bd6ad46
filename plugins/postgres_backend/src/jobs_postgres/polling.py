"""Sleep without notifications: what takes the place of a listener behind a proxy that pools transactions.

Such a proxy lends a connection to the server for one transaction at a time, and nothing else arrives in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from jobs_core.backend_kit import SelfPipe

from .listener import LONGEST_SLEEP, Listener
from .url import Target

SHORTEST_SLEEP = 0.1
"""Seconds from the first look that finds nothing to the next one; each pause is twice as long as the one before."""


T = TypeVar("T")


class Poller:
    """Says when to look again, and sleeps until then or until an interrupt. One thread uses it, except for `interrupt`."""

    channel = ""
    """No channel: nothing is notified."""

    def __init__(self) -> None:
        self._interrupts = SelfPipe()
        self._pause = SHORTEST_SLEEP
        self._next = 0.0

    def connect(self) -> bool:
        return False

    def close(self) -> None:
        self._interrupts.close()

    def interrupt(self) -> None:
        """End the current sleep, or the next. Never blocks."""
        self._interrupts.wake()

    def sleep(self, seconds: float) -> tuple[list[bytes], bool]:
        """Sleep for `seconds` at most; return that nothing was notified, and whether it was interrupted."""
        return [], self._interrupts.wait(seconds)

    def sleep_until_next(self, seconds: float) -> bool:
        """Sleep until it is time to look, for `seconds` at most; return whether to look now."""
        left = self._next - time.monotonic()
        if left <= 0:
            return True
        interrupted = self._interrupts.wait(min(left, seconds))
        return not interrupted and left <= seconds

    def looked(self, due: float | None = None) -> None:
        """Note a look that found nothing, but perhaps that something is due in so many seconds."""
        self._next = time.monotonic() + (self._pause if due is None else min(self._pause, due))
        self._pause = min(2 * self._pause, LONGEST_SLEEP)

    def found(self) -> None:
        """Note that there was something: where jobs arrive, look more often."""
        self._pause, self._next = SHORTEST_SLEEP, 0.0


def look_until(deadline: float, look: Callable[[], tuple[bool, T | None]]) -> T | None:
    """Look less and less often, until there is an answer (True, answer), or the deadline."""
    pause = SHORTEST_SLEEP
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        found, answer = look()
        if found:
            return answer
        pause = min(2 * pause, LONGEST_SLEEP)
    return None


def listener_for(target: Target, name: str) -> Listener | Poller:
    """Return how a process learns of what happens: it listens, unless a proxy that pools transactions is in between."""
    return Poller() if target.pooling else Listener(target, name)
