"""Delete the blobs of jobs that have ended, on a thread of its own: a store may be far away."""

from __future__ import annotations

import contextlib
import threading
from collections import deque

from ..errors import PayloadStoreUnavailable
from .store import PayloadStore

BATCH = 500


class Discarder:
    """Deletes blobs by name, in batches. What cannot be deleted is left to the cleaning."""

    def __init__(self, store: PayloadStore) -> None:
        self._store = store
        self._names: deque[str] = deque()
        self._lock = threading.Lock()
        self._work = threading.Event()
        self._idle = threading.Event()
        self._thread: threading.Thread | None = None

    def discard(self, names: list[str]) -> None:
        """Have blobs deleted soon. Called by: one thread. Blocks: never."""
        with self._lock:
            self._names.extend(names)
            self._idle.clear()
        self._work.set()
        if self._thread is None:  # a daemon: a store that does not answer must not keep a worker alive
            self._thread = threading.Thread(target=self._main, name="jobs-payloads", daemon=True)
            self._thread.start()

    def flush(self, timeout: float) -> None:
        """Wait until all is deleted, or the time is over."""
        if self._thread is not None:
            self._idle.wait(timeout)

    def _main(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            while self._names:
                batch = [self._names.popleft() for _ in range(min(BATCH, len(self._names)))]
                with contextlib.suppress(PayloadStoreUnavailable):
                    self._store.delete(batch)
            with self._lock:
                if not self._names:
                    self._idle.set()
