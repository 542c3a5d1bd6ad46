"""The limits as the housekeeper sees them: the figures for metrics, and alerts about limits that stay full."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ... import events
from ...backends.limits import LimitState, held_back, name_of
from ...scoreboard.state import LimitFigures
from ...units import are, format_duration
from .alerts import Alert

if TYPE_CHECKING:
    from ...config import Config

MOST_VALUES = 20
"""Most values of limits that appear in metrics; the names of limits, which are few, always do."""


def figures(states: Sequence[LimitState]) -> list[LimitFigures]:
    """Return the figures of each name, and of the values with the most waiting, then the most running jobs."""
    names = [state for state in states if ":" not in state.limit]
    values = sorted((state for state in states if ":" in state.limit), key=lambda state: (-state.waiting, -state.used))
    return [
        LimitFigures(state.limit, state.used, state.waiting, state.definition.concurrency if state.definition else None)
        for state in (*names, *values[:MOST_VALUES])
    ]


class LimitAlerts:
    """Alerts for limits that are full, with jobs waiting for them, for longer than the shortest `alert_age` of a topic.

    All values of one name are one alert: thousands of accounts may be full at once.
    """

    def __init__(self, config: Config, send: Callable[[Alert], None]) -> None:
        self._config = config
        self._send = send
        ages = [float(topic.alert_age) for topic in config.topics.values() if topic.alert_age is not None]
        self._after = min(ages, default=None)
        self._since: dict[str, float] = {}  # name → since when it has been full
        self._told: dict[str, float] = {}  # name → when its last alert was sent; only while it is full

    def check(self, now: float, states: Sequence[LimitState]) -> None:
        """Judge each limit; `now` is `time.monotonic()`."""
        if self._after is None:
            return
        full: dict[str, list[LimitState]] = {}
        for state in states:
            if state.waiting:  # jobs stand behind it, though a rate may have room at this moment
                full.setdefault(name_of(state.limit), []).append(state)
        for name in [*self._since]:
            if name not in full:
                lasted = now - self._since.pop(name)
                if self._told.pop(name, None) is not None:
                    events.emit(events.LimitOpen(name, lasted))
        for name, values in full.items():
            lasted = now - self._since.setdefault(name, now)
            told = self._told.get(name)
            if lasted >= self._after and (told is None or now - told >= self._config.alerts.repeat):
                self._told[name] = now
                self._tell(name, values, lasted)

    def active(self, now: float) -> dict[str, float]:
        """Return the names of limits for which an alert was sent and that are still full, with the seconds since they are."""
        return {name: round(now - self._since[name], 1) for name in self._told}

    def _tell(self, name: str, values: Sequence[LimitState], lasted: float) -> None:
        worst = max(values, key=lambda state: state.waiting)
        waiting = sum(state.waiting for state in values)
        events.emit(events.LimitFull(worst.limit, waiting, lasted))
        host, now = os.uname().nodename, datetime.now(timezone.utc).replace(microsecond=0)
        lines = [
            f"{are(waiting, 'job')} waiting for it, for {format_duration(round(lasted))}",
            ", ".join([f"the fullest is {worst.limit}: {worst.used:,} used", f"{worst.waiting:,} waiting", *held_back(worst)]),
            f"`jobsctl limits {name}` lists its values",
            f"{self._config.prefix} on {host}, {now:%Y-%m-%d %H:%M:%S} UTC",
        ]
        facts = {
            "kind": "limit_full", "host": host, "time": now.isoformat(), "pid": os.getpid(), "prefix": self._config.prefix,
            "limit": name, "fullest": worst.limit, "used": worst.used, "waiting": waiting, "seconds": round(lasted, 1),
        }  # fmt: skip
        self._send(Alert(f"jobs: limit {name} has been full for {format_duration(round(lasted))}", "\n".join(lines), facts))
