"""Logging in with a token, and out."""

from __future__ import annotations

import asyncio
import logging

from starlette.responses import RedirectResponse, Response

from jobs_core.escapes import one_line

from .access import LOCAL
from .errors import Refused, TooMany
from .roles import User
from .visit import Visit

SLOW = 2.0
"""Seconds that a login waits once its address has sent many wrong tokens: others may share it, so it is not refused."""

audit = logging.getLogger("jobs.web.audit")


async def ask(visit: Visit) -> Response:
    """Show the form for a token. A link with the key of `jobsctl web` logs in at once."""
    if not visit.site.access.has_login:
        raise Refused(404, "the application that contains this dashboard decides who may use it")
    if key := visit.query("key"):
        return await _tried(visit, key, "", by_link=True)
    return visit.page("login.html", next=_inside(visit, visit.query("next")))


async def enter(visit: Visit) -> Response:
    """Log in."""
    if not visit.site.access.has_login:
        raise Refused(404, "the application that contains this dashboard decides who may use it")
    return await _tried(visit, visit.form.get("key", "").strip(), visit.form.get("next", ""))


async def leave(visit: Visit) -> Response:
    """Log out: the browser gets a session without a user."""
    response = RedirectResponse(visit.url("login"), 303)
    visit.site.access.save(visit.request, response, visit.site.access.nobody(visit.session))
    return response


async def _user(visit: Visit, token: str, by_link: bool) -> User:
    """Return the user of a token; refuse a wrong one, and a browser that has tried too many.

    A guesser may be a new browser each time, but then waits, and has 256 random bits to guess. A link logs in the user to whom
    `jobsctl web` has given it. A token in an address would stay in histories and in logs of proxies.
    """
    browsers, addresses = visit.site.browsers, visit.site.addresses
    if (wait := browsers.wait(visit.session.nonce)) > 0:
        raise TooMany("too many wrong tokens from this browser", wait)
    if addresses.wait(visit.client) > 0:
        await asyncio.sleep(SLOW)
    user = visit.site.access.user_with(token)
    if user is None:
        browsers.failed(visit.session.nonce)
        addresses.failed(visit.client)
        audit.warning("login from %s refused: no such token", one_line(visit.client))
        raise Refused(403, "there is no such token")
    if by_link and user.name != LOCAL:
        raise Refused(403, "enter the token here, not in an address, which browsers and proxies keep: replace this token soon")
    audit.info("%s logged in from %s with role %s", user.name, one_line(visit.client), user.role.word)
    return user


async def _tried(visit: Visit, token: str, target: str, *, by_link: bool = False) -> Response:
    """Log a user in, and go on to a page; ask again after a wrong token."""
    target = _inside(visit, target)
    try:
        user = await _user(visit, token, by_link)
    except Refused as error:
        response = visit.page("login.html", error.status, next=target, problem=error.text)
        if isinstance(error, TooMany):
            response.headers["Retry-After"] = str(error.wait)
        return response
    response = RedirectResponse(target, 303)
    visit.site.access.save(visit.request, response, visit.site.access.logged_in(visit.request, user))
    return response


def _inside(visit: Visit, target: str) -> str:
    """Return where to go after the login: only to a path of this dashboard, since the link may come from anybody."""
    return visit.inside(target) or visit.url("")
