"""Read flows without changing them: their status, members, and the results that members take."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from ..base import State
from ..flows import MOST_LISTED, After, FlowStatus, MemberStatus
from . import members as members_of
from . import views
from .members import Phase

_STATE = """
CASE WHEN cancelled THEN 'cancelled' WHEN open_until IS NOT NULL THEN 'open' WHEN dead > 0 THEN 'failed'
     WHEN ended_at IS NOT NULL THEN 'done' ELSE 'running' END
"""
_STATUS = f"""
SELECT id, {_STATE} AS state, name, total, waiting + stuck, active, done, dead, gone, created_at, ended_at, :now FROM flow
"""
_AT_REST = """
SELECT open_until IS NULL AND waiting + active = 0 AND NOT EXISTS (SELECT 1 FROM flow_work WHERE flow_work.flow = flow.n)
  FROM flow WHERE id = ?
"""
_RANK = "CASE state WHEN 'failed' THEN 0 WHEN 'open' THEN 1 WHEN 'running' THEN 1 ELSE 2 END"
_STATES = {
    Phase.WAITING: State.WAITING,
    Phase.STUCK: State.WAITING,
    Phase.DONE: State.DONE,
    Phase.DEAD: State.DEAD,
    Phase.GONE: State.CANCELLED,
    Phase.SKIPPED: State.CANCELLED,
    Phase.LET: State.DEAD,
}
_MEMBERS = """
SELECT seq, id, topic, coalesce(label, ''), flow_member.finale, phase, place, reason
  FROM flow_member {} LEFT JOIN flow_group ON flow_group.n = stage
 WHERE flow_member.flow = :flow AND {}
 ORDER BY seq LIMIT :most OFFSET :offset
"""
_ALL_MEMBERS = _MEMBERS.format("", f"(:total <= {MOST_LISTED} OR phase IN (0, 1, 2, 4))")
_DEAD_MEMBERS = _MEMBERS.format("INDEXED BY flow_member_dead", "phase = 4")


def status(db: sqlite3.Connection, flow_id: str, now: float) -> FlowStatus | None:
    """Return the state and progress of a flow; None if it is unknown."""
    row = db.execute(f"{_STATUS} WHERE id = :flow", {"flow": flow_id, "now": now}).fetchone()
    return None if row is None else FlowStatus(*row)


def at_rest(db: sqlite3.Connection, flow_id: str, now: float) -> tuple[bool, FlowStatus | None]:
    """Return whether a wait for a flow is over: it is unknown (None), has ended, or can go on only by a retry."""
    row = db.execute(_AT_REST, (flow_id,)).fetchone()
    if row is None:
        return True, None
    return (True, status(db, flow_id, now)) if row[0] else (False, None)


def listed(db: sqlite3.Connection, most: int, offset: int, now: float) -> list[FlowStatus]:
    """List flows, the failed ones first: see `Operable.flows`."""
    sql = f"SELECT * FROM ({_STATUS}) ORDER BY {_RANK}, created_at DESC LIMIT :most OFFSET :offset"
    return [FlowStatus(*row) for row in db.execute(sql, {"most": most, "offset": offset, "now": now})]


def members(db: sqlite3.Connection, flow_id: str, most: int, offset: int, now: float, *, dead: bool) -> list[MemberStatus]:
    """List the members of a flow in the order in which they were added: see `Operable.flow_members`."""
    row = db.execute("SELECT n, total FROM flow WHERE id = ?", (flow_id,)).fetchone()
    if row is None:
        return []
    facts = {"flow": row[0], "total": row[1], "most": min(most, MOST_LISTED), "offset": offset}
    rows = db.execute(_DEAD_MEMBERS if dead else _ALL_MEMBERS, facts).fetchall()
    states = views.states(db, [seq for seq, *_, phase, _, _ in rows if phase == Phase.ACTIVE], now)
    return [_member(row, states) for row in rows]


def _member(row: tuple[Any, ...], states: dict[int, State]) -> MemberStatus:
    seq, job_id, topic, stage, finale, phase, place, reason = row
    state = _STATES.get(phase) or states.get(seq, State.UNKNOWN)
    _, after, when, label = json.loads(place)
    targets = tuple(After(*each) for each in after)
    return MemberStatus(
        job_id, state.value, label, topic, stage, bool(finale), targets, when, phase == Phase.STUCK, reason or ""
    )


def results(db: sqlite3.Connection, flow_id: str, job_ids: Sequence[str], most_bytes: int) -> list[tuple[str, bytes]]:
    """Return the ids and results of members, as many as fit into `most_bytes` together, and at least the first."""
    row = db.execute("SELECT n FROM flow WHERE id = ?", (flow_id,)).fetchone()
    return members_of.results(db, row[0], json.dumps(list(job_ids)), most_bytes, first=True) if row else []
