"""What is checked now and then, beside the requests: risks that change slowly, and take long to find."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from jobs_core.operating.attention import Finding

EVERY = 300.0
"""Seconds between two checks while pages are shown."""

PATIENCE = 0.1
"""Seconds for which a page waits for the first check."""

logger = logging.getLogger("jobs.web")


class Risks:
    """The findings of the last check. Any thread may use it; one thread at a time checks, and only if somebody asks."""

    def __init__(self, check: Callable[[], Sequence[Finding]]) -> None:
        self._check = check
        self._lock = threading.Lock()
        self._found: Sequence[Finding] = ()
        self._checked_at = float("-inf")
        self._thread: threading.Thread | None = None

    def get(self) -> Sequence[Finding]:
        """Return what was found last, and check anew if that is old. Blocks briefly if nothing was checked yet."""
        with self._lock:
            is_first = self._checked_at == float("-inf")
            if time.monotonic() - self._checked_at > EVERY and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, name="jobs-web-risks", daemon=True)
                self._thread.start()
            thread = self._thread
        if is_first and thread is not None:
            thread.join(PATIENCE)
        return self._found

    def forget(self) -> None:
        """Check anew when somebody asks: a user has changed something."""
        if self._checked_at != float("-inf"):
            self._checked_at = time.monotonic() - EVERY - 1

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self._found = tuple(self._check())
        except Exception:  # a broken plugin, for example: the page must not wait for it for ever
            logger.exception("the installation cannot be checked for risks: the next check is in %g s", EVERY)
        self._checked_at = began
