"""The broker's clock: Unix time at its start, and from then on the elapsed time, however the wall clock jumps."""

from __future__ import annotations

import time

_PASSING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # continues while the machine sleeps, as real time does


class Clock:
    """A callable that returns the time in seconds."""

    def __init__(self) -> None:
        self._offset = time.time() - time.clock_gettime(_PASSING)

    def __call__(self) -> float:
        return self._offset + time.clock_gettime(_PASSING)
