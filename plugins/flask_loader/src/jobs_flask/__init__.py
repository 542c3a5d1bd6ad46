"""Jobs inside a Flask application: `framework = "flask"` in jobs.toml, `JobsFlask(app)` in the application.

Nothing here imports Flask before it is needed, because every `jobsctl` command loads this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jobs_core import hookimpl

from .commands import flask_command
from .extension import JobsFlask

if TYPE_CHECKING:
    from jobs_core import Config
    from jobs_core.loaders.base import Bootstrapper, BootstrapperFactory, JobLoader, LoaderFactory

__version__ = "0.1.0"
jobs_interface_version = 1


def _loader(config: Config) -> JobLoader:
    from .loader import FlaskLoader

    return FlaskLoader(config)


def _bootstrapper(config: Config) -> Bootstrapper:
    from .bootstrapper import FlaskBootstrapper

    return FlaskBootstrapper(config)


@hookimpl
def jobs_job_loaders() -> Mapping[str, LoaderFactory]:
    return {"flask": _loader}


@hookimpl
def jobs_framework_bootstrappers() -> Mapping[str, BootstrapperFactory]:
    return {"flask": _bootstrapper}


__all__ = ["JobsFlask", "flask_command", "jobs_framework_bootstrappers", "jobs_interface_version", "jobs_job_loaders"]
