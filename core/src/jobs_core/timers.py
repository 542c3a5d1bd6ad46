"""Timers for an event loop: callbacks, ordered by the time at which they are due."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

Callback: TypeAlias = "Callable[[], object]"


class Timer:
    """A callback to be called once, at a given time of the monotonic clock, unless it is cancelled."""

    __slots__ = ("at", "callback")

    def __init__(self, at: float, callback: Callback) -> None:
        self.at: float = at
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Timers:
    """The timers of one loop, which sleeps for `pause` and then calls all callbacks of `due`. One thread at a time."""

    def __init__(self) -> None:
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def after(self, seconds: float, callback: Callback) -> Timer:
        """Have `callback` called once, after `seconds`."""
        timer = Timer(time.monotonic() + max(0.0, seconds), callback)
        heapq.heappush(self._timers, (timer.at, next(self._order), timer))
        return timer

    def pause(self) -> float | None:
        """Return the seconds until the next timer is due; None if there is none."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def due(self) -> Iterator[Callback]:
        """Yield the callbacks that are due now, except those that an earlier callback cancels."""
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                yield timer.callback
