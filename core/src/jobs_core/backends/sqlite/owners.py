"""Owners: their leases, their last requests, and what becomes of what they held."""

from __future__ import annotations

import json
from collections.abc import Collection

from ...errors import OwnerLost
from ..base import Answer, Heartbeat, State
from . import leaving, lines
from .connection import Transaction

_HELD = """
SELECT seq, id, topic, errors, EXISTS (SELECT 1 FROM cancel WHERE cancel.seq = job.seq)
  FROM reserved JOIN job USING (seq) WHERE owner = ?
"""
_SETTLED = ord("s")


def register(tx: Transaction, owner: str) -> None:
    """Begin an owner's lease."""
    tx.db.execute("INSERT OR REPLACE INTO owner (id, lease_until) VALUES (?, ?)", (owner, tx.now + tx.options.lease))


def renew(tx: Transaction, owner: str, reserve_request: str) -> bool:
    """Renew the lease with a reserve request; True if that is the last one, repeated. Raises OwnerLost."""
    last = tx.first("SELECT reserve_request FROM owner WHERE id = ?", (owner,))
    if last is None:
        raise lost(owner)
    tx.db.execute(
        "UPDATE owner SET lease_until = ?, reserve_request = ? WHERE id = ?",
        (tx.now + tx.options.lease, reserve_request, owner),
    )
    return bool(last == reserve_request)


def heartbeat(tx: Transaction, owner: str) -> Heartbeat:
    """Renew the lease; which of its jobs somebody wants cancelled. Raises OwnerLost."""
    if not tx.db.execute("UPDATE owner SET lease_until = ? WHERE id = ?", (tx.now + tx.options.lease, owner)).rowcount:
        raise lost(owner)
    sql = "SELECT id FROM cancel JOIN reserved USING (seq) JOIN job USING (seq) WHERE owner = ?"
    return Heartbeat(cancelled=tuple(row[0] for row in tx.db.execute(sql, (owner,))))


def last_answers(tx: Transaction, owner: str, request: str, count: int) -> list[Answer] | None:
    """The answers to a settle request that need no settling: a lost owner's, or a repeated one's."""
    row = tx.db.execute("SELECT settle_request, settle_answers FROM owner WHERE id = ?", (owner,)).fetchone()
    if row is None:
        return [Answer.STALE] * count
    if row[0] != request:
        return None
    return [Answer.ALREADY if code == _SETTLED else Answer.STALE for code in row[1]]


def remember(tx: Transaction, owner: str, request: str, answers: list[Answer]) -> None:
    """Keep the answers to a settle request, in case that it is repeated."""
    codes = bytes(_SETTLED if answer is Answer.SETTLED else ord("-") for answer in answers)
    tx.db.execute("UPDATE owner SET settle_request = ?, settle_answers = ? WHERE id = ?", (request, codes, owner))


def release(tx: Transaction, owner: str, started: Collection[str], report: bytes, *, crash: bool) -> int:
    """Give an owner's jobs back, charge those it had started, and forget it; how many jobs that were."""
    rows = tx.db.execute(_HELD, (owner,)).fetchall()
    tx.db.execute("DELETE FROM reserved WHERE owner = ?", (owner,))
    tx.db.execute("DELETE FROM owner WHERE id = ?", (owner,))
    tx.db.executemany(
        "UPDATE job SET redeliveries = redeliveries + 1, crashes = crashes + ?, errors = ? WHERE seq = ?",
        [(int(crash), leaving.note(errors, report), seq) for seq, job_id, _, errors, _ in rows if job_id in started],
    )
    lines.put_back(tx, json.dumps([seq for seq, _, _, _, cancelled in rows if not cancelled]))
    cancelled_ids = [job_id for _, job_id, _, _, cancelled in rows if cancelled]
    if cancelled_ids:
        leaving.end(tx, cancelled_ids, State.CANCELLED, tx.options.cancelled_ttl)
    tx.wake.update(topic for _, _, topic, _, _ in rows)
    return len(rows)


def release_expired(tx: Transaction, limit: int) -> int:
    """Release owners whose lease ran out; after an outage of housekeeping itself, extend all leases instead."""
    lease = tx.options.lease
    last = tx.first("SELECT value FROM meta WHERE key = 'last_housekeep'")
    tx.db.execute("UPDATE meta SET value = ? WHERE key = 'last_housekeep'", (tx.now,))
    if tx.now - last > tx.options.outage_after:
        tx.db.execute("UPDATE owner SET lease_until = max(lease_until, ?)", (tx.now + lease,))
    # A clock that was set back must not keep a dead owner for ever.
    tx.db.execute("UPDATE owner SET lease_until = :latest WHERE lease_until > :latest", {"latest": tx.now + 2 * lease})
    expired = tx.db.execute("SELECT id FROM owner WHERE lease_until <= ? LIMIT ?", (tx.now, limit)).fetchall()
    for (owner,) in expired:
        held = {row[0] for row in tx.db.execute("SELECT id FROM reserved JOIN job USING (seq) WHERE owner = ?", (owner,))}
        release(tx, owner, held, b"", crash=len(held) == 1)
    return len(expired)


def begin_grace(tx: Transaction) -> None:
    """Have the next round of housekeeping extend every lease: whoever stands before the store was away."""
    tx.db.execute("UPDATE meta SET value = 0 WHERE key = 'last_housekeep'")


def lost(owner: str) -> OwnerLost:
    return OwnerLost(f"owner {owner} was released: its jobs went to other workers; open under a fresh owner id")
