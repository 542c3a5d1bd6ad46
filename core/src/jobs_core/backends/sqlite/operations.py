"""What operators ask of a queue file."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from ..base import Backend, JobRecord, State
from . import leaving, lines
from .connection import Connection, Transaction

_RECORD = """
SELECT id, job.topic, payload, -job.rank, attempt, redeliveries, crashes, deferrals, pushed_at, due, dead_at, reason,
       errors, ready.since, reserved.owner, reserved.at, cancel.seq, job.seq
  FROM job
  LEFT JOIN ready ON ready.topic = job.topic AND ready.rank = job.rank
        AND ready.since = coalesce(job.ready_at, job.pushed_at) AND ready.seq = job.seq
  LEFT JOIN reserved ON reserved.seq = job.seq
  LEFT JOIN cancel ON cancel.seq = job.seq
"""
_BROWSE = {
    State.READY: "SELECT seq FROM ready WHERE topic = ? ORDER BY rank, since, seq",
    State.SCHEDULED: "SELECT seq FROM job WHERE topic = ? AND due IS NOT NULL ORDER BY due, seq",
    State.RESERVED: "SELECT seq FROM reserved JOIN job USING (seq) WHERE topic = ? ORDER BY token",
    State.DEAD: "SELECT seq FROM job WHERE topic = ? AND dead_at IS NOT NULL ORDER BY dead_at DESC, seq DESC",
}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.020
_PURGED_AT_ONCE = 500


class SqliteOperations(Backend):
    """The operators' half of the backend."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, job_id: str) -> JobRecord | None:
        now = self._connection.options.now()
        with self._connection.reading() as db:
            row = db.execute(f"{_RECORD} WHERE id = ?", (job_id,)).fetchone()
            if row:
                return _record(row, now)
            row = db.execute(
                "SELECT id, topic, state, at, result FROM ended WHERE id = ? AND until > ?", (job_id, now)
            ).fetchone()
        if row is None:
            return None
        return JobRecord(row[0], row[1], State(row[2]), since=row[3], result=row[4], broker_now=now)

    def browse(self, topic: str, state: State, limit: int, offset: int = 0) -> list[JobRecord]:
        sql = _BROWSE.get(state)
        if sql is None:
            return []
        now = self._connection.options.now()
        with self._connection.reading() as db:
            seqs = [row[0] for row in db.execute(f"{sql} LIMIT ? OFFSET ?", (topic, limit, offset))]
            rows = db.execute(f"{_RECORD} WHERE job.seq IN (SELECT value FROM json_each(?))", (json.dumps(seqs),)).fetchall()
        place = {seq: n for n, seq in enumerate(seqs)}
        return [_record(row, now) for row in sorted(rows, key=lambda row: place[row[-1]])]

    def topics(self) -> list[str]:
        with self._connection.transaction(durable=False) as tx:
            reserved = [row[0] for row in tx.db.execute("SELECT DISTINCT topic FROM reserved JOIN job USING (seq)")]
            return sorted(
                {
                    *lines.topics_of(tx, "ready"),
                    *lines.topics_of(tx, "job", "due IS NOT NULL"),
                    *lines.topics_of(tx, "job", "dead_at IS NOT NULL"),
                    *lines.paused(tx),
                    *reserved,
                }
            )

    def requeue(self, job_ids: Sequence[str]) -> int:
        with self._connection.transaction() as tx:
            return sum(_requeue(tx, job_id) for job_id in job_ids)

    def discard(self, job_ids: Sequence[str], reason: str) -> int:
        with self._connection.transaction() as tx:
            return sum(_discard(tx, self.get(job_id), reason) for job_id in job_ids)

    def purge(self, topic: str, state: State) -> int:
        deleted = 0
        while state is not State.RESERVED:
            with self._connection.transaction() as tx:
                ids = [record.id for record in self.browse(topic, state, _PURGED_AT_ONCE)]
                leaving.end(tx, ids, State.UNKNOWN, 0.0)
            deleted += len(ids)
            if len(ids) < _PURGED_AT_ONCE:
                break
        return deleted

    def drop(self, job_ids: Sequence[str]) -> int:
        with self._connection.transaction() as tx:
            return tx.db.execute(
                "DELETE FROM job WHERE dead_at IS NOT NULL AND id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(job_ids)),),
            ).rowcount

    def pause(self, topic: str) -> None:
        with self._connection.transaction() as tx:
            tx.db.execute("INSERT OR IGNORE INTO paused VALUES (?)", (topic,))

    def resume(self, topic: str) -> None:
        with self._connection.transaction() as tx:
            tx.db.execute("DELETE FROM paused WHERE topic = ?", (topic,))
            tx.wake.add(topic)

    def paused(self) -> frozenset[str]:
        with self._connection.reading() as db:
            return frozenset(row[0] for row in db.execute("SELECT topic FROM paused"))

    def cancel(self, job_id: str) -> State:
        with self._connection.transaction() as tx:
            record = self.get(job_id)
            if record is None:
                return State.UNKNOWN
            if record.state is State.RESERVED:
                tx.db.execute("INSERT OR IGNORE INTO cancel SELECT seq FROM job WHERE id = ?", (job_id,))
            elif record.state in (State.READY, State.SCHEDULED):
                leaving.end(tx, [job_id], State.CANCELLED, tx.options.cancelled_ttl)
                return State.CANCELLED
            return record.state

    def fetch_result(self, job_id: str, timeout: float) -> JobRecord | None:
        deadline = time.monotonic() + timeout
        version, pause = -1, _FIRST_PAUSE
        while True:
            with self._connection.reading() as db:  # changes with others' commits: cheaper than looking
                latest = db.execute("PRAGMA data_version").fetchone()[0]
            if latest != version:
                version = latest
                record = self.get(job_id)
                if record is None:
                    return JobRecord(job_id, "", State.UNKNOWN)
                if record.state in (State.DONE, State.DEAD, State.CANCELLED):
                    return record
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause = min(pause * 1.3, _LONGEST_PAUSE)


def _requeue(tx: Transaction, job_id: str) -> int:
    sql = "SELECT seq, topic, dead_at FROM job WHERE id = ? AND (due > ? OR dead_at IS NOT NULL)"
    row = tx.db.execute(sql, (job_id, tx.now)).fetchone()
    if row is None:
        return 0
    seq, topic, dead_at = row
    if dead_at is not None:
        forgotten = "dead_at = NULL, reason = NULL, attempt = 0, redeliveries = 0, crashes = 0, deferrals = 0"
        tx.db.execute(f"UPDATE job SET {forgotten} WHERE seq = ?", (seq,))
    lines.line_up(tx, [seq], tx.now)
    tx.wake.add(topic)
    return 1


def _discard(tx: Transaction, record: JobRecord | None, reason: str) -> int:
    if record is None or record.state not in (State.READY, State.SCHEDULED):
        return 0
    sql = "SELECT seq, rank, coalesce(ready_at, pushed_at), errors FROM job WHERE id = ?"
    seq, rank, since, errors = tx.db.execute(sql, (record.id,)).fetchone()
    place = (record.topic, rank, since, seq)
    tx.db.execute("DELETE FROM ready WHERE topic = ? AND rank = ? AND since = ? AND seq = ?", place)
    leaving.bury(tx, seq, reason, errors, 0)
    return 1


def _record(row: tuple[Any, ...], now: float) -> JobRecord:
    (job_id, topic, payload, priority, attempt, redeliveries, crashes, deferrals, pushed_at, due, dead_at, reason, errors,
     ready_since, owner, reserved_at, cancel, _) = row  # fmt: skip
    if dead_at is not None:
        state, since = State.DEAD, dead_at
    elif due is not None and due > now:
        state, since = State.SCHEDULED, None
    elif due is not None:
        state, since = State.READY, due
    elif owner is not None:
        state, since = State.RESERVED, reserved_at
    else:
        state, since = State.READY, ready_since
    return JobRecord(
        id=job_id,
        topic=topic,
        state=state,
        payload=payload,
        priority=priority,
        attempt=attempt,
        redeliveries=redeliveries,
        crashes=crashes,
        deferrals=deferrals,
        pushed_at=pushed_at,
        due=due,
        owner=owner,
        since=since,
        cancel_requested=cancel is not None,
        reason=reason or "",
        errors=tuple(json.dumps(error).encode() for error in json.loads(errors)) if errors else (),
        broker_now=now,
    )
