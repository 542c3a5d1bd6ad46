"""The operations for operators, on one store."""

from __future__ import annotations

import time
from collections.abc import Sequence

from jobs_core.backends.base import Backend, Counts, JobRecord, State
from jobs_core.backends.documents import Document
from jobs_core.backends.limits import Limit, LimitState

from . import advice
from .store import Store
from .transport.connection import COMMAND_TIMEOUT, ServerConnection
from .url import Target

LONGEST_FOLLOW = 5.0
"""Longest time, in seconds, that one command waits for a job's end, so that a dead connection is noticed."""


class RedisOperatorCalls(Backend):
    """The backend's methods for operators."""

    _target: Target
    _connection: ServerConnection
    _waiting: ServerConnection
    _store: Store

    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        return self._store.counts(topics)

    def get(self, job_id: str) -> JobRecord | None:
        return self._store.get(job_id)

    def browse(self, topic: str, state: State, limit: int, offset: int = 0) -> list[JobRecord]:
        return self._store.browse(topic, state, limit, offset)

    def topics(self) -> list[str]:
        return sorted(self._store.topics())

    def limits(self, most: int, names: Sequence[str] = ()) -> list[LimitState]:
        return self._store.limits(most, names)

    def override_limit(self, limit: str, definition: Limit | None) -> None:
        self._store.define_limits({limit: definition}, {}, override=True)

    def lines(self, topic: str, most: int) -> list[tuple[str, int]]:
        return self._store.deepest_keys(topic, most)

    def requeue(self, job_ids: Sequence[str]) -> int:
        return self._store.requeue(job_ids)

    def discard(self, job_ids: Sequence[str], reason: str) -> int:
        return self._store.discard(job_ids, reason)

    def purge(self, topic: str, state: State) -> int:
        return self._store.purge(topic, state)

    def purge_inlet(self, topic: str) -> int:
        return self._store.purge_inlet(topic)

    def drop(self, job_ids: Sequence[str]) -> int:
        return self._store.drop(job_ids)

    def pause(self, topic: str) -> None:
        self._store.pause(topic)

    def resume(self, topic: str) -> None:
        self._store.resume(topic)

    def paused(self) -> frozenset[str]:
        return self._store.paused()

    def cancel(self, job_id: str, *, force: bool = False) -> State:
        return self._store.cancel(job_id, force=force)

    def documents(self, kind: str, most: int, after: str = "") -> list[Document]:
        return self._store.documents(kind, most, after)

    def document(self, kind: str, name: str) -> Document | None:
        return self._store.document(kind, name)

    def document_versions(self, kinds: Sequence[str]) -> dict[str, int]:
        return self._store.document_versions(kinds)

    def fetch_result(self, job_id: str, timeout: float) -> JobRecord | None:
        return followed(self._store, self._waiting, job_id, timeout)

    def advice(self) -> list[str]:
        return advice.advice(self._target, self._connection)


def followed(store: Store, waiting: ServerConnection, job_id: str, timeout: float) -> JobRecord | None:
    """Wait for a job's end on a connection of its own; see `Operable.fetch_result`."""
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        pause = min(LONGEST_FOLLOW, max(0.0, left))
        record = store.follow(job_id, pause + 1.0)
        if record is not None or left <= 0:
            return record
        end = store.keys.end(job_id)
        # The list keeps its entry, so that every process that waits for this job is told.
        waiting.call("BLMOVE", end, end, "LEFT", "LEFT", f"{max(pause, 0.001):.3f}", timeout=pause + COMMAND_TIMEOUT)
