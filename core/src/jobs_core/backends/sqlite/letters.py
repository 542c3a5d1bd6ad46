"""Dead letters by what went wrong; see letters.sql for the tables, and views.py for what reads them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from ..letters import Fingerprint, last_of, not_movable
from .connection import Transaction

_CHECKED_AT_ONCE = 100
_UNNAMED = """
SELECT seq, job.topic, dead_at, job.reason, job.errors FROM dead_letter INDEXED BY dead_letter_unnamed JOIN job USING (seq)
 WHERE fingerprint = '' AND dead_at IS NOT NULL ORDER BY seq LIMIT ?
"""
_NEXT_DEAD = """
SELECT seq, topic, dead_at, reason, errors, EXISTS (SELECT 1 FROM dead_letter WHERE dead_letter.seq = job.seq AND at = dead_at)
  FROM job WHERE dead_at IS NOT NULL AND (topic, dead_at, seq) > (?, ?, ?) ORDER BY topic, dead_at, seq LIMIT ?
"""
_STALE = """
SELECT json_group_array(seq) FROM dead_letter WHERE seq IN (SELECT value FROM json_each(?))
   AND NOT EXISTS (SELECT 1 FROM job WHERE job.seq = dead_letter.seq AND dead_at IS NOT NULL)
"""


def bury(tx: Transaction, seq: int, topic: str, at: float, of: Fingerprint) -> None:
    """Count a job that is a dead letter since a time."""
    forget(tx, json.dumps([seq]))  # an earlier release may have retried it
    tx.db.execute("INSERT OR IGNORE INTO dead_cause VALUES (?, ?, ?, ?)", (of.id, of.kind, of.place, of.message))
    tx.db.execute("INSERT INTO dead_letter (seq, topic, at, fingerprint) VALUES (?, ?, ?, ?)", (seq, topic, at, of.id))
    _count(tx, topic, of.id, 1)


def forget(tx: Transaction, seqs: str) -> None:
    """Count jobs, given as a JSON array of sequence numbers, no longer: they were retried or deleted."""
    sql = "DELETE FROM dead_letter WHERE seq IN (SELECT value FROM json_each(?)) RETURNING topic, fingerprint"
    for (topic, group), letters in Counter(tx.db.execute(sql, (seqs,)).fetchall()).items():
        _count(tx, topic, group, -letters)


def number(tx: Transaction, topic: str) -> int:
    """Return how many dead letters of a topic are counted."""
    return int(tx.first("SELECT coalesce(sum(letters), 0) FROM dead_group WHERE topic = ?", (topic,)))


def _count(tx: Transaction, topic: str, group: str, letters: int) -> None:
    tx.db.execute(
        "INSERT INTO dead_group VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET letters = letters + excluded.letters",
        (topic, group, letters),
    )
    if letters < 0:
        tx.db.execute("DELETE FROM dead_group WHERE topic = ? AND fingerprint = ? AND letters <= 0", (topic, group))


def amend(tx: Transaction, job_id: str, was: bytes, payload: bytes, topic: str) -> bool:
    """Replace the payload of a dead letter, see `Operable.amend`."""
    sql = "SELECT seq, topic FROM job WHERE id = ? AND dead_at IS NOT NULL AND payload = ?"
    row = tx.db.execute(sql, (job_id, was)).fetchone()
    if row is None:
        return False
    seq, old = row
    if topic and topic != old:
        if seq < 0:
            raise not_movable(job_id)
        tx.db.execute("UPDATE job SET topic = ? WHERE seq = ?", (topic, seq))
        group = tx.first("UPDATE dead_letter SET topic = ? WHERE seq = ? RETURNING fingerprint", (topic, seq))
        if group is not None:
            _count(tx, old, group, -1)
            _count(tx, topic, group, 1)
    tx.db.execute("UPDATE job SET payload = ? WHERE seq = ?", (payload, seq))
    return True


def housekeep(tx: Transaction, limit: int) -> bool:
    """Name the letters of earlier releases, and correct what those that still run leave out; return whether there is more."""
    unnamed = tx.db.execute(_UNNAMED, (limit,)).fetchall()
    _bury_all(tx, unnamed)
    _find_uncounted(tx)
    _forget_stale(tx)
    tx.db.execute("DELETE FROM dead_cause WHERE fingerprint NOT IN (SELECT fingerprint FROM dead_group)")
    return len(unnamed) == limit


def _bury_all(tx: Transaction, rows: Iterable[tuple[int, str, float, str | None, bytes | None]]) -> None:
    for seq, topic, dead_at, reason, errors in rows:
        bury(tx, seq, topic, dead_at, of_errors(reason, errors))


def of_errors(reason: str | None, errors: bytes | None) -> Fingerprint:
    """Return the fingerprint of a dead letter from the columns of its job."""
    last = json.loads(errors)[-1:] if errors else []
    return last_of(reason or "", [json.dumps(error).encode() for error in last])


def _find_uncounted(tx: Transaction) -> None:
    """Look at the next dead jobs in turn, and count those that an earlier release has buried."""
    after = json.loads(tx.first("SELECT value FROM meta WHERE key = 'letters_found'") or '["", 0, 0]')
    rows = tx.db.execute(_NEXT_DEAD, (*after, _CHECKED_AT_ONCE)).fetchall()
    _bury_all(tx, (row[:-1] for row in rows if not row[-1]))
    if len(rows) == _CHECKED_AT_ONCE:
        seq, topic, dead_at = rows[-1][:3]
        sql = "INSERT OR REPLACE INTO meta (key, value) VALUES ('letters_found', ?)"
        tx.db.execute(sql, (json.dumps([topic, dead_at, seq]),))
    elif after[0]:
        tx.db.execute("DELETE FROM meta WHERE key = 'letters_found'")


def _forget_stale(tx: Transaction) -> None:
    """Look at the next letters in turn, and forget those that an earlier release has retried or deleted."""
    after = tx.first("SELECT value FROM meta WHERE key = 'letters_checked'")
    sql = "SELECT seq FROM dead_letter WHERE seq > ? ORDER BY seq LIMIT ?"
    seqs = [seq for (seq,) in tx.db.execute(sql, (-(2**62) if after is None else after, _CHECKED_AT_ONCE))]
    stale = tx.first(_STALE, (json.dumps(seqs),)) if seqs else "[]"
    if stale != "[]":
        forget(tx, stale)
    if len(seqs) == _CHECKED_AT_ONCE:
        tx.db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('letters_checked', ?)", (seqs[-1],))
    elif after is not None:
        tx.db.execute("DELETE FROM meta WHERE key = 'letters_checked'")
