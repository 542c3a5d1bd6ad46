"""Jobs inside a Django project: `"jobs_django"` in INSTALLED_APPS, `JOBS = {…}` in the settings (or jobs.toml).

Nothing here imports Django before it is needed, because every `jobsctl` command loads this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from jobs_core import hookimpl

from .commands import django_command
from .transactions import hold, open_transactions

if TYPE_CHECKING:
    from jobs_core import Config
    from jobs_core.loaders.base import Bootstrapper, BootstrapperFactory, JobLoader, LoaderFactory

    from .tasks import TasksBackend

__version__ = "0.1.0"
jobs_interface_version = 1


def _loader(config: Config) -> JobLoader:
    from .loader import DjangoLoader

    return DjangoLoader(config)


def _bootstrapper(config: Config) -> Bootstrapper:
    from .bootstrapper import DjangoBootstrapper

    return DjangoBootstrapper(config)


@hookimpl
def jobs_job_loaders() -> Mapping[str, LoaderFactory]:
    return {"django": _loader}


@hookimpl
def jobs_framework_bootstrappers() -> Mapping[str, BootstrapperFactory]:
    return {"django": _bootstrapper}


@hookimpl
def jobs_hold_enqueue(config: Config, on_commit: bool | None, send: Callable[[], None]) -> bool | None:
    return hold(config, on_commit, send)


@hookimpl
def jobs_open_transactions(config: Config) -> Sequence[object]:
    return open_transactions(config)


def __getattr__(name: str) -> object:
    """Import TasksBackend on first access: it needs django.tasks, which not every supported Django has."""
    if name == "TasksBackend":
        from .tasks import TasksBackend

        return TasksBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "TasksBackend",
    "django_command",
    "jobs_framework_bootstrappers",
    "jobs_hold_enqueue",
    "jobs_interface_version",
    "jobs_job_loaders",
    "jobs_open_transactions",
]
