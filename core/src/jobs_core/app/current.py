"""The application of this process: set explicitly, provided by a framework, or created from the configuration."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from .. import config_sources
from ..config import Config
from ..job_function import set_application_source
from ..registry import default_registry
from .app import App
from .resources import making

_current: App | None = None
_source: Callable[[], App | None] | None = None


def current_app() -> App:
    """Return this process's application: set explicitly, provided by a framework, or created from the configuration."""
    global _current
    if _current is None:
        found = _source() if _source is not None else None
        if found is not None:
            return found
        with making:
            if _current is None:
                _current = App(_configuration())
    return _current


def warm_up() -> None:
    """Warm up this process's application: see `App.warm_up`."""
    current_app().warm_up()


def _configuration() -> Config:
    """Return the configuration of a process that enqueues.

    A server or a cron job may be started in any directory. If the usual search finds no file, search beside and above the
    modules that define jobs, and warn once.
    """
    found = config_sources.load()
    if found.file is not None or found.config.backend is not None:
        return found.config
    for module in sorted({job.function.__code__.co_filename for job in default_registry if hasattr(job.function, "__code__")}):
        beside = config_sources.load(cwd=Path(module).parent) if os.path.isabs(module) else found
        if beside.file is not None:
            _warn(f"using {beside.file}, found from {module}, because there is none in {found.directory} or above")
            return beside.config
    where = found.config.base_dir / found.config.run_dir
    _warn(f"no jobs.toml in {found.directory} or above, nor next to the modules that define jobs: jobs are kept in {where}")
    return found.config


def _warn(what: str) -> None:
    warnings.warn(f"jobs: {what}. Set JOBS_CONFIG to the file to use, or JOBS_BACKEND", RuntimeWarning, stacklevel=5)


def set_current_app(app: App | None) -> None:
    """Make `app` the application that `enqueue` uses; with None, the next use creates a new one."""
    global _current
    _current = app


def set_app_source(source: Callable[[], App | None] | None) -> Callable[[], App | None] | None:
    """Ask `source` for the application whenever none was set; return the previous source.

    A framework's plugin sets it, because it knows to which application a request belongs.
    """
    global _source
    before, _source = _source, source
    return before


set_application_source(current_app)
