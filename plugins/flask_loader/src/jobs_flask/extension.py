"""`JobsFlask(app)`: views and commands of this application enqueue with its configuration."""

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

    The configuration is read at the first enqueue: jobs.toml, overridden by `JOBS_BACKEND` and the like in `app.config`,
    overridden by the environment. Raises ConfigError then.
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
    """One Flask application with its application of `jobs`, made at the first enqueue."""

    def __init__(self, app: Flask) -> None:
        self._flask = weakref.ref(app)
        self._lock = threading.Lock()
        self._app: App | None = None

    @property
    def app(self) -> App:
        """Return the application that enqueues for this Flask application: the same one for all threads."""
        with self._lock:
            if self._app is None:
                flask = self._flask()
                assert flask is not None
                file = flask.config.get("JOBS_CONFIG")
                self._app = App(load_config(file, settings=settings(flask), settings_name=NAME))
            return self._app


_latest: weakref.ref[Flask] | None = None


def _application() -> App | None:
    """Return the application of the current context, or outside of any, the one that was tied last."""
    from flask import current_app, has_app_context

    app = current_app if has_app_context() else _latest() if _latest is not None else None
    tie = app.extensions.get(EXTENSION) if app is not None else None
    return tie.app if isinstance(tie, Tie) else None
