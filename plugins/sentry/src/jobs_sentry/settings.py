"""The table `[plugins.sentry]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from jobs_core import ConfigError

TABLE = "plugins.sentry"
REPORTS = ("final", "all")


class Settings(Struct, frozen=True):
    """The settings of the plugin."""

    report: Literal["final", "all"] = "final"  # failures after which the job is dead, or also those that are retried
    arguments: bool = False  # events show the job's arguments and local variables, scrubbed by the SDK
    monitors: bool = False  # jobs of the schedule check in with Sentry's cron monitors
    flush_timeout: float = 5.0  # seconds that a worker waits at its end for events to be sent


def read(table: Mapping[str, Any]) -> Settings:
    """Return the settings in the table; raise ConfigError for one that is unknown or has a wrong value."""
    known = Settings.__struct_fields__
    for key, value in table.items():
        if key == "dsn":  # jobs.toml is often in version control
            raise ConfigError(f"{TABLE}.dsn: set SENTRY_DSN in the environment, or call sentry_sdk.init(dsn=...) in your code")
        if key not in known:
            raise ConfigError(f"{TABLE}.{key}: there is no such key: the keys are {', '.join(known)}")
        if key == "report" and value not in REPORTS:
            raise ConfigError(f'{TABLE}.report: expected "final" or "all", got {value!r}')
        if key in ("arguments", "monitors") and type(value) is not bool:
            raise ConfigError(f"{TABLE}.{key}: expected true or false, got {value!r}")
        if key == "flush_timeout" and (type(value) not in (int, float) or not 0 <= value <= 60):
            raise ConfigError(f"{TABLE}.flush_timeout: expected seconds from 0 to 60, got {value!r}")
    return Settings(**table)
