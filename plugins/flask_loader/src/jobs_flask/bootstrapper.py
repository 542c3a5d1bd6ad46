"""Run jobs inside a Flask application, each in an application context of its own."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from jobs_core.loaders.base import Bootstrapper

from .application import application

if TYPE_CHECKING:
    from flask import Flask

    from jobs_core import Config, JobContext


class FlaskBootstrapper(Bootstrapper):
    """Builds the application once. Each run has a context, whose teardown functions are called even if the run fails."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._app: Flask | None = None

    def setup(self) -> None:
        self._app = application(self._config)

    def before_fork(self) -> None:
        """Disconnect Flask-SQLAlchemy: two processes that share a connection read each other's rows."""
        for engine in self._engines():
            engine.dispose()

    def after_fork(self) -> None:
        for engine in self._engines():
            engine.dispose(close=False)  # any remaining connection belongs to the parent

    def around(self, run: JobContext) -> AbstractContextManager[object]:
        assert self._app is not None
        return self._app.app_context()

    def _engines(self) -> list[Any]:
        assert self._app is not None
        extension = self._app.extensions.get("sqlalchemy")
        if extension is None or "flask_sqlalchemy" not in sys.modules:
            return []
        with self._app.app_context():
            return list(extension.engines.values())
