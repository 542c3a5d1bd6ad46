"""One request of a user who may make it: what pages and actions are given, and how they answer."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from jobs_core import App
from jobs_core.backends.base import Backend
from jobs_core.operating.snapshot import Snapshot

from .access import Session
from .errors import Refused
from .roles import Role, User

if TYPE_CHECKING:
    from .site import Site

T = TypeVar("T")

FLASH = "jobs_said"
"""The cookie with what the last action has done, for the page that is shown next."""

SAID_FOR = 60.0

PICK = "pick"
"""What the names of fields with the ids of picked jobs begin with."""

MOST_PICKED = 100
"""Most jobs that are picked at once: a page lists fewer."""


def split_url(text: str) -> SplitResult:
    """Return the parts of a URL that a header gives; no parts for one that cannot be read."""
    try:
        return urlsplit(text)
    except ValueError:
        return urlsplit("")


class Visit:
    """A request with its user. One thread at a time uses it."""

    def __init__(self, site: Site, request: Request, session: Session, user: User | None, form: Mapping[str, str]) -> None:
        self.site = site
        self.request = request
        self.session = session
        self.user = user
        self.form = form
        self.read_only = site.settings.read_only
        self.outcome = "done"  # of an action, for its audit line; "" if it has only asked whether the user is sure
        self._read_at = 0.0  # of the snapshot that the page shows

    @property
    def app(self) -> App:
        return self.site.app

    @property
    def role(self) -> Role | None:
        return None if self.user is None else self.user.role

    @property
    def named(self) -> str:
        """Return the name of the user; "" without one."""
        return "" if self.user is None else self.user.name

    async def is_still_allowed(self) -> bool:
        """Return whether the user may do what they could when the request came: their session may have ended meanwhile.

        An application that cannot tell is taken for a no: the next request, which is answered with the reason, is logged.
        """
        is_api = self.session.nonce == ""
        try:
            return await self.site.access.user_of(self.request, self.session, bearer_only=is_api) == self.user
        except Exception:
            return False

    @property
    def client(self) -> str:
        """Return the address of the client, for audit lines."""
        return self.request.client.host if self.request.client else "?"

    def snapshot(self) -> Snapshot:
        """Return what the backend holds, as it was read a moment ago; the page tells its age if that is not small."""
        found = self.site.snapshot()
        self._read_at = found.at
        return found

    @property
    def read_ago(self) -> float:
        """Return how many seconds ago the snapshot of this page was read; 0 without one."""
        return max(0.0, time.time() - self._read_at) if self._read_at else 0.0

    def operate(self, action: Callable[[Backend], T]) -> T:
        """Run a call on the backend. Blocks: endpoints run on a thread."""
        return self.app.operate(action)

    def may(self, word: str) -> bool:
        """Return whether the user may do what this role may; nobody changes anything in read-only mode."""
        needed = Role[word.upper()]
        return self.user is not None and self.user.role >= needed and (needed is Role.READ or not self.read_only)

    @property
    def sees_arguments(self) -> bool:
        """Return whether the user may see what jobs were given, said and returned."""
        return self.site.settings.show_arguments or (self.role is not None and self.role > Role.READ)

    def path(self, name: str) -> str:
        """Return a part of the path of this route."""
        return str(self.request.path_params[name])

    def query(self, name: str, default: str = "") -> str:
        return self.request.query_params.get(name, default)

    def field(self, name: str) -> str:
        """Return a field of the form; refuse a form without it."""
        found = self.form.get(name, "")
        if not found:
            raise Refused(400, f"the form has no {name}")
        return found

    @property
    def picked(self) -> list[str]:
        """Return the ids of the jobs that the user has picked in a table, each once; up to MOST_PICKED."""
        found = (value for name, value in self.form.items() if name.startswith(PICK) and value)
        return list(dict.fromkeys(found))[:MOST_PICKED]

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """Return a number of the query within its bounds."""
        text = self.query(name)
        return min(max(int(text), least), most) if text.isascii() and text.isdecimal() and len(text) < 10 else default

    # -- answers ---------------------------------------------------------------------------------

    def url(self, *parts: str, **query: object) -> str:
        """Return the URL of a path under the prefix of the dashboard; each part is escaped."""
        found = f"{self._root}/" + "/".join(quote(part, safe="") for part in parts)
        given = {key: value for key, value in query.items() if value not in (None, "")}
        return f"{found}?{urlencode(given)}" if given else found

    def page(self, template: str, status: int = 200, **context: object) -> Response:
        """Answer with a page."""
        text = self.site.templates.get_template(template).render(visit=self, said=self._said(), **context)
        response = HTMLResponse(text, status)
        if FLASH in self.request.cookies:
            response.delete_cookie(FLASH, path=self._cookie_path)
        return response

    def back(self, said: str, to: str, *, good: bool = True) -> Response:
        """Answer an action: go to a page, which says what was done."""
        self.outcome = "done" if good else f"not done: {said}"
        response = RedirectResponse(to, 303)
        sealed = self.site.seal.seal("said", [said[:1000], good], SAID_FOR)
        response.set_cookie(FLASH, sealed, max_age=round(SAID_FOR), path=self._cookie_path, httponly=True, samesite="lax")
        return response

    def unsure(self, question: str, detail: str, cancel: str, example: Sequence[tuple[str, str]] = ()) -> Response | None:
        """Ask before what cannot be undone: return a page that sends the form again; None if the user is sure.

        An example shows what would happen, as terms and texts.
        """
        if self.form.get("sure") == "yes":
            return None
        self.outcome = ""
        fields = {name: value for name, value in self.form.items() if name not in ("token", "sure", "once")}
        here = self.url(*self.request.scope["path"].removeprefix(self._root).strip("/").split("/"))
        return self.page(
            "sure.html", question=question, detail=detail, fields=fields, cancel=cancel, action=here, example=example
        )

    def came_from(self, page: str) -> str:
        """Return the path of the page from which a form was sent, if it says so and it is inside; else that of `page`."""
        return self.inside(self.form.get("back", "")) or self.url(page)

    @property
    def referrer(self) -> str:
        """Return the path of the page from which the browser came, with its query; "" if it is not of this dashboard."""
        came = split_url(self.request.headers.get("referer", ""))
        if came.netloc != self.request.headers.get("host", ""):
            return ""
        return self.inside(came.path + (f"?{came.query}" if came.query else ""))

    def inside(self, target: str) -> str:
        """Return a path if it leads into this dashboard; else "", because a link may come from anybody."""
        is_inside = target.startswith(self.url("")) and not target.startswith("//") and "\\" not in target
        return target if is_inside and target.isprintable() else ""

    def _said(self) -> tuple[str, bool] | None:
        found = self.site.seal.open("said", self.request.cookies.get(FLASH, ""))
        return (str(found[0]), bool(found[1])) if isinstance(found, list) and len(found) == 2 else None

    @property
    def form_token(self) -> str:
        return self.site.access.form_token(self.session, self.user)

    @functools.cached_property
    def once(self) -> str:
        """Return a number of this page, for its forms: each of them is carried out once."""
        return secrets.token_urlsafe(9)

    @property
    def here(self) -> str:
        """Return the path of this page with its query, for forms that come back to it."""
        query = self.request.url.query
        return self.request.url.path + (f"?{query}" if query else "")

    @property
    def _root(self) -> str:
        return str(self.request.scope.get("root_path", ""))

    @property
    def _cookie_path(self) -> str:
        return self._root or "/"
