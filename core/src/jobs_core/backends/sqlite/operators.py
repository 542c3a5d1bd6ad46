"""Changes by operators, each inside a transaction that the caller began."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..base import State
from . import queue, removal, views
from .connection import Transaction

PURGED_AT_ONCE = 500


def requeue(tx: Transaction, job_id: str) -> int:
    """Make a dead or scheduled job ready now; return how many were."""
    sql = "SELECT seq, topic, dead_at FROM job WHERE id = ? AND (due > ? OR dead_at IS NOT NULL)"
    row = tx.db.execute(sql, (job_id, tx.now)).fetchone()
    if row is None:
        return 0
    seq, topic, dead_at = row
    if dead_at is not None:
        forgotten = "dead_at = NULL, reason = NULL, attempt = 0, redeliveries = 0, crashes = 0, deferrals = 0"
        tx.db.execute(f"UPDATE job SET {forgotten} WHERE seq = ?", (seq,))
    queue.line_up(tx, [seq], tx.now)
    tx.wake.add(topic)
    return 1


def discard(tx: Transaction, job_id: str, reason: str) -> int:
    """Move a ready or scheduled job to the dead letters; return how many were."""
    record = views.get(tx.db, job_id, tx.now)
    if record is None or record.state not in (State.READY, State.SCHEDULED):
        return 0
    sql = "SELECT seq, rank, coalesce(ready_at, pushed_at), errors FROM job WHERE id = ?"
    seq, rank, since, errors = tx.db.execute(sql, (record.id,)).fetchone()
    place = (record.topic, rank, since, seq)
    tx.db.execute("DELETE FROM ready WHERE topic = ? AND rank = ? AND since = ? AND seq = ?", place)
    removal.bury(tx, seq, reason, errors, 0)
    return 1


def purge_some(tx: Transaction, topic: str, state: State) -> int:
    """Delete up to PURGED_AT_ONCE jobs of a topic; return how many. Fewer mean that none are left."""
    if state is State.RESERVED:
        return 0
    ids = [record.id for record in views.browse(tx.db, topic, state, PURGED_AT_ONCE, 0, tx.now)]
    removal.end(tx, ids, State.UNKNOWN, 0.0)
    return len(ids)


def drop(tx: Transaction, job_ids: Sequence[str]) -> int:
    """Delete dead letters for good; return how many."""
    return tx.db.execute(
        "DELETE FROM job WHERE dead_at IS NOT NULL AND id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(job_ids)),),
    ).rowcount


def pause(tx: Transaction, topic: str) -> None:
    tx.db.execute("INSERT OR IGNORE INTO paused VALUES (?)", (topic,))


def resume(tx: Transaction, topic: str) -> None:
    tx.db.execute("DELETE FROM paused WHERE topic = ?", (topic,))
    tx.wake.add(topic)


def cancel(tx: Transaction, job_id: str, *, force: bool = False) -> State:
    """Cancel a queued job, or ask the owner of a reserved one to; return the state afterwards."""
    record = views.get(tx.db, job_id, tx.now)
    if record is None:
        return State.UNKNOWN
    if record.state is State.RESERVED:
        tx.db.execute("INSERT OR IGNORE INTO cancel SELECT seq FROM job WHERE id = ?", (job_id,))
        if force:
            tx.db.execute("INSERT OR IGNORE INTO meta VALUES ('force:' || ?, 1)", (job_id,))
        tx.call += (record.owner,) if record.owner else ()
    elif record.state in (State.READY, State.SCHEDULED):
        removal.end(tx, [job_id], State.CANCELLED, tx.options.cancelled_ttl)
        return State.CANCELLED
    return record.state
