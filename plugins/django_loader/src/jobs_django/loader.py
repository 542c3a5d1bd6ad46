"""The loader of a Django project: the installed apps' jobs, then `modules`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from jobs_core.loaders.base import JobLoader, import_module

from .discovery import discover

if TYPE_CHECKING:
    from jobs_core import Config


class DjangoLoader(JobLoader):
    """Imports the job modules of all installed apps, then `modules`. The bootstrapper has set Django up before."""

    def __init__(self, config: Config) -> None:
        self._modules = config.modules

    def load(self) -> list[str]:
        found = discover()
        for module in self._modules:
            import_module(module, "modules")
        _adopt([*found, *self._modules])
        return [*found, *self._modules]


def _adopt(modules: list[str]) -> None:
    """Register tasks that were declared for another backend, because `using` may send them to ours."""
    if "django.tasks" in sys.modules:
        from .tasks import adopt

        for module in modules:
            adopt(sys.modules[module])
