"""Jobs in line: pushed, put in line when due, and taken out in order of service."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from ..base import Delivery, Outgoing, State
from . import leaving, views
from .connection import Transaction

READY_AT_ONCE = 1000
"""Most scheduled jobs of a topic that one reserve puts in line: the bound on how long it holds the lock. When more
fall due together, the order among them is exact only within that number."""

_DELIVERY = """
SELECT id, topic, payload, token, attempt, redeliveries, crashes, deferrals, pushed_at, unique_key
  FROM reserved CROSS JOIN job USING (seq) WHERE token > ? AND owner = ? AND request = ? ORDER BY token
"""
_TAKE = """
INSERT INTO reserved (seq, at, owner, request)
SELECT seq, ?, ?, ? FROM ready WHERE topic = ? ORDER BY rank, since, seq LIMIT ?
"""
_TAKEN = """
DELETE FROM ready WHERE topic = :topic AND (rank, since, seq) <=
       (SELECT rank, since, seq FROM ready WHERE topic = :topic ORDER BY rank, since, seq LIMIT 1 OFFSET :last)
"""


# -- in --------------------------------------------------------------------------------------------


def add(tx: Transaction, messages: Sequence[Outgoing]) -> dict[str, str]:
    """Store messages; return, for each refused by a unique key, its id and the id that holds the key."""
    conflicts: dict[str, str] = {}
    seq = _numbers(tx, len(messages))
    rows: list[tuple[object, ...]] = []
    for message in messages:
        if message.unique:
            _insert(tx, rows)  # what it may be a duplicate of, or replace, has to be there
            rows = []
            if tx.first("SELECT EXISTS (SELECT 1 FROM job WHERE id = ?)", (message.id,)):
                continue
            holder = _take_key(tx, message)
            if holder:
                conflicts[message.id] = holder
                continue
        seq += 1
        due = tx.now + message.delay if message.delay > 0 else None
        key = message.unique.key if message.unique else None
        rows.append((seq, message.id, message.topic, -message.priority, due, tx.now, key, message.payload))
        tx.wake.add(message.topic)
    _insert(tx, rows)
    return conflicts


def _insert(tx: Transaction, rows: Sequence[tuple[object, ...]]) -> None:
    """Insert new jobs, in ascending order of seq, and line up those that are not scheduled."""
    if not rows:
        return
    tx.db.executemany(
        "INSERT OR IGNORE INTO job (seq, id, topic, rank, due, pushed_at, unique_key, payload) VALUES (?,?,?,?,?,?,?,?)", rows
    )
    tx.db.execute("INSERT INTO ready SELECT topic, rank, pushed_at, seq FROM job WHERE seq >= ? AND due IS NULL", (rows[0][0],))


def _numbers(tx: Transaction, count: int) -> int:
    """Take `count` numbers; returns the one before the first."""
    sql = "UPDATE meta SET value = value + ? WHERE key = 'sequence' RETURNING value"
    return int(tx.first(sql, (count,))) - count


def _take_key(tx: Transaction, message: Outgoing) -> str | None:
    """Give the message its unique key, or return who holds it."""
    unique = message.unique
    assert unique is not None
    holder: str | None = tx.first(
        "SELECT job_id FROM unique_key WHERE key = ? AND (until IS NULL OR until > ?)", (unique.key, tx.now)
    )
    if holder:
        if unique.conflict != "replace" or not _waits(tx, holder):
            return holder
        leaving.end(tx, [holder], State.CANCELLED, tx.options.cancelled_ttl)
    by_time = not isinstance(unique.scope, str)
    scope = "time" if by_time else unique.scope
    until = tx.now + float(unique.scope) if by_time else None
    tx.db.execute("INSERT OR REPLACE INTO unique_key VALUES (?, ?, ?, ?)", (unique.key, message.id, scope, until))
    return None


def _waits(tx: Transaction, job_id: str) -> bool:
    """Whether a job is ready or scheduled."""
    sql = "SELECT dead_at IS NULL AND NOT EXISTS (SELECT 1 FROM reserved WHERE reserved.seq = job.seq) FROM job WHERE id = ?"
    return bool(tx.first(sql, (job_id,)))


# -- in line ---------------------------------------------------------------------------------------


def ready_due(tx: Transaction, topics: Iterable[str], limit: int) -> int:
    """Put scheduled jobs that are due in line, where they would stand had they been put there in time."""
    readied = 0
    sql = "SELECT seq FROM job WHERE topic = ? AND due IS NOT NULL AND due <= ? ORDER BY due, seq LIMIT ?"
    for topic in topics:
        seqs = [row[0] for row in tx.db.execute(sql, (topic, tx.now, limit))]
        if seqs:
            line_up(tx, seqs)
            readied += len(seqs)
    return readied


def line_up(tx: Transaction, seqs: Sequence[int], since: float | None = None) -> None:
    """Put jobs in line as of `since`, or of their due times."""
    these = json.dumps(list(seqs))
    sql = "UPDATE job SET ready_at = coalesce(?, due), due = NULL WHERE seq IN (SELECT value FROM json_each(?))"
    tx.db.execute(sql, (since, these))
    put_back(tx, these)


def put_back(tx: Transaction, seqs: str) -> None:
    """Put jobs, given as a JSON array, to where they stand in line."""
    tx.db.execute(
        "INSERT INTO ready SELECT topic, rank, coalesce(ready_at, pushed_at), seq FROM job "
        "WHERE seq IN (SELECT value FROM json_each(?))",
        (seqs,),
    )


# -- out -------------------------------------------------------------------------------------------


def take(
    tx: Transaction, owner: str, topics: Sequence[str], limit: int, request: str, most_bytes: int | None = None
) -> list[Delivery]:
    """Reserve up to `limit` jobs, topics in order; see `requests.reserve`."""
    ready_due(tx, topics, max(limit, READY_AT_ONCE))
    before = tx.first("SELECT max(token) FROM reserved") or 0
    off = views.paused(tx.db)
    left = limit
    for topic in topics:
        if left <= 0:
            break
        if topic in off:
            continue
        taken = tx.db.execute(_TAKE, (tx.now, owner, request, topic, left)).rowcount
        if taken:
            tx.db.execute(_TAKEN, {"topic": topic, "last": taken - 1})
            left -= taken
            if left <= 0:
                tx.wake.add(topic)  # there may be more: whoever is idle may look
    return deliveries(tx, owner, request, before, most_bytes)


def take_these(tx: Transaction, owner: str, job_ids: Sequence[str], request: str) -> list[Delivery]:
    """Reserve these jobs, wherever they stand but among the dead."""
    before = tx.first("SELECT max(token) FROM reserved") or 0
    sql = "SELECT seq FROM job WHERE id IN (SELECT value FROM json_each(?)) AND dead_at IS NULL"
    these = json.dumps([row[0] for row in tx.db.execute(sql, (json.dumps(list(job_ids)),))])
    seqs = "SELECT value FROM json_each(?)"
    tx.db.execute(
        "DELETE FROM ready WHERE (topic, rank, since, seq) IN "
        f"(SELECT topic, rank, coalesce(ready_at, pushed_at), seq FROM job WHERE seq IN ({seqs}))",
        (these,),
    )
    tx.db.execute(f"DELETE FROM reserved WHERE seq IN ({seqs})", (these,))
    tx.db.execute(f"UPDATE job SET due = NULL, ready_at = ? WHERE due IS NOT NULL AND seq IN ({seqs})", (tx.now, these))
    tx.db.execute(
        f"INSERT INTO reserved (seq, at, owner, request) SELECT value, ?, ?, ? FROM ({seqs})", (tx.now, owner, request, these)
    )
    return deliveries(tx, owner, request, before)


def deliveries(tx: Transaction, owner: str, request: str, before: int = 0, most_bytes: int | None = None) -> list[Delivery]:
    """What a request holds of the reservations after token `before`; keys held while queued are freed."""
    now = tx.now
    rows = tx.db.execute(_DELIVERY, (before, owner, request)).fetchall()
    if most_bytes is not None:
        rows = _keep_within(tx, rows, most_bytes)
    keys = [(row[9], row[0]) for row in rows if row[9] is not None]
    if keys:
        tx.db.executemany("DELETE FROM unique_key WHERE key = ? AND job_id = ? AND scope = 'queued'", keys)
    return [Delivery(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], now) for row in rows]


def _keep_within(tx: Transaction, rows: list[tuple[Any, ...]], most_bytes: int) -> list[tuple[Any, ...]]:
    """The first reservations whose payloads are not too large together; the rest goes back to where it stood."""
    sizes = itertools.accumulate(len(row[2]) for row in rows)
    count = max(1, sum(size <= most_bytes for size in sizes))
    if count < len(rows):
        tokens = json.dumps([row[3] for row in rows[count:]])
        sql = "DELETE FROM reserved WHERE token IN (SELECT value FROM json_each(?)) RETURNING seq"
        put_back(tx, json.dumps([seq for (seq,) in tx.db.execute(sql, (tokens,)).fetchall()]))
        tx.wake.update(row[1] for row in rows[count:])
    return rows[:count]


def topics_of(tx: Transaction, table: str, condition: str = "1") -> list[str]:
    """The topics in a table, by jumping from one to the next in an index that begins with the topic."""
    found: list[str] = []
    sql = f"SELECT topic FROM {table} WHERE topic > ? AND {condition} ORDER BY topic LIMIT 1"
    while True:
        topic = tx.first(sql, (found[-1] if found else "",))
        if topic is None:
            return found
        found.append(topic)
