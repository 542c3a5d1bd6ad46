"""Every route, in one table, with the role that it needs. No endpoint can be reached except through it.

To add a page or an action, add a row. `guard.py` finds the user, checks role, read-only mode and form token, calls the
endpoint on a thread with a `Visit`, and turns errors into pages; an endpoint only reads, acts and answers. Calls of the HTTP
API are rows of kind API (`Route(path, "POST", endpoint, Role.OPERATE, Kind.API)`): the guard then takes a bearer token alone,
no session, checks no form token, and answers errors as problem+json.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from starlette.responses import Response

from . import live, login
from .api.openapi import document
from .api.operation import PREFIX
from .api.operations import OPERATIONS
from .pages import dead, flows, job, jobs, limits, machines, overview, schedule, stats, topics
from .roles import Role
from .visit import Visit

Endpoint = Callable[[Visit], "Response | Any"]
"""Answers a visit. A function is called on a thread; an `async def` in the event loop, which it must not block."""


class Kind(enum.Enum):
    """How users are found, and how errors are answered."""

    PAGE = "page"  # by a session; with pages
    API = "api"  # by a bearer token; with problem+json


class Route(Struct, frozen=True):
    """A path and method, with the least role that they need; None: everybody, without a login."""

    path: str
    method: str
    endpoint: Endpoint
    role: Role | None
    kind: Kind = Kind.PAGE
    what: str = ""  # of an action: what it does, for the audit line
    producers: bool = False  # open to users who may only enqueue to certain topics; the endpoint looks at these

    @property
    def changes(self) -> bool:
        """Return whether it changes something, so that read-only mode refuses it."""
        return self.method != "GET" and self.role is not None


ROUTES: tuple[Route, ...] = (
    Route("/", "GET", overview.show, Role.READ),
    Route("/live", "GET", live.stream, Role.READ),
    Route("/topics", "GET", topics.show, Role.READ),
    Route("/topics/pause", "POST", topics.pause, Role.OPERATE, what="pause"),
    Route("/topics/resume", "POST", topics.resume, Role.OPERATE, what="resume"),
    Route("/jobs", "GET", jobs.show, Role.READ),
    Route("/jobs/retry", "POST", jobs.retry, Role.OPERATE, what="retry"),
    Route("/jobs/cancel", "POST", jobs.cancel, Role.OPERATE, what="cancel"),
    Route("/jobs/drop", "POST", jobs.drop, Role.ADMIN, what="drop"),
    Route("/find", "GET", jobs.find, Role.READ),
    Route("/job", "GET", job.show, Role.READ),
    Route("/job/cancel", "POST", job.cancel, Role.OPERATE, what="cancel"),
    Route("/job/retry", "POST", job.retry, Role.OPERATE, what="retry"),
    Route("/job/discard", "POST", job.discarded, Role.OPERATE, what="discard"),
    Route("/job/edit", "POST", job.edit, Role.OPERATE, what="edit and retry"),
    Route("/job/drop", "POST", job.drop, Role.ADMIN, what="drop"),
    Route("/dead", "GET", dead.show, Role.READ),
    Route("/dead/group", "GET", dead.group, Role.READ),
    Route("/dead/retry", "POST", dead.retry, Role.OPERATE, what="retry the dead letters of"),
    Route("/dead/drop", "POST", dead.drop, Role.ADMIN, what="drop the dead letters of"),
    Route("/dead/stop", "POST", dead.stop_action, Role.OPERATE, what="cancel the action"),
    Route("/flows", "GET", flows.show, Role.READ),
    Route("/flow", "GET", flows.flow, Role.READ),
    Route("/flow/retry", "POST", flows.retry, Role.OPERATE, what="retry the flow"),
    Route("/flow/cancel", "POST", flows.cancel, Role.OPERATE, what="cancel the flow"),
    Route("/stats", "GET", stats.show, Role.READ),
    Route("/limits", "GET", limits.show, Role.READ),
    Route("/limits/override", "POST", limits.override, Role.ADMIN, what="override"),
    Route("/limits/reset", "POST", limits.reset, Role.ADMIN, what="reset"),
    Route("/schedule", "GET", schedule.show, Role.READ),
    Route("/schedule/run", "POST", schedule.run, Role.OPERATE, what="run now"),
    Route("/schedule/save", "POST", schedule.save, Role.ADMIN, what="save the schedule entry"),
    Route("/schedule/remove", "POST", schedule.remove, Role.ADMIN, what="remove the schedule entry"),
    Route("/schedule/pause", "POST", schedule.pause, Role.ADMIN, what="pause the schedule entry"),
    Route("/schedule/resume", "POST", schedule.resume, Role.ADMIN, what="resume the schedule entry"),
    Route("/machines", "GET", machines.show, Role.READ),
    Route("/machines/quiet", "POST", machines.quiet, Role.ADMIN, what="quiet"),
    Route("/machines/resume", "POST", machines.resume, Role.ADMIN, what="resume"),
    Route("/machines/reload", "POST", machines.reload, Role.ADMIN, what="reload"),
    Route("/machines/stacks", "GET", machines.stacks, Role.READ),
    Route("/machines/stacks", "POST", machines.take_stacks, Role.ADMIN, what="take the stacks of"),
    Route("/machines/scale", "POST", machines.scale, Role.ADMIN, what="scale"),
    Route("/login", "GET", login.ask, None),
    Route("/login", "POST", login.enter, None),
    Route("/logout", "POST", login.leave, None),
    Route(f"{PREFIX}/openapi.json", "GET", document, None, Kind.API),
    *(
        Route(PREFIX + each.path, each.method, each.endpoint, each.role, Kind.API, producers=each.producers)
        for each in OPERATIONS
    ),
)
