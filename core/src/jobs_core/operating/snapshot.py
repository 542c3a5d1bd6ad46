"""What an operator wants to know first about all machines: one reading of the backend, in a bounded number of round trips."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from ..app import App
from ..backends.base import Backend, Counts
from ..backends.flows import FlowStatus
from ..backends.letters import UNNAMED, DeadGroup
from ..backends.limits import LimitState
from ..errors import JobsError
from ..machines import MachineReport, reports

MOST_GROUPS = 5
"""Most groups of dead letters of one topic that a snapshot has."""

MOST_FLOWS = 20
"""Most flows that a snapshot has: the failed ones come first."""

MOST_LIMITS = 50
"""Most values of limits that a snapshot has: those with the most waiting jobs come first."""

T = TypeVar("T")


class Snapshot(Struct, frozen=True):
    """The state of the backend at one moment. None stands for what the backend lacks."""

    at: float
    topics: dict[str, Counts] = {}
    paused: frozenset[str] = frozenset()
    groups: list[DeadGroup] | None = None
    flows: list[FlowStatus] | None = None
    limits: list[LimitState] | None = None
    machines: list[MachineReport] | None = None
    error: str = ""  # why the backend does not answer; then the rest is empty


def take(app: App) -> Snapshot:
    """Return a snapshot; if the backend does not answer, one that says so. Blocks for some round trips."""
    try:
        return app.operate(lambda backend: _read(app, backend))
    except JobsError as error:
        return Snapshot(time.time(), error=str(error))


def topics_of(app: App, backend: Backend) -> list[str]:
    """Return the topics that the configuration, the jobs imported here or any stored job names, sorted."""
    stored = backend.topics() if "browse" in backend.features else []
    return sorted({*app.config.topics, *app.config.served_topics(), *app.destinations(), *stored})


def _read(app: App, backend: Backend) -> Snapshot:
    names = topics_of(app, backend)

    def having(feature: str, read: Callable[[], T]) -> T | None:
        return read() if feature in backend.features else None

    counts = backend.counts(names)
    dead = [name for name, number in counts.items() if number.dead]
    return Snapshot(
        time.time(),
        counts,
        backend.paused(),
        having("dead_groups", lambda: [group for group in _groups(backend, dead) if group.fingerprint.id != UNNAMED]),
        having("flows", lambda: backend.flows(MOST_FLOWS)),
        having("limits", lambda: backend.limits(MOST_LIMITS)),
        having("documents", lambda: reports(backend)),
    )


def _groups(backend: Backend, topics: list[str]) -> list[DeadGroup]:
    return backend.dead_groups(topics, MOST_GROUPS) if topics else []
