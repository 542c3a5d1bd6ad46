"""Read a store without changing it: records, lists, counts, and whether jobs are ready."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from ..base import Counts, JobRecord, State

_RECORD = """
SELECT id, job.topic, payload, -job.rank, attempt, redeliveries, crashes, deferrals, pushed_at, due, dead_at, reason,
       errors, ready.since, reserved.owner, reserved.at, cancel.seq, cursor, job.seq
  FROM job
  LEFT JOIN ready ON ready.topic = job.topic AND ready.rank = job.rank
        AND ready.since = coalesce(job.ready_at, job.pushed_at) AND ready.seq = job.seq
  LEFT JOIN reserved ON reserved.seq = job.seq
  LEFT JOIN cancel ON cancel.seq = job.seq
  LEFT JOIN checkpoint ON checkpoint.seq = job.seq
"""
_BROWSE = {
    State.READY: "SELECT seq FROM ready WHERE topic = ? ORDER BY rank, since, seq",
    State.SCHEDULED: "SELECT seq FROM job WHERE topic = ? AND due IS NOT NULL ORDER BY due, seq",
    State.RESERVED: "SELECT seq FROM reserved JOIN job USING (seq) WHERE topic = ? ORDER BY token",
    State.DEAD: "SELECT seq FROM job WHERE topic = ? AND dead_at IS NOT NULL ORDER BY dead_at DESC, seq DESC",
}
_LOOK = """
SELECT EXISTS (SELECT 1 FROM ready WHERE topic = :topic), (SELECT min(due) FROM job WHERE topic = :topic AND due IS NOT NULL)
 WHERE NOT EXISTS (SELECT 1 FROM paused WHERE topic = :topic)
"""
_COUNT = """
SELECT count(*), min(since),
       (SELECT count(*) FROM job WHERE topic = :topic AND due <= :now),
       (SELECT min(due) FROM job WHERE topic = :topic AND due <= :now),
       (SELECT count(*) FROM job WHERE topic = :topic AND due > :now),
       (SELECT count(*) FROM job WHERE topic = :topic AND dead_at IS NOT NULL)
  FROM ready WHERE topic = :topic
"""


def look(db: sqlite3.Connection, topics: Sequence[str], now: float) -> tuple[bool, float]:
    """Return whether one of the topics has ready jobs and is not paused, and the seconds until the next job is due."""
    next_due = float("inf")
    for topic in topics:
        row = db.execute(_LOOK, {"topic": topic}).fetchone()
        if row is None:
            continue
        if row[0]:
            return True, 0.0
        if row[1] is not None:
            next_due = min(row[1], next_due)
    return False, next_due - now


def counts(db: sqlite3.Connection, topics: Sequence[str], now: float) -> dict[str, Counts]:
    """Count the jobs of each topic by state."""
    reserved = dict(db.execute("SELECT topic, count(*) FROM reserved JOIN job USING (seq) GROUP BY topic").fetchall())
    found = {}
    for topic in topics:
        ready, since, due, due_since, later, dead = db.execute(_COUNT, {"topic": topic, "now": now}).fetchone()
        oldest = min((time for time in (since, due_since) if time is not None), default=None)
        age = None if oldest is None else max(0.0, now - oldest)
        found[topic] = Counts(ready + due, later, reserved.get(topic, 0), dead, age)
    return found


def topics(db: sqlite3.Connection) -> list[str]:
    """Return every topic that holds jobs or is paused, sorted."""
    reserved = [row[0] for row in db.execute("SELECT DISTINCT topic FROM reserved JOIN job USING (seq)")]
    waiting = [*topics_of(db, "ready"), *topics_of(db, "job", "due IS NOT NULL")]
    return sorted({*waiting, *topics_of(db, "job", "dead_at IS NOT NULL"), *paused(db), *reserved})


def topics_of(db: sqlite3.Connection, table: str, condition: str = "1") -> list[str]:
    """Return the topics in a table; jump from each to the next, in an index that begins with the topic."""
    found: list[str] = []
    sql = f"SELECT topic FROM {table} WHERE topic > ? AND {condition} ORDER BY topic LIMIT 1"
    while True:
        row = db.execute(sql, (found[-1] if found else "",)).fetchone()
        if row is None:
            return found
        found.append(row[0])


def paused(db: sqlite3.Connection) -> frozenset[str]:
    """Return the paused topics."""
    return frozenset(row[0] for row in db.execute("SELECT topic FROM paused"))


def get(db: sqlite3.Connection, job_id: str, now: float) -> JobRecord | None:
    """Return everything known about a job; None if it is unknown."""
    row = db.execute(f"{_RECORD} WHERE id = ?", (job_id,)).fetchone()
    if row:
        return _record(row, now)
    row = db.execute("SELECT id, topic, state, at, result FROM ended WHERE id = ? AND until > ?", (job_id, now)).fetchone()
    if row is None:
        return None
    return JobRecord(row[0], row[1], State(row[2]), since=row[3], result=row[4], broker_now=now)


def find_ids(db: sqlite3.Connection, prefix: str, limit: int, now: float) -> list[str]:
    """Return ids that begin with `prefix`, which are a range in each index."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    rows = db.execute(
        "SELECT id FROM job WHERE id >= :begin AND id < :end UNION "
        "SELECT id FROM ended WHERE id >= :begin AND id < :end AND until > :now ORDER BY id LIMIT :limit",
        {"begin": prefix, "end": end, "now": now, "limit": limit},
    )
    return [row[0] for row in rows if row[0].startswith(prefix)]


def ended(db: sqlite3.Connection, job_id: str, now: float) -> JobRecord | None:
    """Return the record of a job that has ended, with state UNKNOWN if none is kept; None if it has not ended."""
    record = get(db, job_id, now)
    if record is None:
        return JobRecord(job_id, "", State.UNKNOWN)
    return record if record.state in (State.DONE, State.DEAD, State.CANCELLED) else None


def browse(db: sqlite3.Connection, topic: str, state: State, limit: int, offset: int, now: float) -> list[JobRecord]:
    """Return jobs of a topic in one state in the order in which they will run; dead letters newest first."""
    sql = _BROWSE.get(state)
    if sql is None:
        return []
    seqs = [row[0] for row in db.execute(f"{sql} LIMIT ? OFFSET ?", (topic, limit, offset))]
    rows = db.execute(f"{_RECORD} WHERE job.seq IN (SELECT value FROM json_each(?))", (json.dumps(seqs),)).fetchall()
    place = {seq: n for n, seq in enumerate(seqs)}
    return [_record(row, now) for row in sorted(rows, key=lambda row: place[row[-1]])]


def _record(row: tuple[Any, ...], now: float) -> JobRecord:
    (job_id, topic, payload, priority, attempt, redeliveries, crashes, deferrals, pushed_at, due, dead_at, reason, errors,
     ready_since, owner, reserved_at, cancel, cursor, _) = row  # fmt: skip
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
        cursor=cursor or b"",
    )
