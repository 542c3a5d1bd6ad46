"""The dashboard in a Django project: `path("jobs/", include("jobs_web.django"))`, for staff users, under ASGI and WSGI.

The requests pass the project's middleware. Django's check of forms is left out for the dashboard, which has its own.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import NoReverseMatch, re_path, reverse
from django.utils.encoding import escape_uri_path, iri_to_uri

from jobs_core import App

from .inside import MOST_READ, Answer, Asked, Inside, OwnLoop, Whole, without_threads
from .roles import Role, User

ENDS_STREAMS = django.VERSION >= (5, 0)
"""Whether Django ends the stream of a client that is gone. Before, each page that was left kept one for ten minutes."""


def staff(user: Any) -> Role | None:
    """Return the role of a user of Django: superusers may do everything, other staff users may look, nobody else gets in."""
    if not (user.is_active and user.is_staff):
        return None
    return Role.ADMIN if user.is_superuser else Role.READ


def urls(role: Callable[[Any], Role | None] = staff, *, app: App | None = None) -> list[Any]:
    """Return the URL patterns of the dashboard, for `include`. `role` gives each user of Django a role, or None to refuse them.

    `app` is the application whose jobs it shows, by default that of the project. `role` may use the database.
    """
    loop = OwnLoop()
    inside = functools.cache(
        lambda *, streams: Inside(app, streams=streams)
    )  # at the first request: settings are complete then

    async def dashboard(request: HttpRequest, path: str) -> Any:
        user = await sync_to_async(_user_of)(request, role)
        if user is None and not request.user.is_authenticated:
            if request.method == "GET" and not path.startswith("api/"):
                return redirect_to_login(_address(request), _login())
            return HttpResponse("log in first\n", status=401, content_type="text/plain")
        if user is None:
            raise PermissionDenied("this user has no role in the dashboard")
        asked = _asked(request, path)
        if hasattr(request, "scope") and ENDS_STREAMS:  # ASGI
            return await _answered(await inside(streams=True).ask(asked, user))
        return _whole(await sync_to_async(loop.run)(inside(streams=False).whole(asked, user)))

    def refuse(request: HttpRequest, path: str) -> HttpResponse:
        return HttpResponse(f"{without_threads()}\n", status=501, content_type="text/plain")

    if without_threads():  # not even a coroutine as a view: Django would run an event loop for it
        return [re_path(r"^(?P<path>.*)$", refuse, name="jobs_web")]
    dashboard.csrf_exempt = True  # type: ignore[attr-defined] # the decorator of Django 4 would hide that this is a coroutine
    return [re_path(r"^(?P<path>.*)$", dashboard, name="jobs_web")]


def _user_of(request: HttpRequest, role: Callable[[Any], Role | None]) -> User | None:
    if not hasattr(request, "user"):
        raise ImproperlyConfigured(
            "jobs_web.django: the dashboard does not know its user: add the middleware of django.contrib.sessions, and "
            "django.contrib.auth.middleware.AuthenticationMiddleware after it, to MIDDLEWARE"
        )
    user = request.user
    found = role(user) if user.is_authenticated else None
    return None if found is None else User(user.get_username(), found)


def _login() -> str:
    """Return where staff users log in: in the admin, if the project has one."""
    with contextlib.suppress(NoReverseMatch):
        return str(reverse("admin:login"))
    return str(settings.LOGIN_URL)


def _path(request: HttpRequest) -> str:
    """Return the path that the browser knows. `request.path` has no FORCE_SCRIPT_NAME under ASGI."""
    return str(settings.FORCE_SCRIPT_NAME or request.META.get("SCRIPT_NAME", "")).rstrip("/") + request.path_info


def _address(request: HttpRequest) -> str:
    """Return the path with its query, as a link."""
    query = request.META.get("QUERY_STRING", "")
    return escape_uri_path(_path(request)) + (f"?{iri_to_uri(query)}" if query else "")


def _asked(request: HttpRequest, path: str) -> Asked:
    whole = _path(request)
    others = [(name, value) for name, value in request.headers.items() if name.lower() != "host"]
    return Asked(
        method=request.method,
        path=whole,
        prefix=whole.removesuffix(path).rstrip("/"),
        query=request.META.get("QUERY_STRING", "").encode("latin-1"),
        headers=[("Host", request.get_host()), *others],  # a proxy may name it otherwise: USE_X_FORWARDED_HOST
        scheme=request.scheme,
        client=request.META.get("REMOTE_ADDR", ""),
        body=request.read(MOST_READ),
    )


async def _answered(answer: Answer) -> Any:
    if answer.is_stream:
        return _with_headers(StreamingHttpResponse(answer.body, status=answer.status), answer)
    return _whole(await answer.whole())


def _whole(answer: Whole) -> Any:
    return _with_headers(HttpResponse(answer.body, status=answer.status), answer)


def _with_headers(response: Any, answer: Answer | Whole) -> Any:
    del response.headers["Content-Type"]
    for name, value in answer.headers:
        if name.lower() == "set-cookie":
            response.cookies.load(value)
        else:
            response.headers[name] = value
    return response


urlpatterns = urls()
