"""What a framework's plugin needs of the core: a configuration that the framework's settings may fill, and the
command line inside the framework's own."""

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
    """Read the configuration: the file, above it `settings` as a framework holds them, above these JOBS_ variables.

    `directory` is where jobs.toml is looked for and relative paths start, the current one by default. Raises
    ConfigError; `settings_name` is what its message calls the settings.
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
    """Run the `jobs` command with these settings, its child processes too; return its exit code.

    `called` is what a reader types for it: help and advice name the command so, and not `jobsctl`.
    """
    from .cli.main import run  # late: click and rich, which an application that enqueues does without

    handed = config_sources.Settings(settings_name, str(config_sources.as_named(directory or Path.cwd())), dict(settings))
    before = os.environ.get("JOBS_SETTINGS")
    os.environ["JOBS_SETTINGS"] = handed.encode()
    try:
        return run(arguments, called)
    finally:
        if before is None:
            del os.environ["JOBS_SETTINGS"]
        else:
            os.environ["JOBS_SETTINGS"] = before
