"""Scheduled jobs: the entries, the times of their ticks, and one enqueue per tick, however many machines run the schedule."""

from __future__ import annotations

from .entries import Entry, entries
from .stored import Schedule, Stored
from .ticker import Push, Tick, Ticker

__all__ = ["Entry", "Push", "Schedule", "Stored", "Tick", "Ticker", "entries"]
