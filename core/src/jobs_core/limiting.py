"""Limits and fairness as the configuration defines them and as an enqueue uses them; docs/together.md explains both.

`backends/limits.py` says what a limit is, and how a backend keeps it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from .backends.limits import Limit, Lines, name_of
from .errors import NotSupported, elsewhere
from .options import checked_limits
from .units import format_rate, interval

if TYPE_CHECKING:
    from .backends.base import Backend
    from .config import Config
    from .message import Message
    from .registry import AnyJob

UNEVEN = 0.02
"""Seconds of starts that may come together under a rate for which no burst is set."""

BOTH = frozenset({"limits", "fairness"})
"""The features that this module is about."""


_OUT = f"leave them out, or {elsewhere('limits')}"
_REMOVE = f"remove it, or {elsewhere('fairness')}"


def line_of(message: Message, config: Config, backend: Backend) -> tuple[str, tuple[str, ...]]:
    """Return the key and the limits of a message that has at least one of them, as a backend takes them.

    Raises NotSupported if the backend would not keep them. A key without a fair topic is only stored, by any backend.
    """
    name = message.job or message.topic
    limits = tuple(checked_limits(name, message.limits or ()))
    if limits and "limits" not in backend.features:
        raise NotSupported("limits", f"{backend.name}://", f"{name} has limits ({', '.join(limits)}): {_OUT}")
    key = message.key or ""
    if key and "fairness" not in backend.features and is_fair(config, message.topic):
        raise NotSupported("fairness", f"{backend.name}://", f"{fair_setting(config, message.topic)}: {_REMOVE}")
    return key, limits


def fair_setting(config: Config, topic: str) -> str:
    """Return what makes a topic fair, as it stands in the configuration."""
    return f"topics.{topic}.fair = true" + (f" with max_per_key = {most}" if (most := config.topics[topic].max_per_key) else "")


def is_fair(config: Config, topic: str) -> bool:
    """Return whether the configuration makes a topic fair."""
    settings = config.topics.get(topic)
    return settings is not None and settings.fair


def limits_keys(config: Config, topic: str) -> bool:
    """Return whether the configuration limits how many jobs of one key of a topic run at once."""
    settings = config.topics.get(topic)
    return settings is not None and settings.fair and settings.max_per_key is not None


# -- definitions ---------------------------------------------------------------------------------


def defined_limits(config: Config) -> dict[str, Limit]:
    """Return the definitions of limits in the configuration, by name."""
    return {
        name: Limit(each.concurrency, spacing, each.burst or default_burst(spacing))
        for name, each in config.limits.items()
        for spacing in (None if each.rate is None else interval(each.rate),)
    }


def default_burst(interval: float | None) -> int:
    """Return the burst of a rate for which none is set.

    A worker that wakes up late for the next start of a fast rate may make up for it: a burst of 1 would lose a seventh of the
    starts at 500 a second. Up to 50 a second it is 1. The most that start in any second is 2 % above the rate.
    """
    return 1 if interval is None else max(1, math.floor(UNEVEN / interval + 1e-6))


def defined_lines(config: Config) -> dict[str, Lines]:
    """Return how the topics are served that this configuration serves or makes fair."""
    topics = config.served_topics() | {name for name in config.topics if is_fair(config, name)}
    return {
        name: Lines(settings.fair, settings.max_per_key if settings.fair else None)
        for name in sorted(topics)
        for settings in (config.topic(name),)
    }


def define(backend: Backend, config: Config) -> None:
    """Write the definitions that a backend keeps, if it keeps any; warn of settings that it cannot obey."""
    fair = [f"topics.{name}.fair" for name in sorted(config.topics) if is_fair(config, name)]
    for feature, settings in (("fairness", fair), ("limits", [f"limits.{name}" for name in sorted(config.limits)])):
        if settings and feature not in backend.features:
            line = "%s has no effect: %s:// does not support %s: %s"
            logging.getLogger("jobs").warning(line, ", ".join(settings), backend.name, feature, elsewhere(feature))
    if not BOTH.isdisjoint(backend.features):
        limits = defined_limits(config) if "limits" in backend.features else {}
        backend.define_limits(limits, defined_lines(config) if "fairness" in backend.features else {})


# -- in words --------------------------------------------------------------------------------------


def described(limit: Limit) -> str:
    """Return a definition in words."""
    parts = [] if limit.concurrency is None else ["closed" if limit.concurrency == 0 else f"{limit.concurrency:,} at once"]
    if limit.interval is not None:
        parts.append(format_rate(limit.interval) + (f" with bursts of {limit.burst:,}" if limit.burst > 1 else ""))
    return ", ".join(parts) or "not limited"


# -- uses ----------------------------------------------------------------------------------------


def uses(jobs: Iterable[AnyJob]) -> dict[str, list[str]]:
    """Return the names of limits that jobs use by their definition, each with the names of these jobs.

    The limits that functions return are not known before a call.
    """
    found: dict[str, list[str]] = {}
    for job in jobs:
        for limit in job.options.limits or ():
            if isinstance(limit, str):
                found.setdefault(name_of(limit), []).append(job.name)
    return found


def computes(jobs: Iterable[AnyJob]) -> bool:
    """Return whether a job has limits that a function returns."""
    return any(callable(limit) for job in jobs for limit in job.options.limits or ())


def undefined(used: Mapping[str, Collection[str]], config: Config) -> dict[str, Collection[str]]:
    """Return the limits that jobs use and the configuration does not define: they limit nothing."""
    return {name: jobs for name, jobs in sorted(used.items()) if name not in config.limits}
