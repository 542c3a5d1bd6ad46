"""The dashboard of one application as an ASGI application."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs_core import App, ConfigError, current_app
from jobs_core.operating import snapshot
from jobs_core.operating.attention import Finding
from jobs_core.operating.risks import risks

from . import tokens
from .access import Access, Authorize
from .assets import Assets
from .attempts import Attempts
from .doubles import Doubles
from .guard import guarded, in_api, problem, titles
from .guesses import Guesses
from .live import SNAPSHOT, Live, Subject
from .pages.watched import PAGES
from .reading import Latest
from .risks import Risks
from .routes import ROUTES, Kind
from .sessions import Sessions
from .settings import TABLE, Settings, read
from .shown import add_filters, printable
from .visit import Visit
from .watching import Fixed

T = TypeVar("T")

MENU = (
    ("", "Overview"), ("topics", "Topics"), ("jobs", "Jobs"), ("dead", "Dead letters"), ("flows", "Flows"),
    ("limits", "Limits"), ("schedule", "Schedule"), ("stats", "Statistics"), ("machines", "Machines"),
)  # fmt: skip

MOST_KEPT = 200
"""Things that are shared in this way."""

KEPT = 10.0
"""Seconds for which all visits share what changes rarely."""

POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
        "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'",
    )
)  # fmt: skip

HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",  # with "no-referrer", browsers would hide the origin of our own forms
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
}


@functools.cache
def _assets() -> Assets:
    return Assets()


@functools.cache
def _templates() -> jinja2.Environment:
    """Return the templates: compiled once, however many sites a process has. Every value is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("jobs_web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=printable,
    )
    made.globals["asset"] = _assets().name
    add_filters(made)
    return made


class Site:
    """What all visits share. Any thread may use it."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        authorize: Authorize | None = None,
        key: str = "",
        *,
        users: Fixed | None = None,
        streams: bool = True,
    ) -> None:
        self.app = app
        self.settings = settings
        self.streams = streams  # whether the server can hold a connection open without holding a thread
        self.seal = tokens.Seal(tokens.key_in(app.run_dir))
        self.sessions = Sessions(app.run_dir, settings.session)
        self.access = Access(users or Fixed(settings), self.seal, self.sessions, authorize, key)
        self.browsers, self.addresses, self.guesses = Attempts(), Attempts(), Guesses()
        self.doubles = Doubles()
        self.assets, self.templates = _assets(), _templates()
        self.latest = Latest(lambda: snapshot.take(self.app))
        self.risks = Risks(lambda: risks(self.app))
        self.live = Live(lambda: self.latest.get(None), self._read, lambda subject, found: PAGES[subject.page].still(found))
        self._kept: dict[str, tuple[float, Any]] = {}

    def snapshot(self) -> snapshot.Snapshot:
        """Return what the backend holds, as it was read a moment ago: see `Latest`. Blocks briefly."""
        return self.latest.get()

    def warm_up(self) -> None:
        """Begin to read the backend, without waiting for it, and compile the templates, so that no first page has to."""
        self.latest.begin()
        for name in self.templates.list_templates():
            self.templates.get_template(name)

    def kept(self, name: str, read: Callable[[], T]) -> T:
        """Return what `read` returns, or has returned within KEPT seconds: statistics change once a minute. Blocks."""
        at, found = self._kept.get(name, (0.0, None))
        if time.monotonic() - at > KEPT or at == 0.0:
            found = read()
            if len(self._kept) >= MOST_KEPT:
                self._kept = {}
            self._kept[name] = time.monotonic(), found
        return found  # type: ignore[no-any-return]

    def subject(self, page: str, name: str) -> Subject:
        """Return what is followed for a page: one thing, or the snapshot that most pages share."""
        return Subject(page, name) if page in PAGES else SNAPSHOT

    def read(self, page: str, name: str = "") -> Any:
        """Return what a page shows: read now, or found by the reader if somebody watches it. Blocks; raises Refused."""
        subject = Subject(page, name)
        found = self.live.found(subject)
        return self._read(subject) if found is None else found

    def _read(self, subject: Subject) -> Any:
        return PAGES[subject.page].read(self, subject.name)

    def forget(self) -> None:
        """Forget what was read: something has changed."""
        self.live.forget()
        self.risks.forget()
        self.latest.forget()
        self._kept.clear()

    @property
    def menu(self) -> Sequence[tuple[str, str]]:
        """Return the pages of the menu: path and label."""
        return MENU

    def link(self, visit: Visit, finding: Finding) -> tuple[str, str]:
        """Return the page about a finding, and what the link to it says: "fix it" only if this user can fix it there.

        The page is "" if there is none.
        """
        pages = {
            "dead": (visit.url("dead", "group", id=finding.name) if finding.name else visit.url("dead"), "operate"),
            "topic": (visit.url("topics", q=finding.name), "operate"),
            "flow": (visit.url("flow", id=finding.name), "operate"),
            "limit": (visit.url("limits", limit=finding.name) + "#override", "admin"),
            "machine": (visit.url("machines"), "admin"),
        }
        page, role = pages.get(finding.subject, ("", "read"))
        return page, "fix it" if finding.fix and finding.name and visit.may(role) else "look"


def create(app: App | None, authorize: Authorize | None = None, *, streams: bool = True) -> Starlette:
    """Return the dashboard of an application. Raises ConfigError; see `jobs_web.create_app`."""
    app = current_app() if app is None else app
    settings = read(app.config.plugins.get("web", {}))
    if authorize is None and not settings.tokens:
        raise ConfigError(
            f"{TABLE}: nobody could use the dashboard: add a token (`jobsctl web token NAME` makes one), or pass "
            "create_app(authorize=...)"
        )
    return asgi(Site(app, settings, authorize, streams=streams))


def asgi(site: Site) -> Starlette:
    """Return the ASGI application of a site."""

    async def error_page(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        without = request.url.path.rstrip("/")
        if status == 404 and request.method == "GET" and without.removeprefix(request.scope.get("root_path", "")) in pages:
            # a path: an address would be made from the Host that the client claims
            return RedirectResponse(without + (f"?{request.url.query}" if request.url.query else ""))
        if in_api(request):
            headers = error.headers if isinstance(error, HTTPException) else None
            return problem(status, "there is no such call: GET /api/v1/openapi.json lists all", headers)
        session = site.access.session_of(request)
        visit = Visit(site, request, session, None, {})
        with contextlib.suppress(Exception):  # a page about an error must not raise another one
            visit.user = await site.access.user_of(request, session)
        text = "there is no such page" if status == 404 else "nothing was done"
        return visit.page("error.html", status, title=titles(status), text=text)

    by_path: dict[str, list[StarletteRoute]] = {}
    for route in ROUTES:
        made = StarletteRoute(route.path, guarded(site, route), methods=[route.method])
        by_path.setdefault(route.path, []).append(made)
    pages = {route.path for route in ROUTES if route.kind is Kind.PAGE and route.method == "GET"} - {"/"}
    routes = [route for group in by_path.values() for route in group]
    routes.append(StarletteRoute("/static/{name}", site.assets.serve))
    served = Starlette(
        routes=routes,
        middleware=[Middleware(WholePath), Middleware(SecurityHeaders)],
        exception_handlers={HTTPException: error_page, Exception: error_page},
    )
    served.router.redirect_slashes = False
    return served


class WholePath:
    """Completes the path of a request whose proxy has taken off the prefix that `FastAPI(root_path=...)` names.

    Starlette does not find what is mounted by such a path.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root, above = scope.get("root_path", ""), scope.get("app_root_path", "")
        path = scope.get("path", "")
        if above and not _is_below(path, root) and _is_below(above + path, root):
            scope = {**scope, "path": above + path}
        await self._app(scope, receive, send)


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")


class SecurityHeaders:
    """Adds the headers that protect users to every answer. A page is never stored by a cache."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                extra = [] if b"cache-control" in names else [(b"cache-control", b"no-store")]
                extra += [(name, value) for name, value in HEADERS.items() if name not in names]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await self._app(scope, receive, protected if scope["type"] == "http" else send)
