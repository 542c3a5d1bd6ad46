"""The broker's clock: Unix time at its start, and from then on what really passed, however the wall clock jumps."""

from __future__ import annotations

import time

_PASSING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps, as the world does


class Clock:
    """Call it for the time, seconds."""

    def __init__(self) -> None:
        self._offset = time.time() - time.clock_gettime(_PASSING)

    def __call__(self) -> float:
        return self._offset + time.clock_gettime(_PASSING)
