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

from . import login
from .pages import overview
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

    @property
    def changes(self) -> bool:
        """Return whether it changes something, so that read-only mode refuses it."""
        return self.method != "GET" and self.role is not None


ROUTES: tuple[Route, ...] = (
    Route("/", "GET", overview.show, Role.READ),
    Route("/login", "GET", login.ask, None),
    Route("/login", "POST", login.enter, None),
    Route("/logout", "POST", login.leave, None),
)
