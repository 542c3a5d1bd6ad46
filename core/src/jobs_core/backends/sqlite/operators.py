"""Operator calls on a queue file: the methods of the backend, and functions for use in a caller's transaction."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..base import Backend, JobRecord, State
from ..documents import Document, check
from ..flows import FlowStatus, MemberStatus
from ..letters import DeadGroup
from ..limits import Limit, LimitState
from ..statistics import StatisticsRow
from . import documents as documents_of
from . import flow_views, letters, members, notes, queue, removal, views
from . import limits as limits_of
from . import lines as lines_of
from . import statistics as statistics_of
from .connection import Connection, Transaction

T = TypeVar("T")

PURGED_AT_ONCE = 500
_QUEUED = (State.READY, State.LIMITED, State.SCHEDULED, State.WAITING)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.020


class SqliteOperatorCalls(Backend):
    """The calls of operators, a base class of `SqliteBackend`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, job_id: str) -> JobRecord | None:
        with self._connection.reading() as db:
            return views.get(db, job_id, self._connection.options.now())

    def browse(self, topic: str, state: State, limit: int, offset: int = 0) -> list[JobRecord]:
        with self._connection.reading() as db:
            return views.browse(db, topic, state, limit, offset, self._connection.options.now())

    def find_ids(self, prefix: str, limit: int) -> list[str]:
        with self._connection.reading() as db:
            return views.find_ids(db, prefix, limit, self._connection.options.now())

    def topics(self) -> list[str]:
        with self._connection.snapshot() as db:
            return views.topics(db)

    def requeue(self, job_ids: Sequence[str]) -> int:
        with self._connection.transaction() as tx:
            return sum(requeue(tx, job_id) for job_id in job_ids)

    def dead_groups(self, topics: Sequence[str], most: int) -> list[DeadGroup]:
        with self._connection.snapshot() as db:
            return views.dead_groups(db, topics, most)

    def dead_in_group(self, topic: str, group: str, limit: int, offset: int = 0) -> list[JobRecord]:
        with self._connection.snapshot() as db:
            return views.dead_in_group(db, topic, group, limit, offset, self._connection.options.now())

    def amend(self, job_id: str, was: bytes, payload: bytes, topic: str = "") -> bool:
        with self._connection.transaction() as tx:
            return letters.amend(tx, job_id, was, payload, topic)

    def discard(self, job_ids: Sequence[str], reason: str) -> int:
        with self._connection.transaction() as tx:
            return sum(discard(tx, job_id, reason) for job_id in job_ids)

    def purge(self, topic: str, state: State) -> int:
        deleted = 0
        while True:
            with self._connection.transaction() as tx:
                some = purge_some(tx, topic, state)
            deleted += some
            if some < PURGED_AT_ONCE:
                return deleted

    def purge_done(self, topic: str, limit: int, older: float = 0.0) -> int:
        with self._connection.transaction() as tx:
            return notes.purge_done(tx, topic, limit, older)

    def drop(self, job_ids: Sequence[str]) -> int:
        with self._connection.transaction() as tx:
            return drop(tx, job_ids)

    def pause(self, topic: str) -> None:
        with self._connection.transaction() as tx:
            pause(tx, topic)

    def resume(self, topic: str) -> None:
        with self._connection.transaction() as tx:
            resume(tx, topic)

    def paused(self) -> frozenset[str]:
        with self._connection.reading() as db:
            return views.paused(db)

    def cancel(self, job_id: str, *, force: bool = False) -> State:
        with self._connection.transaction() as tx:
            return cancel(tx, job_id, force=force)

    def limits(self, most: int, names: Sequence[str] = ()) -> list[LimitState]:
        with self._connection.snapshot() as db:
            return limits_of.states(db, most, names, self._connection.options.now())

    def override_limit(self, limit: str, definition: Limit | None) -> None:
        with self._connection.transaction() as tx:
            lines_of.override(tx, limit, definition)

    def lines(self, topic: str, most: int) -> list[tuple[str, int]]:
        with self._connection.snapshot() as db:
            return views.lines(db, topic, most)

    def documents(self, kind: str, most: int, after: str = "") -> list[Document]:
        with self._connection.snapshot() as db:
            return documents_of.listed(db, kind, most, after, self._connection.options.now())

    def document(self, kind: str, name: str) -> Document | None:
        with self._connection.snapshot() as db:
            return documents_of.get(db, kind, name, self._connection.options.now())

    def document_versions(self, kinds: Sequence[str]) -> dict[str, int]:
        with self._connection.snapshot() as db:
            return documents_of.versions(db, kinds)

    def put_document(
        self, kind: str, name: str, data: bytes, request: str, *, expected: int | None = None, ttl: float | None = None
    ) -> int | None:
        check(kind, name, data, ttl)
        with self._connection.transaction() as tx:
            return documents_of.put(tx, kind, name, data, request, expected, ttl)

    def delete_document(self, kind: str, name: str, request: str, *, expected: int | None = None) -> bool:
        with self._connection.transaction() as tx:
            return documents_of.delete(tx, kind, name, request, expected)

    def statistics(
        self, span: int, since: float, most: int, *, topic: str | None = None, after: StatisticsRow | None = None
    ) -> list[StatisticsRow]:
        with self._connection.snapshot() as db:
            return statistics_of.listed(db, span, since, most, topic, after)

    def fetch_result(self, job_id: str, timeout: float) -> JobRecord | None:
        def look(db: sqlite3.Connection) -> tuple[bool, JobRecord | None]:
            record = views.ended(db, job_id, self._connection.options.now())
            return record is not None, record

        return self._wait_for(look, timeout)

    def _wait_for(self, look: Callable[[sqlite3.Connection], tuple[bool, T | None]], timeout: float) -> T | None:
        """Look at the tables until they have the answer (True, answer); return None after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        version, pause = -1, _FIRST_PAUSE
        while True:
            with self._connection.reading() as db:  # changes with commits of other processes; cheaper than a look at the tables
                latest = db.execute("PRAGMA data_version").fetchone()[0]
                if latest != version:
                    version = latest
                    found, answer = look(db)
                    if found:
                        return answer
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause = min(pause * 1.3, _LONGEST_PAUSE)

    def flow(self, flow_id: str) -> FlowStatus | None:
        with self._connection.reading() as db:
            return flow_views.status(db, flow_id, self._connection.options.now())

    def flows(self, most: int, offset: int = 0) -> list[FlowStatus]:
        with self._connection.reading() as db:
            return flow_views.listed(db, most, offset, self._connection.options.now())

    def flow_members(self, flow_id: str, most: int, offset: int = 0, *, dead: bool = False) -> list[MemberStatus]:
        with self._connection.snapshot() as db:
            return flow_views.members(db, flow_id, most, offset, self._connection.options.now(), dead=dead)

    def flow_results(self, flow_id: str, job_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        with self._connection.snapshot() as db:
            return flow_views.results(db, flow_id, job_ids, self._connection.options.max_message)

    def wait_flow(self, flow_id: str, timeout: float) -> FlowStatus | None:
        def look(db: sqlite3.Connection) -> tuple[bool, FlowStatus | None]:
            return flow_views.at_rest(db, flow_id, self._connection.options.now())

        return self._wait_for(look, timeout)


def requeue(tx: Transaction, job_id: str) -> int:
    """Make a dead or scheduled job ready now; return 1, or 0 if there is no such job."""
    sql = "SELECT seq, topic, dead_at FROM job WHERE id = ? AND (due > ? OR dead_at IS NOT NULL)"
    row = tx.db.execute(sql, (job_id, tx.now)).fetchone()
    if row is None:
        return 0
    seq, topic, dead_at = row
    if dead_at is not None:
        if seq < 0:
            return _retry(tx, seq)
        revive(tx, json.dumps([seq]))
    queue.make_ready(tx, [seq], tx.now)
    tx.wake.add(topic)
    return 1


def revive(tx: Transaction, seqs: str) -> None:
    """Make dead letters, given as a JSON array of sequence numbers, jobs that have never run."""
    forgotten = "dead_at = NULL, reason = NULL, attempt = 0, redeliveries = 0, crashes = 0, deferrals = 0"
    tx.db.execute(f"UPDATE job SET {forgotten} WHERE seq IN ({removal.THESE})", (seqs,))
    letters.forget(tx, seqs)


def _retry(tx: Transaction, seq: int) -> int:
    """Let a dead member run, or wait again if what it waits for has not ended; return 0 if its flow was cancelled."""
    if not members.can_retry(tx, seq):
        return 0
    seqs = json.dumps([seq])
    revive(tx, seqs)
    members.retry(tx, seqs)
    return 1


def discard(tx: Transaction, job_id: str, reason: str) -> int:
    """Move a ready or scheduled job to the dead letters; return 1, or 0 if there is no such job."""
    record = views.get(tx.db, job_id, tx.now)
    if record is None or record.state not in _QUEUED:
        return 0
    seq, errors = tx.db.execute("SELECT seq, errors FROM job WHERE id = ?", (record.id,)).fetchone()
    removal.dequeue(tx, json.dumps([seq]))
    removal.make_dead(tx, seq, reason, errors, 0)
    if seq < 0:
        members.end(tx, seq, members.Phase.DEAD, reason=reason)
        members.proceed(tx)
    return 1


def purge_some(tx: Transaction, topic: str, state: State) -> int:
    """Delete up to PURGED_AT_ONCE jobs of a topic; return how many. A smaller number means that none are left."""
    if state is State.RESERVED:
        return 0
    ids = views.some_ids(tx.db, topic, state, PURGED_AT_ONCE)
    seqs = removal.end_queued(tx, ids, State.UNKNOWN, 0.0)
    if state is State.DEAD:
        letters.forget(tx, seqs)
    members.leave(tx, seqs)
    return len(ids)


def drop(tx: Transaction, job_ids: Sequence[str]) -> int:
    """Delete dead letters for good; return how many."""
    these = "SELECT seq FROM job WHERE dead_at IS NOT NULL AND id IN (SELECT value FROM json_each(?))"
    seqs = removal.drop_letters(tx, these, (json.dumps(list(job_ids)),))
    members.leave(tx, json.dumps(seqs))
    return len(seqs)


def pause(tx: Transaction, topic: str) -> None:
    tx.db.execute("INSERT OR IGNORE INTO paused VALUES (?)", (topic,))


def resume(tx: Transaction, topic: str) -> None:
    tx.db.execute("DELETE FROM paused WHERE topic = ?", (topic,))
    tx.wake.add(topic)


def cancel(tx: Transaction, job_id: str, *, force: bool = False) -> State:
    """Cancel a queued job, or ask the owner of a reserved one to do so; return its state afterwards."""
    record = views.get(tx.db, job_id, tx.now)
    if record is None:
        return State.UNKNOWN
    if record.state is State.RESERVED:
        tx.db.execute("INSERT OR IGNORE INTO cancel SELECT seq FROM job WHERE id = ?", (job_id,))
        if force:
            tx.db.execute("INSERT OR IGNORE INTO meta (key, value) VALUES ('force:' || ?, 1)", (job_id,))
        tx.call += (record.owner,) if record.owner else ()
    elif record.state in _QUEUED:
        members.leave(tx, removal.end_queued(tx, [job_id], State.CANCELLED, tx.options.cancelled_ttl))
        return State.CANCELLED
    return record.state
