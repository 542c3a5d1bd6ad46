"""Remove jobs from the queue, for good or to the dead letters, and keep records of their end."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..base import KEPT_ERRORS, State
from ..letters import Fingerprint
from . import letters, lines
from .connection import Transaction

THESE = "SELECT value FROM json_each(?)"
DISPENSABLE = "(seq > 0 OR NOT EXISTS (SELECT 1 FROM flow_member WHERE flow_member.seq = job.seq AND phase < 5))"
"""A condition for dead letters that no flow waits for, or is about to."""

_MARKS = """
SELECT EXISTS (SELECT 1 FROM unique_key WHERE scope <> 'time'), EXISTS (SELECT 1 FROM cancel),
       EXISTS (SELECT 1 FROM checkpoint)
"""


def end_queued(tx: Transaction, job_ids: Sequence[str], state: State, ttl: float) -> str:
    """Remove ready, scheduled, waiting or dead jobs; see `end`. Return their sequence numbers as a JSON array."""
    sql = f"SELECT json_group_array(seq) FROM job WHERE id IN ({THESE})"
    seqs: str = tx.first(sql, (json.dumps(list(job_ids)),))
    dequeue(tx, seqs)
    end(tx, job_ids, state, ttl)
    return seqs


def dequeue(tx: Transaction, seqs: str) -> None:
    """Take jobs, given as a JSON array of sequence numbers, out of the plain lines and the others."""
    tx.db.execute(
        "DELETE FROM ready WHERE (topic, rank, since, seq) IN "
        f"(SELECT topic, rank, coalesce(ready_at, pushed_at), seq FROM job WHERE seq IN ({THESE}))",
        (seqs,),
    )
    lines.leave(tx, seqs)


def end(
    tx: Transaction, job_ids: Sequence[str], state: State, ttl: float, result: bytes | None = None, *, kept: bool = False
) -> None:
    """Remove jobs that are not ready from the queue, and keep a record of their end for `ttl` seconds if it is worth it."""
    these = json.dumps(list(job_ids))
    if ttl > 0 and (result is not None or state is State.CANCELLED or kept):
        tx.db.execute(
            f"INSERT OR REPLACE INTO ended SELECT id, topic, ?, ?, ?, ? FROM job WHERE id IN ({THESE})",
            (state.value, tx.now, tx.now + ttl, result, these),
        )
    forget_marks(tx, f"SELECT seq FROM job WHERE id IN ({THESE})", these)
    tx.db.execute(f"DELETE FROM job WHERE id IN ({THESE})", (these,))


def cancel(tx: Transaction, seqs: str, reason: str) -> None:
    """Remove jobs, given as a JSON array of sequence numbers, and keep a record that they were cancelled."""
    row = (State.CANCELLED.value, tx.now, tx.now + tx.options.cancelled_ttl, reason, seqs)
    tx.db.execute(f"INSERT OR REPLACE INTO ended SELECT id, topic, ?, ?, ?, ? FROM job WHERE seq IN ({THESE})", row)
    delete(tx, seqs)


def delete(tx: Transaction, seqs: str) -> None:
    """Remove jobs, given as a JSON array of sequence numbers, without a record."""
    forget_marks(tx, THESE, seqs)
    tx.db.execute(f"DELETE FROM job WHERE seq IN ({THESE})", (seqs,))


def make_dead(
    tx: Transaction, seq: int, reason: str, errors: bytes | None, counted: int, of: Fingerprint | None = None
) -> None:
    """Move a job to the dead letters; drop the oldest ones beyond the limit, except for those that flows need."""
    forget_marks(tx, THESE, json.dumps([seq]), keep_cursor=True)
    topic = tx.first(
        "UPDATE job SET dead_at = ?, due = NULL, reason = ?, errors = ?, attempt = attempt + ? WHERE seq = ? RETURNING topic",
        (tx.now, reason, errors, counted, seq),
    )
    letters.bury(tx, seq, topic, tx.now, of or letters.of_errors(reason, errors))
    most = tx.options.retention(topic).dead_max
    if letters.number(tx, topic) > most:  # the query looks at as many letters as are kept
        drop_letters(
            tx,
            f"SELECT seq FROM job WHERE topic = ? AND dead_at IS NOT NULL AND {DISPENSABLE} "
            "ORDER BY dead_at DESC, seq DESC LIMIT 100 OFFSET ?",
            (topic, most),
        )


def drop_letters(tx: Transaction, seqs: str, parameters: Sequence[object]) -> list[int]:
    """Delete dead letters, which a query selects, for good; return their sequence numbers."""
    deleted = [seq for (seq,) in tx.db.execute(f"DELETE FROM job WHERE seq IN ({seqs}) RETURNING seq", parameters).fetchall()]
    if deleted:
        letters.forget(tx, json.dumps(deleted))
    return deleted


def forget_marks(tx: Transaction, seqs: str, these: str, *, keep_cursor: bool = False) -> None:
    """Free the unique keys of jobs that end, and delete their cancellation requests and cursors, if the store has any."""
    keys, cancels, cursors = tx.db.execute(_MARKS).fetchone()
    if keys:
        tx.db.execute(
            "DELETE FROM unique_key WHERE scope <> 'time' AND (key, job_id) IN "
            f"(SELECT unique_key, id FROM job WHERE seq IN ({seqs}) AND unique_key IS NOT NULL)",
            (these,),
        )
    if cancels:
        tx.db.execute(f"DELETE FROM cancel WHERE seq IN ({seqs})", (these,))
        tx.db.execute(f"DELETE FROM meta WHERE key IN (SELECT 'force:' || id FROM job WHERE seq IN ({seqs}))", (these,))
    if cursors and not keep_cursor:
        tx.db.execute(f"DELETE FROM checkpoint WHERE seq IN ({seqs})", (these,))


def note(errors: bytes | None, error: bytes) -> bytes | None:
    """Return a job's history with one more entry."""
    if not error:
        return errors
    history = json.loads(errors) if errors else []
    return json.dumps([*history, json.loads(error)][-KEPT_ERRORS:]).encode()
