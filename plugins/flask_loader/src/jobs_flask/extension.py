"""`JobsFlask(app)`: let views and commands enqueue with this application's configuration."""

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
    """Connects `enqueue` with a Flask application. Create it once, and call `init_app` for each application of a factory.

    The first enqueue reads the configuration, and may raise ConfigError. `JOBS_BACKEND` and the like in `app.config`
    override jobs.toml; the environment overrides both.
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Connect one application."""
        global _latest
        app.extensions[EXTENSION] = Tie(app)
        _latest = weakref.ref(app)
        set_app_source(_application)


class Tie:
    """One Flask application and its `App`, which the first enqueue creates."""

    def __init__(self, app: Flask) -> None:
        self._flask = weakref.ref(app)
        self._lock = threading.Lock()
        self._app: App | None = None

    @property
    def app(self) -> App:
        """Return the `App` that enqueues for this Flask application; all threads share it."""
        with self._lock:
            if self._app is None:
                flask = self._flask()
                assert flask is not None
                file = flask.config.get("JOBS_CONFIG")
                self._app = App(load_config(file, settings=settings(flask), settings_name=NAME))
            return self._app


_latest: weakref.ref[Flask] | None = None


def _application() -> App | None:
    """Return the `App` of the current Flask context; outside of a context, that of the application connected last."""
    from flask import current_app, has_app_context

    app = current_app if has_app_context() else _latest() if _latest is not None else None
    tie = app.extensions.get(EXTENSION) if app is not None else None
    return tie.app if isinstance(tie, Tie) else None
