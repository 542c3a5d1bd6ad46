"""Settle reservations: plain acknowledgements in bulk, all others one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..base import ENDS, Answer, Checkpoint, Outcome, Settlement, State
from . import lines, members, notes, queue, removal, views
from .connection import Transaction

_AMONG = f"IN ({removal.THESE})"
_HELD = """
SELECT seq, id, topic, errors, EXISTS (SELECT 1 FROM cancel WHERE cancel.seq = job.seq), slots
  FROM reserved JOIN job USING (seq) WHERE token = ? AND owner = ?
"""
_FINAL = ENDS | {Outcome.CANCELLED}
_STORE = "INSERT OR REPLACE INTO checkpoint (seq, cursor) VALUES (?, ?)"


def settle(tx: Transaction, settles: Sequence[tuple[str, Sequence[Settlement]]]) -> list[list[Answer]]:
    """Settle one batch of each owner; return the answers of each batch in order."""
    plain = [
        (
            owner,
            [
                s.token
                for s in settlements
                if s.outcome is Outcome.DONE and s.result is None and not (s.followups or s.close_limits or s.timeline)
            ],
        )
        for owner, settlements in settles
    ]
    answers = []
    for (owner, settlements), (_, tokens), gone in zip(settles, plain, _delete_done(tx, plain), strict=True):
        if gone and len(tokens) == len(settlements):
            answers.append([Answer.SETTLED] * len(tokens))
        else:
            done = frozenset(tokens) if gone else frozenset()
            answers.append([Answer.SETTLED if s.token in done else _settle_one(tx, owner, s) for s in settlements])
    if tx.flows:
        members.proceed(tx)
    return answers


def _delete_done(tx: Transaction, plain: Sequence[tuple[str, list[int | str]]]) -> list[bool]:
    """Delete done jobs in bulk, but only in batches whose reservations all belong to their owner.

    Returns, for each batch, whether it is one of these.
    """
    tokens = [token for _, batch in plain for token in batch]
    if len(tokens) < 2:
        return [False] * len(plain)
    these = json.dumps(tokens)
    whole, holds, joined = _are_theirs(tx, plain, these)
    if not all(whole):
        these = json.dumps([token for (_, batch), ours in zip(plain, whole, strict=True) if ours for token in batch])
    seqs = f"SELECT seq FROM reserved WHERE token {_AMONG}"
    ended = tx.first(f"SELECT json_group_array(seq) FROM ({seqs} AND seq < 0)", (these,)) if joined else ""
    removal.forget_marks(tx, seqs, these)
    tx.db.execute(f"DELETE FROM job WHERE seq IN ({seqs})", (these,))
    if holds:
        held = tx.db.execute(f"DELETE FROM reserved WHERE token {_AMONG} RETURNING slots", (these,)).fetchall()
        lines.free(tx, [slots for (slots,) in held])
    else:
        tx.db.execute(f"DELETE FROM reserved WHERE token {_AMONG}", (these,))
    if ended:
        members.enter(tx, ended, members.Phase.DONE)
    return whole


def _are_theirs(tx: Transaction, plain: Sequence[tuple[str, list[int | str]]], these: str) -> tuple[list[bool], bool, bool]:
    """Return, for each batch, whether all its tokens are reservations of its owner, without repetitions.

    And whether any has slots, and whether any may be of a member of a flow. `these` is a JSON array of all tokens.
    """
    if len(plain) == 1:
        owner, tokens = plain[0]
        sql = f"SELECT count(*), count(slots) FROM reserved WHERE owner = ? AND token {_AMONG}"
        count, holds = tx.db.execute(f"{sql} AND seq > 0", (owner, these)).fetchone()
        joined = count < len(tokens)
        if joined:
            count, holds = tx.db.execute(sql, (owner, these)).fetchone()
        return [count == len(tokens)], bool(holds), joined
    rows = tx.db.execute(f"SELECT token, owner, slots, seq FROM reserved WHERE token {_AMONG}", (these,)).fetchall()
    held: dict[int | str, str] = {row[0]: row[1] for row in rows}
    whole = [[held.pop(token, None) for token in tokens].count(owner) == len(tokens) for owner, tokens in plain]
    return whole, any(row[2] is not None for row in rows), any(row[3] < 0 for row in rows)


def _settle_one(tx: Transaction, owner: str, settlement: Settlement) -> Answer:
    row = tx.db.execute(_HELD, (settlement.token, owner)).fetchone()
    if row is None:
        return Answer.STALE
    seq, job_id, topic, errors, cancelled, slots = row
    tx.db.execute("DELETE FROM reserved WHERE token = ?", (settlement.token,))
    if slots is not None:
        lines.free(tx, [slots], tokens=not settlement.ran)
    if settlement.close_limits:
        lines.close(tx, settlement.close_limits)
    if settlement.cursor is not None:
        tx.db.execute(_STORE, (seq, settlement.cursor))
    if settlement.outcome in _FINAL or cancelled:
        _end(tx, seq, job_id, errors, settlement)
    else:
        _queue_again(tx, seq, errors, settlement)
        tx.wake.add(topic)
    return Answer.SETTLED


def _end(tx: Transaction, seq: int, job_id: str, errors: bytes | None, settlement: Settlement) -> None:
    """End a job with its follow-ups. What a member of a flow adds counts before its end does."""
    outcome, reason, phase = settlement.outcome, "", members.Phase.GONE
    if outcome is Outcome.DONE:
        if settlement.timeline:
            notes.keep_done(tx, seq, views.record(tx.db, job_id, tx.now), settlement)
        removal.end(tx, [job_id], State.DONE, settlement.result_ttl, settlement.result, kept=bool(settlement.timeline))
        phase = members.Phase.DONE
    elif outcome in (Outcome.DEAD, Outcome.EXPIRED):
        notes.add(tx, seq, settlement.notes, settlement.timeline)
        counted = int(settlement.counts and outcome is Outcome.DEAD)
        reason, phase = settlement.reason or outcome.value, members.Phase.DEAD
        removal.make_dead(tx, seq, reason, removal.note(errors, settlement.error), counted, settlement.fingerprint)
    else:
        ttl = settlement.result_ttl if outcome is Outcome.CANCELLED else tx.options.cancelled_ttl
        removal.end(tx, [job_id], State.CANCELLED, ttl)
    if settlement.followups and outcome in ENDS:
        queue.push(tx, [settlement.followups], by=seq)
    if seq < 0:
        result = settlement.result if outcome is Outcome.DONE else None
        members.end(tx, seq, phase, reason=reason, result=result)


def checkpoint(tx: Transaction, owner: str, checkpoints: Sequence[Checkpoint]) -> None:
    """Store the cursors of jobs that this owner has reserved with these tokens."""
    tx.db.executemany(
        "INSERT OR REPLACE INTO checkpoint (seq, cursor) SELECT seq, ? FROM reserved WHERE token = ? AND owner = ?",
        [(each.cursor, each.token, owner) for each in checkpoints],
    )


def _queue_again(tx: Transaction, seq: int, errors: bytes | None, settlement: Settlement) -> None:
    """Queue a job again after a release, a retry or a deferral."""
    notes.add(tx, seq, settlement.notes, settlement.timeline)
    if settlement.limits is not None:
        queue.set_limits(tx, seq, settlement.limits)
    if settlement.outcome is Outcome.RELEASE:
        queue.release(tx, [seq], unstarted=[seq])
        return
    if settlement.outcome is Outcome.RETRY:
        noted = removal.note(errors, settlement.error)
        tx.db.execute("UPDATE job SET attempt = attempt + 1, errors = ? WHERE seq = ?", (noted, seq))
    else:
        tx.db.execute("UPDATE job SET deferrals = deferrals + 1 WHERE seq = ?", (seq,))
    if settlement.after > 0:
        tx.db.execute("UPDATE job SET due = ? WHERE seq = ?", (tx.now + settlement.after, seq))
    else:
        queue.make_ready(tx, [seq], tx.now)
