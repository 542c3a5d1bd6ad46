"""Jobs inside a FastAPI or Starlette application: `framework = "fastapi"` in jobs.toml, `JobsFastAPI(app)` beside the app.

Nothing here imports FastAPI before it is needed, because every `jobsctl` command loads this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs_core import hookimpl

from .extension import JobsFastAPI

if TYPE_CHECKING:
    from jobs_core import Config
    from jobs_core.loaders.base import Bootstrapper, BootstrapperFactory, JobLoader, LoaderFactory

    from .dependencies import Background, BackgroundJobs, JobsDep, jobs_app

__version__ = "0.1.0"
jobs_interface_version = 1


def _loader(config: Config) -> JobLoader:
    from .loader import FastAPILoader

    return FastAPILoader(config)


def _bootstrapper(config: Config) -> Bootstrapper:
    from .bootstrapper import FastAPIBootstrapper

    return FastAPIBootstrapper(config)


@hookimpl
def jobs_job_loaders() -> Mapping[str, LoaderFactory]:
    return {"fastapi": _loader}


@hookimpl
def jobs_framework_bootstrappers() -> Mapping[str, BootstrapperFactory]:
    return {"fastapi": _bootstrapper}


def __getattr__(name: str) -> Any:
    if name in ("Background", "BackgroundJobs", "JobsDep", "jobs_app"):
        from . import dependencies  # not at the top, because it imports FastAPI

        return getattr(dependencies, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Background",
    "BackgroundJobs",
    "JobsDep",
    "JobsFastAPI",
    "jobs_app",
    "jobs_framework_bootstrappers",
    "jobs_interface_version",
    "jobs_job_loaders",
]
