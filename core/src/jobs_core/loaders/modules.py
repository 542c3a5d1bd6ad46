"""The built-in loader: imports the modules that `modules = [...]` names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import JobLoader
from .importing import add_to_path, import_module

if TYPE_CHECKING:
    from ..config import Config


class ModulesLoader(JobLoader):
    """Imports each configured module, with the configuration's directory on the path as with `python -m`."""

    def __init__(self, config: Config) -> None:
        self._modules = config.modules
        self._base_dir = config.base_dir

    def load(self) -> list[str]:
        add_to_path(self._base_dir)
        for module in self._modules:
            import_module(module, "modules")
        return list(self._modules)


def create(config: Config) -> JobLoader:
    """Create the loader for `loader = "modules"`."""
    return ModulesLoader(config)
