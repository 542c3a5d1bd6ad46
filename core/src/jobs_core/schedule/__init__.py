"""Jobs that run by the clock: the entries, the times at which they tick, and one enqueue per tick on any number of machines."""

from __future__ import annotations

from .entries import Entry, entries
from .ticker import Push, Tick, Ticker

__all__ = ["Entry", "Push", "Tick", "Ticker", "entries"]
