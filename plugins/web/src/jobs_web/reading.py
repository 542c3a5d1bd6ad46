"""The newest snapshot of the backend, which all pages share, and which is read beside the requests.

Counting millions of jobs takes some backends longer than a page may take. So a page waits for a reading only briefly, and then
shows what the one before it found, with its age. One thread at a time reads, however many visits and watchers there are, and
for a fifth of the time at most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from jobs_core.operating.snapshot import Snapshot

FRESH = 1.0
"""Seconds for which all visits share one snapshot."""

SHARE = 4
"""How many times as long as reading a snapshot took it is shared at least, so that a fifth of the time goes into reading."""

SHARED = 5.0
"""Most seconds for which a snapshot is shared because it took long to read."""

PATIENCE = 0.03
"""Seconds for which a page waits for a newer snapshot than the last one."""

OLD = 30.0
"""Seconds after which the last snapshot is shown only if there is none after LONG_PATIENCE."""

LONG_PATIENCE = 5.0
"""Seconds for which a page waits instead of showing an old snapshot, or one from before a change by a user."""


class Latest:
    """The newest snapshot. Any thread may use it."""

    def __init__(self, take: Callable[[], Snapshot]) -> None:
        self._take = take
        self._ended = threading.Condition()  # told of the end of each reading
        self._reader: threading.Thread | None = None
        self._number = 0  # of the last reading that has begun
        self._last = 0  # number of the last reading that has ended
        self._needed = 0  # number of the first reading that saw the last change by a user
        self._found: Snapshot | None = None
        self._found_by = 0  # number of the reading
        self._failed: Exception | None = None  # the error of the last reading
        self._fresh_until = self._good_until = 0.0

    def get(self, patience: float | None = PATIENCE) -> Snapshot:
        """Return the newest snapshot, after waiting up to `patience` seconds for a fresh one; None: for as long as it takes.

        Waits for longer if there is no other than an old one. Raises what the last reading raised.
        """
        with self._ended:
            now = time.monotonic()
            if now >= self._fresh_until or self._found_by < self._needed:
                wanted = max(self._last + 1, self._needed)
                self._begin()
                if self._found is None:
                    patience = None
                elif patience is not None and (now > self._good_until or self._found_by < self._needed):
                    patience = LONG_PATIENCE
                self._ended.wait_for(lambda: self._last >= wanted, patience)
            if self._failed is not None:
                raise self._failed
            assert self._found is not None, "a reading finds something, or fails"
            return self._found

    def forget(self) -> None:
        """Note that a user has changed something: what is shown from now on was read afterwards."""
        with self._ended:
            self._needed = self._number + 1

    def begin(self) -> None:
        """Read, without waiting for it, so that the first page does not have to."""
        with self._ended:
            self._begin()

    def _begin(self) -> None:
        """Begin a reading if none is under way. A forked child has no thread of its parent."""
        if self._reader is None or not self._reader.is_alive():
            self._number += 1
            self._reader = threading.Thread(target=self._read, name="jobs-web-reading", daemon=True)
            self._reader.start()

    def _read(self) -> None:
        again = True
        while again:
            began, found, failed = time.monotonic(), None, None
            try:
                found = self._take()
            except Exception as error:  # raised where it is waited for
                failed = error
            with self._ended:
                now = time.monotonic()
                self._last, self._failed = self._number, failed
                self._fresh_until = now + max(FRESH, min(SHARED, SHARE * (now - began)))
                if found is not None:
                    self._found, self._found_by, self._good_until = found, self._number, self._fresh_until + OLD
                again = self._needed > self._number
                if again:
                    self._number += 1
                else:
                    self._reader = None
                self._ended.notify_all()
