"""Find the jobs of a Flask application.

The jobs are in the modules that the application imports, and in `jobs.py` and `tasks.py` in the packages of the application
and of its blueprints.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from jobs_core.loaders.base import JobLoader, import_module

from .application import application

if TYPE_CHECKING:
    from jobs_core import Config

NAMES = ("jobs", "tasks")


class FlaskLoader(JobLoader):
    """Imports the application, then the job modules beside it and beside its blueprints, then `modules`."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def load(self) -> list[str]:
        app = application(self._config)
        packages = dict.fromkeys([app.import_name, *(blueprint.import_name for blueprint in app.blueprints.values())])
        modules = [module for package in packages for module in _beside(package)]
        for module in modules:
            import_module(module, "flask.app")
        for module in self._config.modules:
            import_module(module, "modules")
        return [*modules, *self._config.modules]


def _beside(name: str) -> list[str]:
    """Return the job modules in a package, or in the package of a module; a top-level module has no package."""
    package = name if hasattr(sys.modules.get(name), "__path__") else name.rpartition(".")[0]
    return [f"{package}.{each}" for each in NAMES if package and importlib.util.find_spec(f"{package}.{each}")]
