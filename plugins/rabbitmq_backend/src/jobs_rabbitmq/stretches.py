"""Beside a job that holds the interpreter for long stretches: the loop's share of it.

A thread that has got the interpreter keeps it for 5 ms if another one wants it; then it waits for a whole stretch of the
other's. What there is to do when such a job begins, giving back what was delivered ahead, takes many times 5 ms, each for a
stretch. So, while stretches are long, whoever has the interpreter may keep it for longer: a tenth of a second, beside a
job that keeps it for a second.
"""

from __future__ import annotations

import sys

LONG = 0.2
"""A stretch from this length on is long, seconds."""

SHARE = 0.1
"""What everybody may keep the interpreter for then, seconds."""

CALM = 10.0
"""After so many seconds without a long stretch all is as before."""


class Stretches:
    """For the process: it changes `sys.setswitchinterval`, and back. One thread at a time."""

    def __init__(self) -> None:
        self._before = 0.0  # what the interval was; 0 while it is unchanged
        self._last = 0.0

    def waited(self, until: float, now: float) -> None:
        """A wait that was to end at a time has ended; if it was late, a job had the interpreter."""
        if now - until > LONG:
            self._last = now
            if not self._before and sys.getswitchinterval() < SHARE:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(SHARE)
        elif self._before and now - self._last > CALM:
            self.over()

    def over(self) -> None:
        """Change it back."""
        if self._before:
            sys.setswitchinterval(self._before)
            self._before = 0.0
