"""The operations for operators, on one store."""

from __future__ import annotations

import time
from collections.abc import Sequence

from jobs_core.backends.base import Backend, Counts, JobRecord, State
from jobs_core.backends.documents import Document
from jobs_core.backends.flows import FlowStatus, MemberStatus
from jobs_core.backends.letters import DeadGroup
from jobs_core.backends.limits import Limit, LimitState
from jobs_core.backends.statistics import StatisticsRow

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

    def find_ids(self, prefix: str, limit: int) -> list[str]:
        found = super().find_ids(prefix, limit)
        return [*found, *self._store.find_done(prefix, limit - len(found))]

    def topics(self) -> list[str]:
        return sorted(self._store.topics())

    def limits(self, most: int, names: Sequence[str] = ()) -> list[LimitState]:
        return self._store.limits(most, names)

    def override_limit(self, limit: str, definition: Limit | None) -> None:
        self._store.define_limits({limit: definition}, {}, override=True)

    def lines(self, topic: str, most: int) -> list[tuple[str, int]]:
        return self._store.deepest_keys(topic, most)

    def dead_groups(self, topics: Sequence[str], most: int) -> list[DeadGroup]:
        return self._store.dead_groups(topics, most)

    def dead_in_group(self, topic: str, group: str, limit: int, offset: int = 0) -> list[JobRecord]:
        return self._store.dead_in_group(topic, group, limit, offset)

    def amend(self, job_id: str, was: bytes, payload: bytes, topic: str = "") -> bool:
        return self._store.amend(job_id, was, payload, topic)

    def requeue(self, job_ids: Sequence[str]) -> int:
        return self._store.requeue(job_ids)

    def discard(self, job_ids: Sequence[str], reason: str) -> int:
        return self._store.discard(job_ids, reason)

    def purge(self, topic: str, state: State) -> int:
        return self._store.purge(topic, state)

    def purge_inlet(self, topic: str) -> int:
        return self._store.purge_inlet(topic)

    def purge_done(self, topic: str, limit: int, older: float = 0.0) -> int:
        return self._store.purge_done(topic, limit, older)

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

    def statistics(
        self, span: int, since: float, most: int, *, topic: str | None = None, after: StatisticsRow | None = None
    ) -> list[StatisticsRow]:
        return self._store.statistics(span, since, most, topic, after)

    def documents(self, kind: str, most: int, after: str = "") -> list[Document]:
        return self._store.documents(kind, most, after)

    def document(self, kind: str, name: str) -> Document | None:
        return self._store.document(kind, name)

    def document_versions(self, kinds: Sequence[str]) -> dict[str, int]:
        return self._store.document_versions(kinds)

    def fetch_result(self, job_id: str, timeout: float) -> JobRecord | None:
        return followed(self._store, self._waiting, job_id, timeout)

    def flow(self, flow_id: str) -> FlowStatus | None:
        return next(iter(self._store.flow([flow_id])), None)

    def flows(self, most: int, offset: int = 0) -> list[FlowStatus]:
        return self._store.flows(most, offset)

    def flow_members(self, flow_id: str, most: int, offset: int = 0, *, dead: bool = False) -> list[MemberStatus]:
        return self._store.flow_members(flow_id, most, offset, dead=dead)

    def flow_results(self, flow_id: str, job_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        return self._store.flow_results(flow_id, job_ids)

    def cancel_flow(self, flow_id: str, *, finale: bool = False) -> bool:
        return self._store.cancel_flow(flow_id, finale=finale)

    def retry_flow(self, flow_id: str) -> int:
        return self._store.retry_flow(flow_id)

    def wait_flow(self, flow_id: str, timeout: float) -> FlowStatus | None:
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            pause = min(LONGEST_FOLLOW, max(0.0, left))
            if self._store.follow_flow(flow_id, pause + 1.0):
                return self.flow(flow_id)
            if left <= 0:
                return None
            _await_end(self._waiting, self._store.keys.flow_end(flow_id), pause)

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
        _await_end(waiting, store.keys.end(job_id), pause)


def _await_end(waiting: ServerConnection, end: str, pause: float) -> None:
    """Wait up to `pause` seconds for an entry of a list. The list keeps it, so that every process that waits is told."""
    waiting.call("BLMOVE", end, end, "LEFT", "LEFT", f"{max(pause, 0.001):.3f}", timeout=pause + COMMAND_TIMEOUT)
