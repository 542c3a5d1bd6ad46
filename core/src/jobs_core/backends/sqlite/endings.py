"""How reservations end: done in bulk, everything else one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..base import Answer, Outcome, Settlement, State
from . import leaving, lines
from .connection import Transaction

_TOKENS = "SELECT value FROM json_each(?)"
_HELD = """
SELECT seq, id, topic, errors, EXISTS (SELECT 1 FROM cancel WHERE cancel.seq = job.seq)
  FROM reserved JOIN job USING (seq) WHERE token = ? AND owner = ?
"""


def settle(tx: Transaction, owner: str, settlements: Sequence[Settlement]) -> list[Answer]:
    """Settle a batch; answers in order."""
    plain = [s.token for s in settlements if s.outcome is Outcome.DONE and s.result is None and not s.followups]
    bulk = len(plain) > 1 and _delete_done(tx, owner, plain)
    if bulk and len(plain) == len(settlements):
        return [Answer.SETTLED] * len(settlements)
    gone = frozenset(plain) if bulk else frozenset()
    return [Answer.SETTLED if s.token in gone else _settle_one(tx, owner, s) for s in settlements]


def _delete_done(tx: Transaction, owner: str, tokens: list[int | str]) -> bool:
    """Delete done jobs by their reservations; does nothing and says False unless all are the owner's."""
    these = json.dumps(tokens)
    ours = tx.first(f"SELECT count(*) FROM reserved WHERE owner = ? AND token IN ({_TOKENS})", (owner, these))
    if ours != len(tokens):
        return False
    seqs = f"SELECT seq FROM reserved WHERE token IN ({_TOKENS})"
    leaving.forget_marks(tx, seqs, these)
    tx.db.execute(f"DELETE FROM job WHERE seq IN ({seqs})", (these,))
    tx.db.execute(f"DELETE FROM reserved WHERE token IN ({_TOKENS})", (these,))
    return True


def _settle_one(tx: Transaction, owner: str, settlement: Settlement) -> Answer:
    row = tx.db.execute(_HELD, (settlement.token, owner)).fetchone()
    if row is None:
        return Answer.STALE
    seq, job_id, topic, errors, cancelled = row
    tx.db.execute("DELETE FROM reserved WHERE token = ?", (settlement.token,))
    outcome = settlement.outcome
    if outcome is Outcome.DONE:
        leaving.end(tx, [job_id], State.DONE, settlement.result_ttl, settlement.result)
        if settlement.followups:
            lines.add(tx, settlement.followups)
    elif outcome is Outcome.CANCELLED:
        leaving.end(tx, [job_id], State.CANCELLED, settlement.result_ttl)
    elif outcome in (Outcome.DEAD, Outcome.EXPIRED):
        counted = int(settlement.counts and outcome is Outcome.DEAD)
        leaving.bury(tx, seq, settlement.reason or outcome.value, leaving.note(errors, settlement.error), counted)
    elif cancelled:
        leaving.end(tx, [job_id], State.CANCELLED, tx.options.cancelled_ttl)
    else:
        _send_back(tx, seq, errors, settlement)
        tx.wake.add(topic)
    return Answer.SETTLED


def _send_back(tx: Transaction, seq: int, errors: bytes | None, settlement: Settlement) -> None:
    """Release, retry or defer."""
    if settlement.outcome is Outcome.RELEASE:
        lines.put_back(tx, json.dumps([seq]))
        return
    if settlement.outcome is Outcome.RETRY:
        noted = leaving.note(errors, settlement.error)
        tx.db.execute("UPDATE job SET attempt = attempt + 1, errors = ? WHERE seq = ?", (noted, seq))
    else:
        tx.db.execute("UPDATE job SET deferrals = deferrals + 1 WHERE seq = ?", (seq,))
    if settlement.after > 0:
        tx.db.execute("UPDATE job SET due = ? WHERE seq = ?", (tx.now + settlement.after, seq))
    else:
        lines.line_up(tx, [seq], tx.now)
