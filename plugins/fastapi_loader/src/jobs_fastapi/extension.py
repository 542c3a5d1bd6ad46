"""`JobsFastAPI(app)`: let endpoints enqueue with this application's configuration, over a connection opened at its start."""

from __future__ import annotations

import threading
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs_core import App, load_config, set_app_source
from jobs_core.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from starlette.applications import Starlette

NAME = "JobsFastAPI(settings=…)"
"""The name of the settings in error messages."""

ATTRIBUTE = "jobs"
"""The name under which the extension is found in `app.state`."""

in_worker = False
"""True in a worker, which runs an application's jobs and does not serve requests; the bootstrapper sets it."""


class JobsFastAPI:
    """Connects `enqueue` with a FastAPI or Starlette application. Create it once, right after the application.

    `config` is the path of jobs.toml; by default, it is searched for as `jobsctl` does. `settings` override it: a mapping
    with the keys of jobs.toml, or a pydantic model (pydantic-settings, too) with fields of these names; fields that are
    None count as not set. The environment overrides both. The configuration is read when the application starts, or at
    the first enqueue, which may raise ConfigError.

    The application's lifespan is extended: at its start, the connection to the backend is opened, so that the first
    request need not wait for it; at its end, the connection is closed. Any thread and any task may enqueue.
    """

    def __init__(
        self,
        app: Starlette | None = None,
        *,
        config: str | Path | None = None,
        settings: Mapping[str, Any] | BaseModel | None = None,
    ) -> None:
        self.file = config
        self.settings = _values(settings)
        self._lock = threading.Lock()
        self._app: App | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Starlette) -> None:
        """Connect the application that a factory returns."""
        global _latest
        setattr(app.state, ATTRIBUTE, self)
        app.router.lifespan_context = self._around(app.router.lifespan_context)
        _latest = weakref.ref(app)
        set_app_source(latest_application)

    @property
    def app(self) -> App:
        """Return the `jobs_core.App` that enqueues for this application; all threads share it."""
        with self._lock:
            if self._app is None:
                self._app = App(load_config(self.file, settings=self.settings, settings_name=NAME))
            return self._app

    def _around(self, inner: Any) -> Any:
        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[Any]:
            async with inner(app) as state:
                if in_worker:
                    yield state
                    return
                from starlette.concurrency import run_in_threadpool

                await run_in_threadpool(self.app.warm_up)
                try:
                    yield state
                finally:
                    await run_in_threadpool(self.app.close)

        return lifespan


def extension_of(app: Starlette) -> JobsFastAPI | None:
    """Return the extension of an application; None if there is none."""
    found = getattr(app.state, ATTRIBUTE, None)
    return found if isinstance(found, JobsFastAPI) else None


def _values(settings: Mapping[str, Any] | BaseModel | None) -> dict[str, Any]:
    if settings is None:
        return {}
    if isinstance(settings, Mapping):
        return dict(settings)
    dump = getattr(settings, "model_dump", None)
    if dump is None:
        raise ConfigError(f"{NAME}: expected a mapping or a pydantic model, got {type(settings).__name__}")
    values: dict[str, Any] = dump(exclude_none=True)
    return values


_latest: weakref.ref[Starlette] | None = None


def latest_application() -> App | None:
    """Return the jobs application of the web application that was tied last: a process serves one."""
    app = _latest() if _latest is not None else None
    extension = extension_of(app) if app is not None else None
    return extension.app if extension is not None else None
