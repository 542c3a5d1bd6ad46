"""Overriding limits: what applies now, and what an operator makes of it."""

from __future__ import annotations

from ..app import App
from ..backends.base import Backend
from ..backends.limits import Limit, LimitState, name_of
from ..limiting import default_burst, defined_limits
from ..units import interval

NONE = "none"
"""The value that removes a part of a limit."""


def applies(app: App, backend: Backend, limit: str) -> tuple[dict[str, LimitState], Limit]:
    """Return the states of the name's values in the backend, and the definition of a limit that applies now."""
    name = name_of(limit)
    states = {state.limit: state for state in backend.limits(10_000, (name,))}
    state = states.get(limit) or states.get(name)
    found = state.definition if state is not None and state.definition is not None else None
    return states, found or defined_limits(app.config).get(name) or Limit()


def changed(before: Limit, concurrency: int | str | None, rate: str | None, burst: int | None) -> Limit:
    """Return a limit with other values; those that are None stay, and NONE removes one.

    Raises ValueError for a burst without a rate, and for a rate that cannot be read.
    """
    spacing = before.interval if rate is None else None if rate == NONE else interval(rate)
    usual = before.burst == default_burst(before.interval)
    made = Limit(
        before.concurrency if concurrency is None else None if isinstance(concurrency, str) else concurrency,
        spacing,
        burst or (default_burst(spacing) if usual else before.burst),
    )
    if burst is not None and made.interval is None:
        raise ValueError("has no rate")
    return made
