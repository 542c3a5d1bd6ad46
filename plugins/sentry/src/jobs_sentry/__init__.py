"""Errors, traces and cron monitors of jobs in Sentry: `[plugins.sentry]` in jobs.toml switches them on.

Nothing here imports Sentry's SDK before it is needed, because every `jobsctl` command loads this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs_core import hookimpl

if TYPE_CHECKING:
    from jobs_core import Config

__version__ = "0.1.0"
jobs_interface_version = 1


@hookimpl
def jobs_configured_hooks(config: Config) -> object | None:
    table = config.plugins.get("sentry")
    if table is None:
        return None
    from .reporting import Reporting
    from .settings import read

    return Reporting(read(table), config)


__all__ = ["jobs_configured_hooks", "jobs_interface_version"]
