"""What the reader of live.py reads for pages that are about one thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from . import dead, flows, job, jobs, limits, machines, schedule, stats

if TYPE_CHECKING:
    from ..site import Site


class Watched(Struct, frozen=True):
    """How a subject is read, and what counts as a change of it."""

    read: Callable[[Site, str], Any]
    still: Callable[[Any], bytes]


PAGES = {
    "job": Watched(job.read, job.still),
    "jobs": Watched(jobs.read, jobs.still),
    "dead": Watched(dead.read, dead.still),
    "dead/group": Watched(dead.read_group, dead.still_group),
    "flows": Watched(flows.read_list, flows.still_list),
    "flow": Watched(flows.read, flows.still),
    "limits": Watched(limits.read, limits.still),
    "machines": Watched(machines.read, machines.still),
    "machines/stacks": Watched(machines.read_stacks, machines.still_stacks),
    "schedule": Watched(schedule.read, schedule.still),
    "stats": Watched(stats.read, stats.still),
}
