"""A connection to a memory store."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from ..base import ALL_FEATURES, Answer, BackendOptions, Checkpoint, Delivery, Heartbeat, Housekept, Outgoing, Settlement
from ..documents import Guard
from ..flows import Part
from ..notes import Note
from ..statistics import StatisticsRow, check
from .operators import MemoryOperatorCalls
from .store import MemoryStore

_stores: dict[tuple[str, str], MemoryStore] = defaultdict(MemoryStore)  # by name and prefix
_stores_lock = threading.Lock()


def forget(url: str) -> None:
    """Drop the store of a URL, so that the next backend there starts empty; for tests."""
    with _stores_lock:
        for key in [key for key in _stores if key[0] == _name(url)]:
            del _stores[key]


def _name(url: str) -> str:
    return url.partition("://")[2]


class MemoryBackend(MemoryOperatorCalls):
    """A connection to a store in this process; see the package's docstring."""

    name = "memory"
    features = ALL_FEATURES - {"multiprocess", "transactions"}
    wakes_to_cancel = True

    def __init__(self, url: str, options: BackendOptions) -> None:
        with _stores_lock:
            store = _stores[_name(url), options.prefix]
        super().__init__(store, options)
        self._owner = ""
        self._interrupted = False

    def open(self, owner: str | None) -> None:
        self._owner = owner or ""
        if owner:
            with self.store.lock:
                self.store.open_owner(self._moment(), owner)

    def close(self) -> None:
        owner, self._owner = self._owner, ""
        if owner:
            with self.store.lock:
                self.store.release_owner(self._moment(), owner, (), b"", crash=False)

    def push(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        with self.store.lock:
            return self.store.push(self._moment(), messages, request)

    def push_guarded(self, messages: Sequence[Outgoing], request: str, guard: Guard) -> Mapping[str, str] | None:
        with self.store.lock:
            return self.store.push_guarded(self._moment(), messages, request, guard)

    def push_part(self, part: Part, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        with self.store.lock:
            return self.store.push_part(self._moment(), part, messages, request)

    def reserve(self, topics: Sequence[str], limit: int, request: str) -> list[Delivery]:
        with self.store.lock:
            deliveries = self.store.reserve(self._moment(), self._owner, topics, limit, request, self.startable)
            self.passed_over = self.store.passed_over
            return deliveries

    def claim(self, job_ids: Sequence[str], request: str) -> list[Delivery]:
        with self.store.lock:
            return self.store.claim(self._moment(), self._owner, job_ids, request)

    def wait(self, topics: Sequence[str], timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        with self.store.lock:
            while True:
                if self._interrupted:
                    self._interrupted = False
                    return False
                if self.store.is_called(self._owner):
                    self.called = True
                    return False
                self.store.moment(self._options.now())
                due = self.store.next_due() if topics else None
                until_due = float("inf") if due is None else due - self._options.now()
                if until_due <= 0 or (topics and self.store.members.work) or any(map(self.store.has_ready, topics)):
                    return True
                left = min(deadline - time.monotonic(), until_due)
                if left <= 0:
                    return False
                self.store.changed.wait(left)

    def interrupt(self) -> None:
        self._interrupted = True
        with self.store.lock:
            self.store.changed.notify_all()

    def settle(self, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        with self.store.lock:
            return self.store.settle(self._moment(), self._owner, settlements, request)

    def checkpoint(self, checkpoints: Sequence[Checkpoint]) -> None:
        with self.store.lock:
            self.store.checkpoint(self._owner, checkpoints)

    def note(self, notes: Sequence[Note]) -> None:
        with self.store.lock:
            self.store.tell(self._owner, notes)

    def add_statistics(self, rows: Sequence[StatisticsRow], request: str) -> int:
        check(rows)
        with self.store.lock:
            return self.store.statistics.add(rows, request, self._options.now())

    def heartbeat(self) -> Heartbeat:
        with self.store.lock:
            heartbeat = self.store.heartbeat(self._moment(), self._owner)
            self.called = False
        return heartbeat

    def release_owner(self, owner: str, started: Collection[str], report: bytes, ran: Collection[str] = ()) -> int:
        with self.store.lock:
            return self.store.release_owner(self._moment(), owner, started, report, crash=len(started) == 1, ran=ran)

    def housekeep(self, limit: int) -> Housekept:
        with self.store.lock:
            return self.store.housekeep(self._moment(), limit)
