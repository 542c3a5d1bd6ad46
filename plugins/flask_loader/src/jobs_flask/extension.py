"""`JobsFlask(app)`: what views and commands of this application enqueue goes where its configuration says."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from jobs_core import App, load_config, set_app_source

from .settings import NAME, settings

if TYPE_CHECKING:
    from flask import Flask

EXTENSION = "jobs"
"""The key in `app.extensions`."""


class JobsFlask:
    """Ties `enqueue` to a Flask application. Make it once, then `init_app` each application that a factory makes.

    The configuration is read at the first enqueue: jobs.toml, above it `JOBS_BACKEND` and the like in `app.config`,
    above these the environment. Raises ConfigError then.
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Tie one application."""
        global _latest
        app.extensions[EXTENSION] = Tie(app)
        _latest = weakref.ref(app)
        set_app_source(_application)


class Tie:
    """One Flask application with its application of `jobs`, made when somebody enqueues."""

    def __init__(self, app: Flask) -> None:
        self._flask = weakref.ref(app)
        self._lock = threading.Lock()
        self._app: App | None = None

    @property
    def app(self) -> App:
        """What enqueues for this Flask application; one, whichever thread asks first."""
        with self._lock:
            if self._app is None:
                flask = self._flask()
                assert flask is not None
                file = flask.config.get("JOBS_CONFIG")
                self._app = App(load_config(file, settings=settings(flask), settings_name=NAME))
            return self._app


_latest: weakref.ref[Flask] | None = None


def _application() -> App | None:
    """The application whose context we are in, or outside of any the one that was tied last."""
    from flask import current_app, has_app_context

    app = current_app if has_app_context() else _latest() if _latest is not None else None
    tie = app.extensions.get(EXTENSION) if app is not None else None
    return tie.app if isinstance(tie, Tie) else None
