"""The loop's share of the interpreter, beside a job that holds it for long stretches.

A thread that has got the interpreter keeps it for 5 ms if another one wants it; then it waits for a whole stretch of the
other's. The work at the beginning of such a job, the release of messages delivered ahead, takes many times 5 ms, and each
waits for a stretch. So, while stretches are long, any thread that has the interpreter may keep it for longer: a tenth of a
second, beside a job that keeps it for a second.
"""

from __future__ import annotations

import sys

LONG = 0.2
"""Seconds from which on a stretch is long."""

SHARE = 0.1
"""Seconds for which each thread may then keep the interpreter."""

CALM = 10.0
"""Seconds without a long stretch after which the interval is reset."""


class LongHolds:
    """The switch interval of the process: it changes `sys.setswitchinterval`, and resets it. One thread at a time."""

    def __init__(self) -> None:
        self._before = 0.0  # the original interval; 0 while it is unchanged
        self._last = 0.0

    def waited(self, until: float, now: float) -> None:
        """Note the end of a wait that was due at a certain time; if it is late, a job had the interpreter."""
        if now - until > LONG:
            self._last = now
            if not self._before and sys.getswitchinterval() < SHARE:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(SHARE)
        elif self._before and now - self._last > CALM:
            self.over()

    def over(self) -> None:
        """Reset the interval."""
        if self._before:
            sys.setswitchinterval(self._before)
            self._before = 0.0
