"""`JOBS = {…}` in Django's settings, and the `App` with which web processes enqueue."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs_core import App, Config, load_config
from jobs_core.errors import ConfigError


def given() -> dict[str, Any]:
    """Return the value of JOBS, which has the keys of jobs.toml; raise ConfigError."""
    from django.conf import settings

    values = getattr(settings, "JOBS", None)
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name()}: expected a dict with the keys of jobs.toml, got {type(values).__name__}")
    return dict(values)


def complete() -> dict[str, Any]:
    """Return JOBS with two additions: the framework, and the settings module that a child process needs."""
    values = given()
    values.setdefault("framework", "django")
    module = os.environ.get("DJANGO_SETTINGS_MODULE")
    if module:
        values["django"] = {"settings": module, **values.get("django", {})}
    return values


def name() -> str:
    """Return the name of these settings in errors."""
    return f"{os.environ.get('DJANGO_SETTINGS_MODULE', 'settings')}.JOBS"


def directory() -> Path:
    """Return the directory of jobs.toml and of relative paths: BASE_DIR, else the current directory."""
    from django.conf import settings

    return Path(getattr(settings, "BASE_DIR", None) or Path.cwd())


def load(values: Mapping[str, Any]) -> Config:
    """Return the configuration with these settings; raise ConfigError."""
    return load_config(settings=values, settings_name=name(), directory=directory())


_lock = threading.Lock()
_app: App | None = None


def application() -> App:
    """Return the `App` that enqueues for this project; the first enqueue creates it."""
    global _app
    with _lock:
        if _app is None:
            _app = App(load(complete()))
        return _app


def forget() -> None:
    """Drop the `App`, so that the next enqueue reads the settings again; for tests that override JOBS."""
    global _app
    with _lock:
        app, _app = _app, None
    if app is not None:
        app.close()
