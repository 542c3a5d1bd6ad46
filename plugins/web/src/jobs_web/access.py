"""Who may use the dashboard: users with a token or a session, or those whom the application that mounts it lets in."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Awaitable, Callable
from typing import cast

from msgspec import Struct
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from jobs_core.units import times

from . import tokens
from .errors import Refused
from .proxies import TRUSTED
from .roles import User
from .sessions import Sessions
from .settings import TABLE, Token, is_loopback
from .watching import Fixed

COOKIE = "jobs_session"

LOCAL = "local"
"""The user of the links that `jobsctl web` and `jobsctl web link` print where the configuration has no users."""

LINK = "link"
"""The purpose of what a link of `jobsctl web link` contains."""

LINK_FOR = 600.0
"""Seconds for which it is valid."""

Authorize = Callable[[Request], "User | None"] | Callable[[Request], Awaitable["User | None"]]
"""Decides who may use a dashboard that is part of an application. A plain function is called on a thread, so it may block."""


class Session(Struct):
    """What a browser keeps: a random number, from which form tokens are made, and the user if there is one."""

    nonce: str
    user: str = ""
    fingerprint: str = ""
    is_new: bool = False


class Access:
    """Finds the user of a request. Any thread may use it."""

    def __init__(
        self, users: Fixed, seal: tokens.Seal, sessions: Sessions, authorize: Authorize | None = None, key: str = ""
    ) -> None:
        self._users = users
        self._seal = seal
        self._sessions = sessions
        self._authorize = authorize
        self._key = key
        self._local = Token("admin", tokens.hash_of(key or seal.mac("local", "")))

    @property
    def has_login(self) -> bool:
        """Return whether users log in with a token; else the application or a proxy says who they are."""
        return self._authorize is None and bool(self._tokens)

    @property
    def unknown(self) -> str:
        """Return what a user reads whom nobody knows."""
        if self._authorize is not None:
            return "the application that contains this dashboard does not let you in: log in there first"
        return "log in first" if self._tokens else "the proxy in front of this dashboard has not said who you are"

    @property
    def _tokens(self) -> dict[str, Token]:
        settings = self._users.now()
        return settings.tokens if settings.knows_users and not self._key else {**settings.tokens, LOCAL: self._local}

    def takes_bearer(self, request: Request) -> bool:
        """Return whether a request has a token for us, be it right or wrong; an application has tokens of its own."""
        return self._authorize is None and request.headers.get("authorization", "").lower().startswith("bearer ")

    async def user_of(self, request: Request, session: Session, *, bearer_only: bool = False) -> User | None:
        """Return the user of a request; None if they have to log in, or are refused. Without a bearer token, by the session.

        Raises Refused for a user whom a trusted proxy names and who has no role.
        """
        if self._authorize is not None:
            return await _asked(self._authorize, request)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.user_with(given.strip())
        if (named := self._named_by_proxy(request)) is not None:
            return named
        if bearer_only or not session.user or not self._sessions.is_open(session.nonce):
            return None
        user = self._named(session.user)
        return user if user is not None and user.fingerprint == session.fingerprint else None

    def _named_by_proxy(self, request: Request) -> User | None:
        """Return the user whom a trusted proxy names; None without such a name. What anybody else sends is no name."""
        settings = self._users.now()
        header = settings.trusted_user_header
        if not header or not request.scope.get(TRUSTED):
            return None
        names = request.headers.getlist(header)
        if names in ([], [""]):
            return None
        if len(names) > 1:  # the proxy adds its own to what the client has sent
            raise Refused(403, f"{header} was sent {times(len(names))}: let the proxy replace it")
        role = settings.role_of(names[0])
        if role is None:
            raise Refused(403, f"{names[0][:64]!r} has no role: {TABLE}.users gives one")
        return User(names[0], role)

    def user_with(self, token: str) -> User | None:
        """Return the user who has this token, or the link of `jobsctl web link`, which is valid where there are no tokens."""
        if LOCAL in self._tokens and self._seal.open(LINK, token) == LOCAL:
            return self._named(LOCAL)
        name = tokens.find(token, ((name, its.hash) for name, its in self._tokens.items()))
        return None if name is None else self._named(name)

    def _named(self, name: str) -> User | None:
        token = self._tokens.get(name)
        return None if token is None else User(name, token.allows, token.hash[-16:], tuple(token.topics))

    # -- sessions --------------------------------------------------------------------------------

    def session_of(self, request: Request) -> Session:
        """Return the session of a browser, or a new one."""
        found = self._seal.open("session", request.cookies.get(COOKIE, ""))
        if not isinstance(found, list) or len(found) != 3:
            return Session(secrets.token_urlsafe(16), is_new=True)
        return Session(*found)

    def save(self, request: Request, response: Response, session: Session) -> None:
        """Give the session to the browser.

        The cookie is Secure, except on this machine: a browser would not return it over plain HTTP.
        """
        sealed = self._seal.seal("session", [session.nonce, session.user, session.fingerprint], self._users.settings.session)
        path = request.scope.get("root_path") or "/"
        response.set_cookie(
            COOKIE,
            sealed,
            max_age=round(self._users.settings.session),
            path=path,
            secure=is_secure(request),
            httponly=True,
            samesite="lax",
        )

    def logged_in(self, request: Request, user: User) -> Session:
        """Begin a session of a user: its number is another one than before the login."""
        session = Session(secrets.token_urlsafe(16), user.name, user.fingerprint, is_new=True)
        client = request.client.host if request.client else "?"
        self._sessions.begin(session.nonce, user.name, client, request.headers.get("user-agent", ""))
        return session

    def nobody(self, session: Session) -> Session:
        """End a session, and return a new one without a user."""
        self._sessions.end_of(session.nonce)
        return Session(secrets.token_urlsafe(16), is_new=True)

    def form_token(self, session: Session, user: User | None) -> str:
        """Return the token that proves that a form was ours, and was given to this browser and user.

        The user counts, because somebody else may have planted the cookie, from a neighbouring domain.
        """
        return self._seal.mac("form", _owner(session, user))

    def is_form_token(self, session: Session, user: User | None, token: str) -> bool:
        """Return whether a form token belongs to this session and user."""
        return not session.is_new and self._seal.is_mac("form", _owner(session, user), token)


def _owner(session: Session, user: User | None) -> str:
    """Return to whom a form belongs."""
    return f"{session.nonce}\0{'' if user is None else user.name}"


async def _asked(authorize: Authorize, request: Request) -> User | None:
    """Return the user whom the application names. A function that may block is not called in the event loop."""
    if inspect.iscoroutinefunction(authorize):
        return cast("User | None", await authorize(request))
    return cast("User | None", await run_in_threadpool(authorize, request))


def is_secure(request: Request) -> bool:
    """Return whether the cookie must be sent through TLS only: always, except for a browser on this machine."""
    return request.url.scheme == "https" or not is_loopback(request.url.hostname or "")
