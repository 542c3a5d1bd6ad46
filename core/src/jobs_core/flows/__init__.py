"""Jobs that wait for one another: flows, chains and groups. docs/together.md explains them.

`backends/flows.py` says what a flow is, and how a backend keeps it.
"""

from __future__ import annotations

from ..backends.flows import FlowStatus
from .flow import Flow
from .handle import FlowHandle, WorkHandle
from .members import FlowMember, Tail, ended
from .work import Chain, Group, chain, group

__all__ = ["Chain", "Flow", "FlowHandle", "FlowMember", "FlowStatus", "Group", "Tail", "WorkHandle", "chain", "ended", "group"]
