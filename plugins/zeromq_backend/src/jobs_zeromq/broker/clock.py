"""The broker's clock: the Unix time of its start plus the elapsed time, so that it ignores jumps of the wall clock."""

from __future__ import annotations

import time

_PASSING = getattr(
    time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC
)  # CLOCK_BOOTTIME also counts the time during which the machine sleeps


class Clock:
    """A callable that returns the time in seconds."""

    def __init__(self) -> None:
        self._offset = time.time() - time.clock_gettime(_PASSING)

    def __call__(self) -> float:
        return self._offset + time.clock_gettime(_PASSING)
