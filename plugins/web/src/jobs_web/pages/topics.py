"""Topics: how much waits in each, who serves it, and pausing."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from jobs_core import BackendUnavailable
from jobs_core.backends.base import Backend
from jobs_core.operating.snapshot import Snapshot

from ..visit import Visit

MOST = 500
"""Topics that the page shows; a filter finds others."""


def show(visit: Visit) -> Response:
    """List the topics, those with jobs first."""
    snapshot = visit.snapshot()
    if snapshot.error:
        raise BackendUnavailable(snapshot.error)
    wanted = visit.query("q").lower()
    found = [each for each in snapshot.topics.items() if wanted in each[0].lower()]
    return visit.page(
        "topics.html",
        snapshot=snapshot,
        topics=found[:MOST],
        more=len(found) - MOST,
        all=len(snapshot.topics),
        served=_served(snapshot),
        columns=[field for field in ("limited", "waiting") if any(getattr(number, field) for _, number in found)],
        can_pause=visit.operate(_can_pause),
    )


def _can_pause(backend: Backend) -> bool:
    return "pause" in backend.features


def _served(snapshot: Snapshot) -> Mapping[str, int]:
    """Return how many workers serve each topic, on all machines that report."""
    found: dict[str, int] = {}
    for machine in snapshot.machines or ():
        for pool in machine.pools:
            for topic in pool.topics:
                found[topic] = found.get(topic, 0) + pool.serving
    return found


def pause(visit: Visit) -> Response:
    """Pause a topic on all machines."""
    topic = visit.field("topic")
    visit.operate(lambda backend: backend.pause(topic))
    return visit.back(f"Topic {topic} is paused: running jobs continue, and no other starts.", visit.came_from("topics"))


def resume(visit: Visit) -> Response:
    """Resume a topic."""
    topic = visit.field("topic")
    visit.operate(lambda backend: backend.resume(topic))
    return visit.back(f"Topic {topic} is no longer paused.", visit.came_from("topics"))
