"""The application that `[fastapi] app` names, imported or built once per process."""

from __future__ import annotations

import difflib
import inspect
import sys
from typing import TYPE_CHECKING, Any

from jobs_core import Config, load_config
from jobs_core.errors import ConfigError, LoadError
from jobs_core.loaders.base import add_to_path, import_module, load_error

from .extension import NAME, extension_of

if TYPE_CHECKING:
    from starlette.applications import Starlette

KEYS = ("app", "lifespan")
NAMES = ("app", "application", "create_app", "make_app")
"""The attributes that are tried if the configuration names only a module, as `uvicorn` and `fastapi run` do."""

_built: dict[str, Starlette] = {}


def application(config: Config) -> Starlette:
    """Import or build the application; raises LoadError and ConfigError."""
    path = application_path(config)
    if path not in _built:
        add_to_path(config.base_dir)
        app = find(path)
        _compare(app, config)
        _built[path] = app
    return _built[path]


def runs_lifespan(config: Config) -> bool:
    """Return whether workers run the application's lifespan: `[fastapi] lifespan`."""
    value = _table(config).get("lifespan", True)
    if not isinstance(value, bool):
        raise ConfigError(f"fastapi.lifespan: expected true or false, got {value!r}")
    return value


def application_path(config: Config) -> str:
    """Return `[fastapi] app`; raises ConfigError."""
    path = _table(config).get("app")
    if not isinstance(path, str) or not path:
        raise ConfigError('fastapi.app: set the application, as for uvicorn: [fastapi] app = "shop.main:app"')
    return path


def _table(config: Config) -> dict[str, Any]:
    table: dict[str, Any] = config.plugins.get("fastapi", {})
    for key in table:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            raise ConfigError(
                f"fastapi.{key}: unknown key"
                + (f'; did you mean "{near[0]}"?' if near else f"; the keys are {', '.join(KEYS)}")
            )
    return table


def find(path: str) -> Starlette:
    """Return the application at `module:attribute`; if the attribute is a function, call it. Raises LoadError."""
    from starlette.applications import Starlette

    module_name, _, attributes = path.partition(":")
    import_module(module_name, "fastapi.app")
    found: Any = sys.modules[module_name]
    if not attributes:
        attributes = next((name for name in NAMES if hasattr(found, name)), "")
        if not attributes:
            raise LoadError(f'fastapi.app: {module_name} has none of {", ".join(NAMES)}: name it, as "{module_name}:name"')
    for attribute in attributes.removesuffix("()").split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise LoadError(f"fastapi.app: {module_name} has no {attribute}") from None
    if inspect.isroutine(found):
        try:
            found = found()
        except Exception as error:
            raise load_error(f'fastapi.app: "{path}" cannot be built', error) from error
    if not isinstance(found, Starlette):
        raise LoadError(f"fastapi.app: {path} is {type(found).__name__}, expected a FastAPI or Starlette application")
    return found


def _compare(app: Starlette, config: Config) -> None:
    """Check that the worker and the web process have the same configuration.

    Otherwise, a worker on another backend would leave the application's jobs waiting without any error.
    """
    extension = extension_of(app)
    if extension is None or not extension.settings:
        return
    wanted = load_config(extension.file, settings=extension.settings, settings_name=NAME, directory=config.base_dir)
    for key in extension.settings:
        if getattr(wanted, key) != getattr(config, key):
            raise LoadError(
                f"{NAME} sets {key}, which this process was started without: restart it as `python -m jobs_fastapi APP "
                "start` (or worker), which reads both, or move the setting to jobs.toml"
            )
