"""The table `[plugins.opentelemetry]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from jobs_core import ConfigError
from jobs_core.loaders.base import import_module

TABLE = "plugins.opentelemetry"


class Settings(Struct, frozen=True):
    """The settings of the plugin."""

    parent: bool = False  # runs are children of the span that enqueued the job, in its trace; else linked to it
    setup: str | None = None  # "module:function", which each worker calls to set up the SDK
    flush_timeout: float = 5.0  # seconds that a worker waits at its end for spans and metrics to be exported


def read(table: Mapping[str, Any]) -> Settings:
    """Return the settings in the table; raise ConfigError for one that is unknown or has a wrong value."""
    known = Settings.__struct_fields__
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{TABLE}.{key}: there is no such key: the keys are {', '.join(known)}")
        if key == "parent" and type(value) is not bool:
            raise ConfigError(f"{TABLE}.parent: expected true or false, got {value!r}")
        if key == "setup" and not (isinstance(value, str) and all(value.partition(":"))):
            raise ConfigError(f'{TABLE}.setup: expected "module:function", got {value!r}')
        if key == "flush_timeout" and (type(value) not in (int, float) or not 0 <= value <= 60):
            raise ConfigError(f"{TABLE}.flush_timeout: expected seconds from 0 to 60, got {value!r}")
    return Settings(**table)


def setup_function(named: str) -> Callable[[], object]:
    """Return the function that `setup` names; raise LoadError or ConfigError."""
    module, _, name = named.partition(":")
    import_module(module, f"{TABLE}.setup")
    function = getattr(sys.modules[module], name, None)
    if not callable(function):
        raise ConfigError(f"{TABLE}.setup: module {module} has no function {name!r}")
    found: Callable[[], object] = function
    return found
