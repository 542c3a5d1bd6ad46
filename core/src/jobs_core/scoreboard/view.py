"""The state of a worker that status, top, probes and metrics show, from the supervisor's record and the worker's file."""

from __future__ import annotations

from .layout import Phase
from .reader import WorkerHeader
from .state import Backlog, ChildState, SupervisorState

SHOWN = (
    "starting", "standby", "idle", "busy", "offline", "quiet", "silent", "retiring", "stopping", "releasing", "lost",
)  # fmt: skip
"""Every state; offline: its backend does not answer, silent: it sends no heartbeat, lost: no supervisor knows it."""

TAKING = ("idle", "busy")
"""States in which a worker serves."""


def waits_for(it: SupervisorState | None, backlog: Backlog | None) -> str:
    """Return the reason why a supervisor is not serving yet."""
    if it is None:
        return "the supervisor to start"
    if not it.generation:
        return "the application to be imported"
    if not it.housekeeper_pid:
        return _because("the housekeeper to start", it.helper_errors.get("housekeeper"))
    if backlog is None or backlog.pid != it.housekeeper_pid:
        return f"the backend {it.backend} to answer"
    if not backlog.answers:
        return _because(f"the backend {it.backend} to answer", backlog.error)
    for pool in it.pools:
        if pool.failures:
            return f"pool {pool.name}, whose workers exit soon after their start: {pool.last_error}"
    ready = sum(worker.state in ("serving", "quiet") for worker in it.workers)
    return f"workers to serve: {ready:,} of {sum(pool.wanted for pool in it.pools):,} do"


def _because(wait: str, error: str | None) -> str:
    return f"{wait}: {error}" if error else wait


def silence(lease: float) -> float:
    """Return the seconds without a heartbeat after which a worker counts as silent; an idle courier sends one every 5 s."""
    return max(6.0, lease / 2)


def shown_state(header: WorkerHeader, running: int, child: ChildState | None, monotonic: float, silent_after: float) -> str:
    """Return the state of a worker, one of SHOWN."""
    if child is None:
        return "lost"
    if child.state not in ("serving", "quiet"):
        return child.state
    if monotonic - header.beat > silent_after:
        return "silent"
    if header.phase in (Phase.OFFLINE, Phase.QUIET):
        return header.phase.name.lower()
    return "busy" if running else "idle"
