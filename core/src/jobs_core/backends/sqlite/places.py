"""Read the places of members in their flows, for the records of jobs."""

from __future__ import annotations

import json
import sqlite3

from ..flows import After, Member
from .members import BAD

WAITING_FOR = 10
"""Most targets that a record names of those for which a member still waits."""

_MEMBER = "SELECT flow.id, place, inputs FROM flow_member JOIN flow ON n = flow WHERE seq = ?"
_TARGETS = """
SELECT job.id, phase
  FROM json_each(:targets) AS target CROSS JOIN job ON job.id = target.value CROSS JOIN flow_member USING (seq)
 WHERE flow = :flow AND phase IN (0, 1, 2, 4)
"""
_STAGES = """
SELECT label, ended FROM flow_group WHERE flow = :flow AND label IN (SELECT value FROM json_each(:targets))
   AND ifnull(ended, 0) NOT IN (3, 5, 6)
"""


def place_of(db: sqlite3.Connection, seq: int) -> Member | None:
    """Return the place of a member as it was pushed; None if its flow is forgotten."""
    row = db.execute(_MEMBER, (seq,)).fetchone()
    if row is None:
        return None
    stage, after, when, label = json.loads(row[1])
    return Member(row[0], stage, tuple(After(*each) for each in after), when, tuple(json.loads(row[2] or "[]")), label)


def waiting_for(db: sqlite3.Connection, place: Member) -> tuple[str, ...]:
    """Return some of the targets that a member still waits for, dead ones first."""
    flow, is_open, ended = db.execute(
        "SELECT flow.n, open_until IS NOT NULL, ended FROM flow JOIN flow_group ON flow_group.n = body WHERE id = ?",
        (place.flow,),
    ).fetchone()
    if is_open:
        return ("the last part of the flow",)
    ends: dict[tuple[str, str], int | None] = {}
    for kind, sql in (("job", _TARGETS), ("stage", _STAGES)):
        targets = json.dumps([after.target for after in place.after if after.kind == kind])
        ends |= {(kind, target): end for target, end in db.execute(sql, {"targets": targets, "flow": flow})}
    if ended is None or ended in BAD:
        ends["all", "*"] = ended
    open_ = [after for after in place.after if (after.kind, after.target) in ends]
    open_.sort(key=lambda after: ends[after.kind, after.target] not in BAD)
    return tuple(after.target for after in open_)[:WAITING_FOR]
