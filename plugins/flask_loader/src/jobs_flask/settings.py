"""Read `JOBS_BACKEND` and the like in `app.config` as our configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs_core.errors import ConfigError

if TYPE_CHECKING:
    from flask import Flask

NAME = "app.config"
"""The name of the settings in error messages."""


def settings(app: Flask) -> dict[str, Any]:
    """Return the JOBS_… settings of `app.config`; `__` separates levels, as in the environment.

    JOBS_CONFIG is left out, because it names a file.
    """
    found: dict[str, Any] = {}
    for key, value in app.config.items():
        if not key.startswith("JOBS_") or key == "JOBS_CONFIG":
            continue
        *tables, name = key[len("JOBS_") :].lower().split("__")
        into = found
        for table in tables:
            into = into.setdefault(table, {})
            if not isinstance(into, dict):
                raise ConfigError(f"{NAME}: {key}: {table} is a value elsewhere in {NAME}, and a table here")
        into[name] = {**into.get(name, {}), **value} if isinstance(value, dict) else value
    return found
