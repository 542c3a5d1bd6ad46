"""Support for plugins of frameworks: configuration from the framework's settings, and our command line inside its own."""

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
    """Read the configuration: a framework's `settings` override the file, and JOBS_ variables override both.

    The search for jobs.toml and relative paths start in `directory`, by default the current one. Raises ConfigError, which
    calls the settings `settings_name`.
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
    """Run `jobsctl` with these settings, which its child processes get too; return its exit code.

    `called` is the command that the user types, such as `manage.py jobs`: help and advice show it instead of `jobsctl`.
    """
    from .cli.main import run  # late: imports click and rich, which an application that enqueues does not need

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
