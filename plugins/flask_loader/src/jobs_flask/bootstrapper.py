"""A Flask application in a worker: each job has an application context of its own."""

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
    """Builds the application once; each run gets a context, whose teardown functions are called however it ends."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._app: Flask | None = None

    def setup(self) -> None:
        self._app = application(self._config)

    def before_fork(self) -> None:
        """Disconnect Flask-SQLAlchemy: a connection shared by two processes returns either one's rows to the other."""
        for engine in self._engines():
            engine.dispose()

    def after_fork(self) -> None:
        for engine in self._engines():
            engine.dispose(close=False)  # any other connection belongs to the parent

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
