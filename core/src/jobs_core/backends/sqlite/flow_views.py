"""Read flows without changing them: their status, members, and the results that members take."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ..flows import FlowStatus, MemberStatus


def status(db: sqlite3.Connection, flow_id: str, now: float) -> FlowStatus | None:
    """Return the state and progress of a flow; None if it is unknown."""
    raise NotImplementedError


def at_rest(db: sqlite3.Connection, flow_id: str, now: float) -> tuple[bool, FlowStatus | None]:
    """Return whether a wait for a flow is over: it is unknown (None), has ended, or can go on only by a retry."""
    raise NotImplementedError


def listed(db: sqlite3.Connection, most: int, offset: int, now: float) -> list[FlowStatus]:
    """List flows, the failed ones first: see `Operable.flows`."""
    raise NotImplementedError


def members(db: sqlite3.Connection, flow_id: str, most: int, offset: int, now: float) -> list[MemberStatus]:
    """List the members of a flow in the order in which they were added: see `Operable.flow_members`."""
    raise NotImplementedError


def results(db: sqlite3.Connection, flow_id: str, job_ids: Sequence[str], most_bytes: int) -> list[tuple[str, bytes]]:
    """Return the ids and results of members, as many as fit into `most_bytes` together, and at least the first."""
    raise NotImplementedError
