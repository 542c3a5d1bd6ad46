"""The built-in loader: imports the modules that `modules = [...]` names."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LoadError
from .base import JobLoader

if TYPE_CHECKING:
    from ..config import Config


class ModulesLoader(JobLoader):
    """Imports each configured module, with the configuration's directory on the path as `python -m` would have it."""

    def __init__(self, config: Config) -> None:
        self._modules = config.modules
        self._base_dir = config.base_dir

    def load(self) -> list[str]:
        add_to_path(self._base_dir)
        for module in self._modules:
            import_module(module, "modules")
        return list(self._modules)


def add_to_path(directory: Path) -> None:
    """Let modules in `directory` be imported, first, once."""
    text = str(directory.resolve())
    if text not in sys.path:
        sys.path.insert(0, text)


def import_module(name: str, key: str) -> None:
    """Import a module that the configuration names under `key`; errors show the user's own last line."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise LoadError(
                f'{key}: there is no module "{name}": is it spelled as in an import statement, and is the '
                "directory it lies in the one jobs.toml lies in, or on PYTHONPATH?"
            ) from None
        raise _failed(name, key, error) from error
    except Exception as error:
        raise _failed(name, key, error) from error


def _failed(name: str, key: str, error: Exception) -> LoadError:
    """What happened in the user's file: import machinery and our own frames are of no use to anybody."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and frame.filename != __file__ and not frame.filename.startswith("<")
    ]
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}"
    else:
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else name
    line = f"\n    {frames[-1].line}" if frames and frames[-1].line and not isinstance(error, SyntaxError) else ""
    message = f'{key}: the module "{name}" cannot be imported:\n  {where}{line}\n  {type(error).__name__}: {error}'
    return LoadError(message, frame=where)


def create(config: Config) -> JobLoader:
    """The factory behind `loader = "modules"`."""
    return ModulesLoader(config)
