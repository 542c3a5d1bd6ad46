"""Find the jobs of an application.

The jobs are in the modules that the application imports, and in `jobs.py` and `tasks.py` in the packages of the application
and of its endpoints.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from jobs_core.loaders.base import JobLoader, import_module

from .application import application, application_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jobs_core import Config

NAMES = ("jobs", "tasks")


class FastAPILoader(JobLoader):
    """Imports the application, then the job modules beside it and beside its endpoints, then `modules`."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def load(self) -> list[str]:
        app = application(self._config)
        places = [application_path(self._config).partition(":")[0], *_modules_of(app.routes)]
        modules = [module for package in dict.fromkeys(_package(place) for place in places) for module in _in(package)]
        for module in modules:
            import_module(module, "fastapi.app")
        for module in self._config.modules:
            import_module(module, "modules")
        return [*modules, *self._config.modules]


def _modules_of(routes: Iterable[Any]) -> Iterator[str]:
    """Yield the modules that define endpoints, including those of mounted applications and routers."""
    for route in routes:
        endpoint = getattr(route, "endpoint", None)
        if endpoint is not None:
            yield getattr(endpoint, "__module__", "")
        holder = getattr(route, "original_router", route)  # newer releases of FastAPI keep included routers as objects
        yield from _modules_of(getattr(holder, "routes", None) or ())


def _package(module: str) -> str:
    return module if hasattr(sys.modules.get(module), "__path__") else module.rpartition(".")[0]


def _in(package: str) -> Iterator[str]:
    """Yield the job modules in a package, unless it is one of the framework, whose own endpoints have no jobs."""
    if package and package.partition(".")[0] not in ("fastapi", "starlette"):
        yield from (f"{package}.{name}" for name in NAMES if importlib.util.find_spec(f"{package}.{name}"))
