"""A stopwatch that stands still with the machine."""

from __future__ import annotations

import threading
import time

TURN = 0.01
LONGEST = 0.05
"""Of a turn that took longer, only this much counts: neither this thread nor what is measured ran in the rest."""


class Stopwatch:
    """Seconds since it was made, without those in which the machine stood still or had no CPU time for this process.

    On an idle machine these are seconds of real time, so that a promise in seconds can be tested on a busy one as well.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stopwatch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        at = time.monotonic()
        while not self._stopped.wait(TURN):
            before, at = at, time.monotonic()
            self.seconds += min(at - before, LONGEST)

    def stop(self) -> float:
        """Stop; return the seconds."""
        self._stopped.set()
        self._thread.join()
        return self.seconds
