"""Support for the plugin of a framework: the configuration, and the command line inside the framework's own.

The framework's settings may fill the configuration.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import config_sources
from .config import Config


def load_config(
    file: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    settings_name: str = "settings",
    directory: Path | None = None,
) -> Config:
    """Read the configuration: the file, overridden by `settings` as a framework holds them, overridden by JOBS_ variables.

    `directory` is where jobs.toml is searched for and where relative paths start, the current one by default. Raises
    ConfigError; `settings_name` is the name of the settings in its message.
    """
    return config_sources.load(file, settings=settings, settings_name=settings_name, cwd=directory).config


def run_command(
    arguments: Sequence[str],
    *,
    settings: Mapping[str, Any],
    settings_name: str,
    directory: Path | None = None,
    called: str = "jobsctl",
) -> int:
    """Run the `jobs` command with these settings, which its child processes receive too; return its exit code.

    `called` is the command that a reader types: help and advice use it instead of `jobsctl`.
    """
    from .cli.main import run  # late: click and rich, which an application that enqueues does not need

    handed = config_sources.FrameworkSettings(
        settings_name, str(config_sources.as_named(directory or Path.cwd())), dict(settings)
    )
    before = os.environ.get("JOBS_SETTINGS")
    os.environ["JOBS_SETTINGS"] = handed.encode()
    try:
        return run(arguments, called)
    finally:
        if before is None:
            del os.environ["JOBS_SETTINGS"]
        else:
            os.environ["JOBS_SETTINGS"] = before
