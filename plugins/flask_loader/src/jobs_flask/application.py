"""The Flask application that `[flask] app` names, built once per process."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from jobs_core import Config, load_config
from jobs_core.errors import ConfigError, LoadError
from jobs_core.loaders.base import add_to_path, import_module, load_error

from .settings import NAME, settings

if TYPE_CHECKING:
    from flask import Flask

_built: dict[str, Flask] = {}


def application(config: Config) -> Flask:
    """Import and build the application; raises LoadError and ConfigError."""
    path = _path(config)
    if path not in _built:
        add_to_path(config.base_dir)
        app = _build(path)
        _compare(app, config)
        _built[path] = app
    return _built[path]


def _path(config: Config) -> str:
    table = config.plugins.get("flask", {})
    for key in table:
        if key != "app":
            near = difflib.get_close_matches(key, ["app"], 1)
            raise ConfigError(f"flask.{key}: unknown key" + ('; did you mean "app"?' if near else ': there is only "app"'))
    path = table.get("app")
    if not isinstance(path, str) or not path:
        raise ConfigError('flask.app: set the application, as `flask --app` does: [flask] app = "shop:create_app"')
    file, colon, name = path.partition(":")
    return f"{config.base_dir / file}{colon}{name}" if file.endswith(".py") else path


def _build(path: str) -> Flask:
    from click import ClickException
    from flask.cli import ScriptInfo

    module = path.partition(":")[0]
    if not module.endswith(".py"):
        import_module(module, "flask.app")
    try:
        return ScriptInfo(app_import_path=path, set_debug_flag=False).load_app()
    except ClickException as error:
        raise LoadError(f"flask.app: {error.format_message()}") from error
    except Exception as error:
        raise load_error(f'flask.app: "{path}" cannot be built', error) from error


def _compare(app: Flask, config: Config) -> None:
    """Check that the worker and the views have the same configuration.

    Otherwise, a worker on another backend would leave the views' jobs waiting without any error.
    """
    given = settings(app)
    wanted = load_config(app.config.get("JOBS_CONFIG"), settings=given, settings_name=NAME, directory=config.base_dir)
    for key in given:
        if getattr(wanted, key) != getattr(config, key):
            raise LoadError(
                f"{NAME} sets JOBS_{key.upper()}, which this process was started without: restart it as `flask --app … jobs "
                "start` (or worker), which reads both, or move the setting to jobs.toml"
            )
