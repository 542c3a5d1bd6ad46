"""The guard of every route: user, role, read-only mode and form token before the endpoint, audit lines and errors after it."""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from jobs_core import ArgumentError, BackendUnavailable, ConfigError, JobsError, NotSupported, PluginError, QueueFull
from jobs_core.escapes import in_one_line
from jobs_core.machines import acting_as

from .access import Session
from .api.bodies import body_of
from .errors import Refused, TooMany
from .roles import User
from .visit import Visit, split_url

if TYPE_CHECKING:
    from .routes import Route
    from .site import Site

LARGEST_FORM = 1_000_000
"""Bytes of a form: arguments that an operator edits are among its fields."""

ABOUT = ("id", "topic", "to", "group", "rate", "limit", "concurrency", "burst", "name", "machine", "pool", "workers")
"""Fields of forms that audit lines name."""

RETRY_AFTER = 2
"""Seconds after which a program may try again what was refused with 429 or 503."""

audit = logging.getLogger("jobs.web.audit")
logger = logging.getLogger("jobs.web")


def guarded(site: Site, route: Route) -> Any:
    """Return the endpoint that Starlette calls for a route."""

    async def endpoint(request: Request) -> Response:
        is_api = route.kind.value == "api"
        session = Session("") if is_api else site.access.session_of(request)
        visit = Visit(site, request, session, None, {})
        try:
            visit.user = await site.access.user_of(request, session, bearer_only=is_api)
            response = await _answer(visit, route)
        except Exception as error:
            if route.changes and not isinstance(error, TooMany):
                _audit(visit, route, f"refused: {error}")
            return _failed(visit, route, error)
        if route.changes:
            if not route.producers:  # enqueues of programs come by the thousand, and are shown a second later anyway
                site.forget()
            if visit.outcome:
                _audit(visit, route, visit.outcome)
        if not is_api and session.is_new and "set-cookie" not in response.headers:
            site.access.save(request, response, session)
        return response

    return endpoint


async def _answer(visit: Visit, route: Route) -> Response:
    """Check everything, and call the endpoint."""
    if route.role is not None:
        if visit.user is None:
            if visit.site.access.takes_bearer(visit.request):
                visit.site.guesses.failed(visit.client)
            raise Refused(401, visit.site.access.unknown)
        if visit.user.role < route.role:
            raise Refused(403, f"this needs the role {route.role.word}, and {visit.user.name} has {visit.user.role.word}")
        if visit.user.topics and not route.producers:
            raise Refused(
                403, f"{visit.user.name} may only enqueue to {', '.join(visit.user.topics)}, and look at jobs in them"
            )
    if route.changes and visit.read_only:
        raise Refused(403, "this dashboard is read-only")
    if route.method != "GET":  # of the API, too: the application that mounts it may know its users by a cookie
        _check_origin(visit.request)
    if route.method != "GET" and route.kind.value == "page":
        visit.form = await _form(visit.request)
        if not visit.site.access.is_form_token(visit.session, visit.user, visit.form.get("token", "")):
            raise Refused(403, "the form is too old, or is not from this dashboard: go back, reload the page, and try again")
        if route.changes:
            response, is_first = await visit.site.doubles.once(
                visit.session.nonce, route.path, visit.form, lambda: _called(visit, route)
            )
            visit.outcome = visit.outcome if is_first else ""
            return response
    return await _called(visit, route)


async def _called(visit: Visit, route: Route) -> Response:
    """Call the endpoint."""
    if inspect.iscoroutinefunction(route.endpoint):
        found: Response = await route.endpoint(visit)
        return found
    with acting_as(f"{visit.user.name} in the dashboard" if visit.user is not None else ""):
        return await run_in_threadpool(route.endpoint, visit)


def _check_origin(request: Request) -> None:
    """Refuse a form that another site has sent: browsers say where it comes from, in one header or the other."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        allowed = site == "same-origin"
    else:
        origin = request.headers.get("origin")
        allowed = origin is None or split_url(origin).netloc == request.headers.get("host", "") != ""
    if not allowed:
        raise Refused(403, "another site has sent this form")


async def _form(request: Request) -> Mapping[str, str]:
    """Return the fields of a form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refused(415, "expected the fields of a form")
    body = await body_of(request, LARGEST_FORM, "form")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=2000, errors="strict"))
    except ValueError as error:
        raise Refused(400, f"the form cannot be read: {error}") from None


def _audit(visit: Visit, route: Route, how: str) -> None:
    """Log who changed what. Of a form, the names of what it is about are logged, and no arguments."""
    user = visit.user or User("nobody", 0)  # type: ignore[arg-type]
    about = {**visit.request.path_params, **{name: visit.form[name] for name in ABOUT if visit.form.get(name)}}
    params = " ".join(f"{name}={str(value)[:200]}" for name, value in about.items())
    if visit.picked:
        params += f" jobs={','.join(each[:64] for each in visit.picked)}"
    what = route.what or f"{route.method} {route.path}"
    audit.info("%s", in_one_line(f"{user.name} from {visit.client}: {what} {params.strip()}".rstrip() + f": {how}"))


def _failed(visit: Visit, route: Route, error: Exception) -> Response:
    """Answer with an error: a page, or problem+json."""
    status, text = _told(error)
    if status == 500 and not text:
        number = secrets.token_hex(4)
        logger.error("error %s of %s %s", number, route.method, route.path, exc_info=error)
        text = f"this is a fault of the dashboard, not yours: the log has it under {number}"
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, TooMany):
        headers["Retry-After"] = str(error.wait)
    if route.kind.value == "api":
        return problem(status, text, headers)
    login, again = "", visit.here if route.method == "GET" and status == 503 else ""
    if status == 401 and visit.site.access.has_login:
        if route.method == "GET":
            return RedirectResponse(visit.url("login", next=visit.here), 303)
        login, text = visit.url("login", next=visit.referrer), "your session has ended, and nothing was done"
    response = visit.page("error.html", status, title=titles(status), text=text, login=login, again=again)
    response.headers.update(headers if status == 429 else {})
    return response


def problem(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Answer a call of the API with an error, as RFC 9457 describes it."""
    body = {"type": "about:blank", "status": status, "title": titles(status), "detail": text}
    again = {"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else {}
    return JSONResponse(body, status, {**again, **(headers or {})}, "application/problem+json")


def in_api(request: Request) -> bool:
    """Return whether a request is for the API, though perhaps for no call of it."""
    path = request.url.path.removeprefix(str(request.scope.get("root_path", "")))
    return path.startswith("/api/")


def _told(error: Exception) -> tuple[int, str]:
    if isinstance(error, Refused):
        return error.status, error.text
    if isinstance(error, (BackendUnavailable, QueueFull)):
        return 503, str(error)
    if isinstance(error, NotSupported):
        return 501, str(error)
    if isinstance(error, ArgumentError):
        return 422, str(error)
    return (
        (409, str(error)) if isinstance(error, JobsError) and not isinstance(error, (ConfigError, PluginError)) else (500, "")
    )


_TITLES = {
    400: "The request cannot be read",
    401: "Log in first",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible here",
    409: "Not possible",
    408: "Too slow",
    413: "Too large",
    415: "Unexpected content type",
    422: "This does not fit",
    429: "Too many attempts",
    500: "Something went wrong",
    501: "This backend cannot do that",
    503: "The backend does not answer",
}


def titles(status: int) -> str:
    """Return the title of a status."""
    return _TITLES.get(status, f"Error {status}")
