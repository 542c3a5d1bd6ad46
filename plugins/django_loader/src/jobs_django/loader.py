"""Find the jobs of a Django project: in `jobs.py` and `tasks.py` of every installed app."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from jobs_core.loaders.base import JobLoader, import_module

if TYPE_CHECKING:
    from jobs_core import Config

NAMES = ("jobs", "tasks")


class DjangoLoader(JobLoader):
    """Imports the modules of jobs of all installed apps, then `modules`. The bootstrapper has set Django up before."""

    def __init__(self, config: Config) -> None:
        self._modules = config.modules

    def load(self) -> list[str]:
        found = discover()
        for module in self._modules:
            import_module(module, "modules")
        adopt([*found, *self._modules])
        return [*found, *self._modules]


def discover() -> list[str]:
    """Import `jobs.py` and `tasks.py` of the installed apps; return their names. Raises LoadError."""
    from django.apps import apps

    found = []
    for app in apps.get_app_configs():
        for name in NAMES:
            module = f"{app.name}.{name}"
            if app.name != "jobs_django" and find_spec(module) is not None:
                import_module(module, "INSTALLED_APPS")
                found.append(module)
    return found


def adopt(modules: list[str]) -> None:
    """Make jobs of the `django.tasks` that were declared for another backend, and may be sent to ours by `using`."""
    if "django.tasks" in sys.modules:
        from .tasks import adopt

        for module in modules:
            adopt(sys.modules[module])
