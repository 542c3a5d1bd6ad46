"""The dashboard in a Flask application: `app.register_blueprint(blueprint(authorize), url_prefix="/jobs")`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from urllib.parse import urlencode

from flask import Blueprint, Response, request

from jobs_core import App

from .inside import METHODS, MOST_READ, Asked, Inside, OwnLoop, without_threads
from .roles import User


def blueprint(authorize: Callable[[], User | None], *, app: App | None = None, name: str = "jobs_web") -> Blueprint:
    """Return a blueprint with the dashboard of an application, by default that of the Flask application.

    `authorize` is called within each request, and returns the user; None refuses it. It may abort with an answer of its own,
    such as a redirection to the login. If the application checks forms (Flask-WTF), exempt the blueprint: it has its own check.
    """
    made = Blueprint(name, __name__)
    loop = OwnLoop()
    inside = functools.cache(lambda: Inside(app, streams=False))  # at the first request: the application is complete then

    @made.route("/", defaults={"path": ""}, methods=METHODS)
    @made.route("/<path:path>", methods=METHODS)
    def dashboard(path: str) -> Response:
        user = authorize()
        if why := without_threads():
            return Response(f"{why}\n", 501, content_type="text/plain")
        answer = loop.run(inside().whole(_asked(path), user))
        response = Response(answer.body, answer.status)
        response.headers.clear()
        for header, value in answer.headers:
            response.headers.add(header, value)
        return response

    return made


def _asked(path: str) -> Asked:
    whole = request.root_path + request.path
    return Asked(
        method=request.method,
        path=whole,
        prefix=whole.removesuffix(path).rstrip("/"),
        query=request.query_string,
        headers=list(request.headers.items()),
        scheme=request.scheme,
        client=request.remote_addr or "",
        body=request.stream.read(MOST_READ) or _read_before(),
    )


def _read_before() -> bytes:
    """Return the form that a function of the application, called before the view, has already read from the request."""
    return urlencode(list(request.form.items(multi=True))).encode()
