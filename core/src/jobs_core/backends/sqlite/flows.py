"""Flows: their parts, and what operators do to them. What follows from the ends of members is in `members.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..base import Outgoing
from ..flows import Part
from .connection import Transaction


def push_part(tx: Transaction, part: Part, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
    """Store a part of a flow; return the conflicts by id, or the first answer again for a repeated request.

    Raises FlowLost, and BackendError for members that cannot be; then the caller rolls back, or nothing was changed.
    """
    raise NotImplementedError


def cancel_flow(tx: Transaction, flow_id: str, *, finale: bool = False) -> bool:
    """Bar all members that have not started, and ask the owners of the others to cancel them: see `Operable.cancel_flow`."""
    raise NotImplementedError


def retry_flow(tx: Transaction, flow_id: str) -> int:
    """Requeue the dead members of a flow, at most SLICE; return how many."""
    raise NotImplementedError
