"""Dependencies for endpoints: `JobsDep`, the `App` that enqueues, and `BackgroundJobs`, which enqueues after the endpoint."""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated, Any, ParamSpec

from fastapi import Depends
from starlette.requests import HTTPConnection

from jobs_core import App, Call, JobFunction, JobHandle, current_app

from .extension import extension_of, latest_application

P = ParamSpec("P")


def jobs_app(connection: HTTPConnection) -> App:
    """Return the `jobs_core.App` of the application that serves this request. Tests may override this dependency."""
    extension, chosen = extension_of(connection.app), current_app()
    if extension is None or chosen is not latest_application():
        return chosen  # none is tied, or a test has set its own
    return extension.app


JobsDep = Annotated[App, Depends(jobs_app)]
"""The `App` that enqueues, as a parameter of an endpoint."""


class Background:
    """The jobs of one request, which are enqueued together once its endpoint has returned, and discarded if it raises."""

    def __init__(self) -> None:
        self._calls: list[Call[Any]] = []

    def add(self, job: JobFunction[P, Any, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Enqueue this call when the endpoint has returned. Raises ArgumentError for arguments that do not fit."""
        job.arguments.check(args, kwargs)
        self._calls.append(job.call(*args, **kwargs))

    def send(self, app: App) -> list[JobHandle[Any]]:
        """Enqueue all calls in one round trip, in their order."""
        calls, self._calls = self._calls, []
        return app.enqueue_many(calls)


def _background(app: JobsDep) -> Generator[Background, None, None]:
    background = Background()
    yield background
    background.send(app)


BackgroundJobs = Annotated[Background, Depends(_background, scope="function")]
"""A durable replacement for FastAPI's BackgroundTasks.

The jobs are stored before the response is sent. If the backend cannot store them, the request fails, and its client knows.
"""
