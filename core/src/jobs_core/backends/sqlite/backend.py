"""The `Backend` for a queue file; each method runs one transaction, with functions of the other modules of this package."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping, Sequence

from ...errors import BackendError, BackendUnavailable, OwnerLost
from ..base import (
    FEATURES,
    Answer,
    BackendOptions,
    BindsKeys,
    Checkpoint,
    Counts,
    Delivery,
    Heartbeat,
    Housekept,
    Outgoing,
    Settlement,
)
from ..documents import Guard
from ..flows import Part
from ..limits import Limit, Lines
from ..notes import Note
from ..statistics import StatisticsRow, check
from . import documents as documents_of
from . import flows, housekeeping, lines, owners, queue, requests, settling, views
from . import notes as notes_of
from . import statistics as statistics_of
from .connection import Connection
from .operators import SqliteOperatorCalls
from .url import parse_url

LONGEST_WAIT = 1.0
"""Seconds after which a waiting worker reads the tables again, in case a process died after it had read a wake-up byte."""


class SqliteBackend(SqliteOperatorCalls, BindsKeys):
    """One connection to a queue file."""

    name = "sqlite"
    # A file belongs to one application.
    features = (FEATURES - {"prefix"}) | {
        "checkpoints", "limits", "fairness", "flows", "documents", "guards", "notes", "history",
        "dead_groups", "amend", "move", "statistics",
    }  # fmt: skip
    wakes_to_cancel = True

    def __init__(self, url: str, options: BackendOptions) -> None:
        path, durability = parse_url(url, options.base_dir)
        super().__init__(Connection(path, options, durability=durability))
        self._owner = ""

    def open(self, owner: str | None) -> None:
        self._connection.open()
        self._owner = owner or ""
        if owner:
            try:
                if self._connection.wake_up is not None:
                    with self._connection.translated():
                        self._connection.wake_up.listen_for(owner)
                with self._connection.transaction(durable=False) as tx:
                    owners.register(tx, owner)
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        if self._owner and self._connection.is_open:
            with contextlib.suppress(BackendError), self._connection.transaction(durable=False) as tx:
                owners.release(tx, self._owner, (), b"", crash=False)
        self._owner = ""
        self._connection.close()

    def push(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        with self._connection.transaction() as tx:
            (conflicts,) = requests.push(tx, [requests.Push(messages, request)])
        return conflicts

    def push_guarded(self, messages: Sequence[Outgoing], request: str, guard: Guard) -> Mapping[str, str] | None:
        with self._connection.transaction() as tx:
            if requests.recall(tx, request) is None and not documents_of.holds(tx, guard):
                return None
            (conflicts,) = requests.push(tx, [requests.Push(messages, request)])
        return conflicts

    def push_part(self, part: Part, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        with self._connection.transaction() as tx:
            return flows.push_part(tx, part, messages, request)

    def cancel_flow(self, flow_id: str, *, finale: bool = False) -> bool:
        with self._connection.transaction() as tx:
            return flows.cancel_flow(tx, flow_id, finale=finale)

    def retry_flow(self, flow_id: str) -> int:
        with self._connection.transaction() as tx:
            return flows.retry_flow(tx, flow_id)

    def push_loosely(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        with self._connection.transaction() as tx:
            (conflicts,) = requests.push(tx, [requests.Push(messages, request)], loosely=True)
        return conflicts

    def bind(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        with self._connection.transaction() as tx:
            return queue.bind(tx, messages)

    def define_limits(self, limits: Mapping[str, Limit], topics: Mapping[str, Lines]) -> None:
        with self._connection.transaction() as tx:
            lines.define(tx, limits, topics)

    def reserve(self, topics: Sequence[str], limit: int, request: str) -> list[Delivery]:
        with self._connection.transaction(durable=False) as tx:
            (deliveries,) = requests.reserve(tx, [requests.Reserve(self._owner, topics, limit, request, self.startable)])
            self.passed_over = bool(tx.passed_over)
            if isinstance(deliveries, OwnerLost):
                raise deliveries
        return deliveries

    def claim(self, job_ids: Sequence[str], request: str) -> list[Delivery]:
        with self._connection.transaction(durable=False) as tx:
            return requests.claim(tx, self._owner, job_ids, request)

    def wait(self, topics: Sequence[str], timeout: float) -> bool:
        wake_up = self._connection.wake_up
        if wake_up is None:
            raise BackendUnavailable(f"{self._connection.path} is not open")
        if not topics:
            self.called = wake_up.wait(timeout, for_topics=False)[2] or self.called
            return False
        deadline = time.monotonic() + timeout
        with self._connection.translated():
            wake_up.listen(topics)
        while True:
            with self._connection.reading() as db:
                ready, due = views.look(db, topics, self._connection.options.now())
            if ready or due <= 0:
                return True
            left = min(deadline - time.monotonic(), LONGEST_WAIT, due)
            woken, interrupted, called = wake_up.wait(left)
            self.called = called or self.called
            if woken:
                return True
            if interrupted or called or time.monotonic() >= deadline:
                return False

    def interrupt(self) -> None:
        wake_up = self._connection.wake_up
        if wake_up is not None:
            wake_up.interrupt()

    def settle(self, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        with self._connection.transaction(durable=False) as tx:
            (answers,) = requests.settle(tx, [requests.Settle(self._owner, settlements, request)])
        return answers

    def checkpoint(self, checkpoints: Sequence[Checkpoint]) -> None:
        with self._connection.transaction(durable=False) as tx:
            settling.checkpoint(tx, self._owner, checkpoints)

    def note(self, notes: Sequence[Note]) -> None:
        with self._connection.transaction(durable=False) as tx:
            notes_of.tell(tx, self._owner, notes)

    def add_statistics(self, rows: Sequence[StatisticsRow], request: str) -> int:
        check(rows)
        with self._connection.transaction(durable=False) as tx:
            return statistics_of.add(tx, rows, request)

    def heartbeat(self) -> Heartbeat:
        with self._connection.transaction(durable=False) as tx:
            heartbeat = owners.heartbeat(tx, self._owner)
        self.called = False
        return heartbeat

    def release_owner(self, owner: str, started: Collection[str], report: bytes, ran: Collection[str] = ()) -> int:
        with self._connection.transaction(durable=False) as tx:
            return owners.release(tx, owner, started, report, crash=len(started) == 1, ran=ran)

    def housekeep(self, limit: int) -> Housekept:
        with self._connection.transaction(durable=False) as tx:
            kept = housekeeping.housekeep(tx, limit)
        with self._connection.reading() as db:
            housekeeping.shrink(db)
        return kept

    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        with self._connection.snapshot() as db:
            return views.counts(db, topics, self._connection.options.now())
