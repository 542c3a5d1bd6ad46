"""What state a worker is in, for status, top, probes and metrics alike: the supervisor's word beside the worker's own."""

from __future__ import annotations

from .layout import Phase
from .reader import Header
from .state import ChildState

SHOWN = (
    "starting", "standby", "idle", "busy", "offline", "quiet", "silent", "retiring", "stopping", "releasing", "lost",
)  # fmt: skip
"""Every state there is; offline: its backend does not answer it, silent: it does not beat, lost: no supervisor knows it."""

TAKING = ("idle", "busy")
"""States in which a worker serves."""


def silence(lease: float) -> float:
    """Seconds without a beat after which a worker is called silent; a courier that has nothing to do beats every 5 s."""
    return max(6.0, lease / 2)


def shown_state(header: Header, running: int, child: ChildState | None, monotonic: float, silent_after: float) -> str:
    """One of SHOWN."""
    if child is None:
        return "lost"
    if child.state not in ("serving", "quiet"):
        return child.state
    if monotonic - header.beat > silent_after:
        return "silent"
    if header.phase in (Phase.OFFLINE, Phase.QUIET):
        return header.phase.name.lower()
    return "busy" if running else "idle"
