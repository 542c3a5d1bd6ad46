"""The figures of flows for metrics."""

from __future__ import annotations

from collections.abc import Iterable

from ...backends.flows import FlowStatus

STATES = ("waiting", "active", "done", "dead", "cancelled")


def members_by_state(flows: Iterable[FlowStatus]) -> dict[str, int]:
    """Count the members of the flows that have not ended."""
    found = [flow for flow in flows if flow.state in ("open", "running", "failed")]
    return {state: sum(getattr(flow, state) for flow in found) for state in STATES}
