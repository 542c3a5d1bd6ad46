"""Run jobs inside an application: within its lifespan, and without sharing database connections across a fork."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from jobs_core.loaders.base import Bootstrapper

from . import engines, extension
from .application import application, runs_lifespan

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from jobs_core import Config


class FastAPIBootstrapper(Bootstrapper):
    """Imports the application once. Each worker enters its lifespan; in an async pool, on the event loop of the jobs."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lifespan = runs_lifespan(config)
        self._app: Starlette | None = None

    def setup(self) -> None:
        extension.in_worker = True
        self._app = application(self._config)

    def before_fork(self) -> None:
        engines.disconnect()

    def after_fork(self) -> None:
        engines.forget()

    def lifespan(self) -> AbstractAsyncContextManager[Any] | None:
        assert self._app is not None
        return self._app.router.lifespan_context(self._app) if self._lifespan else None
