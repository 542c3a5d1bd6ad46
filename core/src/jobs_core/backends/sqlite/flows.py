"""Flows: their parts, and what operators and housekeeping do to them; `members.py` has what follows from ends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ...errors import BackendError, FlowLost
from ..base import Outgoing
from ..flows import SLICE, Part
from . import joining, letters, members, operators, queue, removal, requests
from .connection import Transaction


def push_part(tx: Transaction, part: Part, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
    """Store a part of a flow; return the conflicts by id, or the first answer again for a repeated request.

    Raises FlowLost, and BackendError for members that cannot be, before it changes anything.
    """
    known = requests.recall(tx, request)
    if known is not None:
        answer: Mapping[str, str] = json.loads(known)
        return answer
    conflicts = _push_part(tx, part, messages)
    requests.remember(tx, request, json.dumps(conflicts))
    return conflicts


def _push_part(tx: Transaction, part: Part, messages: Sequence[Outgoing]) -> dict[str, str]:
    """Add a part, unless it was added before or a message is refused; close the flow with the last one."""
    row = tx.db.execute("SELECT refuses, open_until IS NULL, parts FROM flow WHERE id = ?", (part.flow,)).fetchone()
    if row is None and part.number:
        raise FlowLost.of(part.flow, "is unknown: it was dropped, because its parts came too slowly")
    refuses, closed, parts = row or (None, False, 0)
    if refuses:
        raise FlowLost.of(part.flow, refuses)
    if closed or part.number < parts:
        return {}
    if part.number > parts:
        raise BackendError(f"part {part.number} of flow {part.flow} came before part {parts}: push them in order")
    conflicts = queue.conflicts(tx, messages)
    if conflicts:
        queue.count_refused(tx, messages, conflicts)
        return conflicts
    for message in messages:
        if message.member is None or message.member.flow != part.flow:
            raise BackendError(f"{message.id} is in a part of flow {part.flow}, but is not a member of it")
    new = joining.Joining(tx, joining.find(tx, part.flow) or joining.Flow(id=part.flow), messages)
    planned = new.plan()
    if row is None:
        new.flow = joining.create(tx, part)
    for message in messages:
        queue.take_key(tx, message)
    queue.count_pushed(tx, messages)
    new.add(planned)
    sql = "UPDATE flow SET parts = ?, open_until = ? WHERE n = ?"
    tx.db.execute(sql, (part.number + 1, tx.now + part.open_for, new.flow.n))
    if part.last:
        _close(tx, new.flow.n)
    members.proceed(tx)
    return {}


def _close(tx: Transaction, n: int) -> None:
    """Let a flow begin: nothing may be added now but by its members."""
    (opening,) = tx.db.execute("UPDATE flow SET open_until = NULL WHERE n = ? RETURNING opening", (n,)).fetchone()
    members.follow_group(tx, n, opening, members.Phase.DONE)
    members.note_work(tx, n, members.JUDGE)


# -- operators ---------------------------------------------------------------------------------------


def cancel_flow(tx: Transaction, flow_id: str, *, finale: bool = False) -> bool:
    """Bar all members that have not started, and ask the owners of the others to cancel them: see `Operable.cancel_flow`."""
    sql = "SELECT n FROM flow WHERE id = ? AND ended_at IS NULL"
    n = tx.first(sql, (flow_id,))
    if n is None:
        return False
    _cancel(tx, n, "was cancelled", finale=finale)
    members.proceed(tx)
    return True


_RUNNING = """
  FROM reserved CROSS JOIN flow_member USING (seq) WHERE reserved.seq < 0 AND flow = :flow AND (:cancelled = 1 OR NOT finale)
"""


def _cancel(tx: Transaction, n: int, refuses: str, *, finale: bool) -> None:
    sql = "SELECT open_until IS NULL, cancelled, active FROM flow WHERE n = ?"
    closed, cancelled, active = tx.db.execute(sql, (n,)).fetchone()
    facts = {"flow": n, "cancelled": 2 if finale and closed and cancelled != 1 else 1}
    tx.db.execute("UPDATE flow SET cancelled = :cancelled WHERE n = :flow", facts)
    if active:
        owners = tx.db.execute(f"SELECT DISTINCT owner {_RUNNING}", facts).fetchall()
        tx.db.execute(f"INSERT OR IGNORE INTO cancel SELECT reserved.seq {_RUNNING}", facts)
        tx.call += tuple(owner for (owner,) in owners)
    if not closed:
        tx.db.execute("UPDATE flow SET refuses = ? WHERE n = ?", (refuses, n))
        _close(tx, n)
    members.note_work(tx, n, members.SWEEP)


_DEAD = """
SELECT count(*), json_group_array(seq) FROM (
       SELECT seq FROM flow CROSS JOIN flow_member INDEXED BY flow_member_dead ON flow = n
        WHERE flow.id = ? AND cancelled = 0 AND phase = 4 AND lost IS NOT 4 LIMIT ?)
"""


def retry_flow(tx: Transaction, flow_id: str) -> int:
    """Requeue the dead members of a flow, but those that it refused, at most SLICE; return how many."""
    count, seqs = tx.db.execute(_DEAD, (flow_id, SLICE)).fetchone()
    operators.revive(tx, seqs)
    members.retry(tx, seqs)
    return int(count)


# -- housekeeping ------------------------------------------------------------------------------------

_OLD_LETTERS = """
SELECT count(*), json_group_array(seq) FROM (
       SELECT seq FROM flow CROSS JOIN flow_member INDEXED BY flow_member_dead ON flow = n
        WHERE dead > 0 AND cancelled = 0 AND failed_at <= :oldest AND phase = 4 AND topic = :topic LIMIT :most)
"""
_DROPPED_AT_ONCE = 100


def housekeep(tx: Transaction) -> bool:
    """Drop open flows whose parts come too slowly, carry on, and forget old flows; return whether there is more to do."""
    sql = "SELECT n FROM flow WHERE open_until <= ? LIMIT ?"
    overdue = tx.db.execute(sql, (tx.now, _DROPPED_AT_ONCE)).fetchall()
    for (n,) in overdue:
        _cancel(tx, n, "was dropped, because its parts came too slowly", finale=False)
    more = members.proceed(tx)
    return _forget_some(tx) or more or len(overdue) == _DROPPED_AT_ONCE


def drop_letters(tx: Transaction, topic: str, oldest: float, most: int) -> int:
    """Drop dead letters of flows in which nothing has failed since a time; return how many."""
    count, seqs = tx.db.execute(_OLD_LETTERS, {"topic": topic, "oldest": oldest, "most": most}).fetchone()
    if count:
        removal.delete(tx, seqs)
        letters.forget(tx, seqs)
        members.leave(tx, seqs)
    return int(count)


def _forget_some(tx: Transaction) -> bool:
    """Delete flows that are no longer kept, up to SLICE rows; return whether there is more to do."""
    left = SLICE
    for (n,) in tx.db.execute(
        "SELECT n FROM flow WHERE kept_until <= ? ORDER BY kept_until LIMIT ?", (tx.now, SLICE)
    ).fetchall():
        for table, key in (("flow_member", "seq"), ("flow_result", "n"), ("flow_group", "n")):
            some = f"SELECT {key} FROM {table} WHERE flow = ? LIMIT ?"
            left -= tx.db.execute(f"DELETE FROM {table} WHERE {key} IN ({some})", (n, left)).rowcount
        if left <= 1:
            return True
        left -= tx.db.execute("DELETE FROM flow WHERE n = ?", (n,)).rowcount
    return False
