"""Read a store without changing it: records, lists, counts, and whether jobs are ready."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from ..base import Counts, JobRecord, State
from ..letters import DeadGroup, Fingerprint
from . import notes, places
from .connection import PUSHED, REFUSED
from .members import Phase

_RECORD = """
SELECT job.id, job.topic, payload, -job.rank, attempt, redeliveries, crashes, deferrals, pushed_at, due, dead_at, job.reason,
       errors, ready.since, reserved.owner, reserved.at, cancel.seq, cursor, job.key, job.limits, lined.since, line.filed_under,
       phase, job.seq
  FROM job
  LEFT JOIN ready ON ready.topic = job.topic AND ready.rank = job.rank
        AND ready.since = coalesce(job.ready_at, job.pushed_at) AND ready.seq = job.seq
  LEFT JOIN reserved ON reserved.seq = job.seq
  LEFT JOIN cancel ON cancel.seq = job.seq
  LEFT JOIN checkpoint ON checkpoint.seq = job.seq
  LEFT JOIN lined ON lined.seq = job.seq
  LEFT JOIN line ON line.id = lined.line
  LEFT JOIN flow_member ON flow_member.seq = job.seq
"""
_BROWSE = {
    State.READY: """
        SELECT rank, since, seq FROM ready WHERE topic = :topic UNION ALL
        SELECT lined.rank, since, seq FROM line JOIN lined ON line = line.id WHERE topic = :topic AND filed_under IS NULL
         ORDER BY 1, 2, 3""",
    State.LIMITED: """
        SELECT seq FROM line JOIN lined ON line = line.id WHERE topic = :topic AND filed_under IS NOT NULL
         ORDER BY since, seq""",
    State.SCHEDULED: "SELECT seq FROM job WHERE topic = :topic AND due IS NOT NULL ORDER BY due, seq",
    State.WAITING: "SELECT seq FROM flow_member WHERE topic = :topic AND phase < 2 ORDER BY seq",
    State.RESERVED: "SELECT seq FROM reserved JOIN job USING (seq) WHERE job.topic = :topic ORDER BY token",
    State.DEAD: "SELECT seq FROM job WHERE topic = :topic AND dead_at IS NOT NULL ORDER BY dead_at DESC, seq DESC",
}
_READY_IN_ANY_ORDER = (
    "SELECT seq FROM ready WHERE topic = :topic LIMIT :limit",
    "SELECT seq FROM line JOIN lined ON line = line.id WHERE topic = :topic LIMIT :limit",
)
_LOOK = """
SELECT EXISTS (SELECT 1 FROM ready WHERE topic = :topic), (SELECT min(due) FROM job WHERE topic = :topic AND due IS NOT NULL),
       EXISTS (SELECT 1 FROM topic_lines WHERE topic = :topic), EXISTS (SELECT 1 FROM flow_work)
 WHERE NOT EXISTS (SELECT 1 FROM paused WHERE topic = :topic)
"""
_LOOK_AT_LINES = """
SELECT EXISTS (SELECT 1 FROM line WHERE topic = :topic AND filed_under IS NULL),
       (SELECT min(at) FROM opening WHERE topic = :topic),
       EXISTS (SELECT 1 FROM topic_lines JOIN limit_state ON name = 'key/' || topic || ':'
                WHERE topic = :topic AND fair AND used >= max_per_key)
"""
_COUNT = """
WITH RECURSIVE ranks (rank) AS (
    SELECT min(rank) FROM ready WHERE topic = :topic UNION ALL
    SELECT (SELECT min(rank) FROM ready WHERE topic = :topic AND rank > ranks.rank) FROM ranks WHERE rank IS NOT NULL)
SELECT count(*), (SELECT min((SELECT min(since) FROM ready WHERE topic = :topic AND ready.rank = ranks.rank)) FROM ranks),
       (SELECT count(*) FROM job WHERE topic = :topic AND due <= :now),
       (SELECT min(due) FROM job WHERE topic = :topic AND due <= :now),
       (SELECT count(*) FROM job WHERE topic = :topic AND due > :now),
       (SELECT count(*) FROM job WHERE topic = :topic AND dead_at IS NOT NULL),
       (SELECT ready FROM topic_lines WHERE topic = :topic), (SELECT limited FROM topic_lines WHERE topic = :topic),
       (SELECT min(head_since) FROM line WHERE topic = :topic AND filed_under IS NULL),
       (SELECT count(*) FROM flow_member WHERE topic = :topic AND phase < 2),
       (SELECT value FROM meta WHERE key = :pushed), (SELECT value FROM meta WHERE key = :refused)
  FROM ready WHERE topic = :topic
"""

_GROUPS = """
SELECT topic, dead_group.fingerprint, coalesce(kind, ''), coalesce(place, ''), coalesce(message, ''), letters,
       (SELECT min(at) FROM dead_letter AS one WHERE one.topic = dead_group.topic AND one.fingerprint = dead_group.fingerprint),
       (SELECT max(at) FROM dead_letter AS one WHERE one.topic = dead_group.topic AND one.fingerprint = dead_group.fingerprint),
       (SELECT id FROM dead_letter AS one JOIN job USING (seq)
         WHERE one.topic = dead_group.topic AND one.fingerprint = dead_group.fingerprint ORDER BY at DESC, one.seq DESC LIMIT 1)
  FROM dead_group LEFT JOIN dead_cause USING (fingerprint) WHERE topic = ? ORDER BY letters DESC, dead_group.fingerprint LIMIT ?
"""
_IN_GROUP = "SELECT seq FROM dead_letter WHERE topic = ? AND fingerprint = ? ORDER BY at, seq LIMIT ? OFFSET ?"


def look(db: sqlite3.Connection, topics: Sequence[str], now: float) -> tuple[bool, float]:
    """Return whether one of the topics has ready jobs and is not paused, and the seconds until the next job is due."""
    next_due = float("inf")
    for topic in topics:
        row = db.execute(_LOOK, {"topic": topic}).fetchone()
        if row is None:
            continue
        ready, due, lined, work = row
        if lined:
            open_line, opens_at, plain_limited = db.execute(_LOOK_AT_LINES, {"topic": topic}).fetchone()
            ready = open_line or (ready and not plain_limited)
            if opens_at is not None:
                next_due = min(opens_at, next_due)
        if ready or work:
            return True, 0.0
        if due is not None:
            next_due = min(due, next_due)
    return False, next_due - now


def counts(db: sqlite3.Connection, topics: Sequence[str], now: float) -> dict[str, Counts]:
    """Count the jobs of each topic by state."""
    reserved = dict(db.execute("SELECT topic, count(*) FROM reserved JOIN job USING (seq) GROUP BY topic").fetchall())
    found = {}
    for topic in topics:
        ready, since, due, due_since, later, dead, lined, limited, head, waiting, pushed, refused = db.execute(
            _COUNT, {"topic": topic, "now": now, "pushed": f"{PUSHED}{topic}", "refused": f"{REFUSED}{topic}"}
        ).fetchone()
        oldest = min((time for time in (since, due_since, head) if time is not None), default=None)
        age = None if oldest is None else max(0.0, now - oldest)
        total = ready + due + (lined or 0)
        found[topic] = Counts(total, later, reserved.get(topic, 0), dead, age, limited or 0, waiting, pushed or 0, refused or 0)
    return found


def topics(db: sqlite3.Connection) -> list[str]:
    """Return every topic that holds jobs or is paused, sorted."""
    reserved = [row[0] for row in db.execute("SELECT DISTINCT topic FROM reserved JOIN job USING (seq)")]
    waiting = [*topics_of(db, "ready"), *topics_of(db, "line"), *topics_of(db, "job", "due IS NOT NULL")]
    waiting += topics_of(db, "flow_member", "phase < 2")
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


def lines(db: sqlite3.Connection, topic: str, most: int) -> list[tuple[str, int]]:
    """Return the keys of a fair topic with the most ready jobs, limited ones included."""
    sql = (
        "SELECT key, sum(n) FROM (SELECT key, size AS n FROM line WHERE topic = :topic "
        "UNION ALL SELECT '', count(*) FROM ready WHERE topic = :topic HAVING count(*) > 0) "
        "GROUP BY key ORDER BY 2 DESC, 1 LIMIT :most"
    )
    return [(key, count) for key, count in db.execute(sql, {"topic": topic, "most": most})]


def paused(db: sqlite3.Connection) -> frozenset[str]:
    """Return the paused topics."""
    return frozenset(row[0] for row in db.execute("SELECT topic FROM paused"))


def get(db: sqlite3.Connection, job_id: str, now: float) -> JobRecord | None:
    """Return everything known about a job; None if it is unknown."""
    row = db.execute(f"{_RECORD} WHERE job.id = ?", (job_id,)).fetchone()
    if row:
        return notes.with_notes(db, [(row[-1], _record(db, row, now))])[0]
    row = db.execute("SELECT id, topic, state, at, result FROM ended WHERE id = ? AND until > ?", (job_id, now)).fetchone()
    if row is None:
        return None
    job_id, topic, state, since, result = row
    if state == State.CANCELLED.value:
        return JobRecord(job_id, topic, State.CANCELLED, since=since, reason=result or "", broker_now=now)
    if state == State.DONE.value and (kept := notes.done(db, job_id, now)) is not None:
        return replace(kept, result=result)
    return JobRecord(job_id, topic, State(state), since=since, result=result, broker_now=now)


def record(db: sqlite3.Connection, job_id: str, now: float) -> JobRecord:
    """Return the record of a job in the queue, without what it has told."""
    return _record(db, db.execute(f"{_RECORD} WHERE job.id = ?", (job_id,)).fetchone(), now)


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
    """Return jobs of a topic in one state in the order in which they will run; dead letters and done jobs newest first."""
    if state is State.DONE:
        return notes.browse_done(db, topic, limit, offset, now)
    sql = _BROWSE.get(state)
    if sql is None:
        return []
    facts = {"topic": topic, "limit": limit, "offset": offset}
    return records(db, [row[-1] for row in db.execute(f"{sql} LIMIT :limit OFFSET :offset", facts)], now)


def records(db: sqlite3.Connection, seqs: Sequence[int], now: float) -> list[JobRecord]:
    """Return the records of jobs by sequence number, in this order, without the lines that they have told."""
    rows = db.execute(f"{_RECORD} WHERE job.seq IN (SELECT value FROM json_each(?))", (json.dumps(seqs),)).fetchall()
    place = {seq: n for n, seq in enumerate(seqs)}
    found = [(row[-1], _record(db, row, now)) for row in sorted(rows, key=lambda row: place[row[-1]])]
    return notes.with_notes(db, found, lines=False)


def dead_groups(db: sqlite3.Connection, topics: Sequence[str], most: int) -> list[DeadGroup]:
    """Count dead letters, see `Operable.dead_groups`."""
    return [
        DeadGroup(topic, Fingerprint(of, kind, place, message), letters, first, last, example or "")
        for each in topics
        for topic, of, kind, place, message, letters, first, last, example in db.execute(_GROUPS, (each, most))
    ]


def dead_in_group(db: sqlite3.Connection, topic: str, group: str, limit: int, offset: int, now: float) -> list[JobRecord]:
    """List the dead letters of a group, see `Operable.dead_in_group`."""
    return records(db, [seq for (seq,) in db.execute(_IN_GROUP, (topic, group, limit, offset))], now)


def some_ids(db: sqlite3.Connection, topic: str, state: State, limit: int) -> list[str]:
    """Return the ids of some jobs of a topic; the ready ones with the limited ones, in any order, which is no sort."""
    seqs: list[int] = []
    for sql in _READY_IN_ANY_ORDER if state is State.READY else (f"{_BROWSE[state]} LIMIT :limit",):
        seqs += [row[-1] for row in db.execute(sql, {"topic": topic, "limit": limit - len(seqs)})]
    sql = "SELECT id FROM job WHERE seq IN (SELECT value FROM json_each(?))"
    return [job_id for (job_id,) in db.execute(sql, (json.dumps(seqs),))]


def states(db: sqlite3.Connection, seqs: Sequence[int], now: float) -> dict[int, State]:
    """Return the states of jobs by sequence number."""
    rows = db.execute(f"{_RECORD} WHERE job.seq IN (SELECT value FROM json_each(?))", (json.dumps(seqs),))
    return {row[-1]: _state(row, now)[0] for row in rows}


def _state(row: tuple[Any, ...], now: float) -> tuple[State, float | None]:
    """Return the state of a job, and since when it is in it."""
    due, dead_at, since, owner, reserved_at, lined_since, filed_under, phase = (row[n] for n in (9, 10, 13, 14, 15, 20, 21, 22))
    if dead_at is not None:
        return State.DEAD, dead_at
    if due is not None:
        return (State.SCHEDULED, None) if due > now else (State.READY, due)
    if owner is not None:
        return State.RESERVED, reserved_at
    if lined_since is not None:
        return State.LIMITED if filed_under is not None else State.READY, lined_since
    if phase is not None and phase < Phase.ACTIVE:
        return State.WAITING, row[8]
    return State.READY, since


def _record(db: sqlite3.Connection, row: tuple[Any, ...], now: float) -> JobRecord:
    (job_id, topic, payload, priority, attempt, redeliveries, crashes, deferrals, pushed_at, due, _, reason, errors,
     _, owner, _, cancel, cursor, key, limits, _, filed_under, _, seq) = row  # fmt: skip
    state, since = _state(row, now)
    member = places.place_of(db, seq) if seq < 0 else None
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
        key=key or "",
        limits=tuple(json.loads(limits)) if limits else (),
        blocked_by=filed_under or "",
        member=member,
        waiting_for=places.waiting_for(db, member) if member and state is State.WAITING else (),
    )
