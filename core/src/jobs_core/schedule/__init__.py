"""Jobs run by the clock: which there are, when they tick, and one enqueue a tick however many machines watch."""

from __future__ import annotations

from .entries import Entry, entries
from .ticker import Push, Tick, Ticker

__all__ = ["Entry", "Push", "Tick", "Ticker", "entries"]
