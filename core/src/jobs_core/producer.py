"""The producing side of a process: one connection, shared by all its threads.

Concurrent pushes are combined: each thread lays its messages down, and whichever holds the connection sends
everybody's in one push (group commit, as databases do). A fork leaves parent and child with a connection each.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from .errors import BackendUnavailable
from .failpoints import failpoint
from .ids import new_token

if TYPE_CHECKING:
    from .backends.base import Backend, Outgoing

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0


class _Batch:
    """One caller's messages, and what became of them."""

    __slots__ = ("conflicts", "deadline", "error", "messages", "sent")

    def __init__(self, messages: Sequence[Outgoing], deadline: float) -> None:
        self.messages = messages
        self.deadline = deadline
        self.sent = False
        self.conflicts: Mapping[str, str] = {}
        self.error: Exception | None = None


class Producer:
    """Pushes through one backend connection that is opened when first needed. Any thread may call `push`."""

    def __init__(self, make_backend: Callable[[], Backend]) -> None:
        self._make_backend = make_backend
        self._backend: Backend | None = None
        self._connection = threading.Lock()
        self._waiting: deque[_Batch] = deque()

    def push(self, messages: Sequence[Outgoing], timeout: float) -> Mapping[str, str]:
        """Store messages durably, together with what other threads push meanwhile; return conflicts by id.

        Tries for `timeout` seconds, then raises BackendUnavailable: the messages may have arrived all the
        same, if the broker went away after it had them.
        """
        batch = _Batch(messages, time.monotonic() + timeout)
        self._waiting.append(batch)
        if not self._connection.acquire(timeout=timeout):
            raise self._gave_up(batch, BackendUnavailable("another thread's push is still waiting for the backend"))
        try:
            if not batch.sent:
                self._send_waiting()
        finally:
            self._connection.release()
        if batch.error:
            raise batch.error
        return batch.conflicts

    def close(self) -> None:
        """Disconnect; the next push connects again."""
        with self._connection:
            backend, self._backend = self._backend, None
        if backend:
            backend.close()

    def _send_waiting(self) -> None:
        """Send what everybody has laid down, as one push under one request id until it is answered."""
        batches = [self._waiting.popleft() for _ in range(len(self._waiting))]
        request, pauses = new_token(), 0
        while batches:
            try:
                conflicts = self._push([message for batch in batches for message in batch.messages], request)
            except BackendUnavailable as error:
                now = time.monotonic()
                for batch in batches:
                    if batch.deadline <= now:
                        batch.sent, batch.error = True, self._gave_up(batch, error)
                batches = [batch for batch in batches if not batch.sent]
                ceiling = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**pauses)
                pauses += 1
                if batches:
                    time.sleep(max(0.0, min(random.uniform(0, ceiling), max(b.deadline for b in batches) - now)))
            except Exception as error:
                for batch in batches:
                    batch.sent, batch.error = True, error
                return
            else:
                for batch in batches:
                    batch.sent, batch.conflicts = True, conflicts
                return

    def _push(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        backend = self._backend
        if backend is None:
            backend = self._make_backend()
            backend.open(None)
            self._backend = backend
        failpoint("push.before")
        conflicts = backend.push(messages, request)
        failpoint("push.after")
        return conflicts

    def _gave_up(self, batch: _Batch, error: BackendUnavailable) -> BackendUnavailable:
        with contextlib.suppress(ValueError):  # not there: in another thread's hands, and may still arrive
            self._waiting.remove(batch)
        return BackendUnavailable(f"gave up after enqueue_timeout; the job may or may not have been enqueued: {error}")
