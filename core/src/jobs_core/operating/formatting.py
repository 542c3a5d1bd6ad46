"""Numbers and durations in a short form: `12 s`, `3 m`, `45 MB`, `12,000`."""

from __future__ import annotations

import itertools

from ..units import are, count

__all__ = ["age", "are", "count", "rate", "size"]

_STEPS = (("d", 86400), ("h", 3600), ("m", 60))


def age(seconds: float) -> str:
    """Format a duration in its two largest units: `12 s`, `3 m`, `2 h 5 m`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    for (unit, size), (lower, lower_size) in itertools.pairwise(_STEPS):
        if whole >= size:
            rest = whole % size // lower_size
            return f"{whole // size} {unit}" + (f" {rest} {lower}" if rest else "")
    return f"{whole // 60} m"


def size(number: int) -> str:
    """Format bytes: `45 MB`, `1.2 GB`; "" for zero, which means unknown."""
    if not number:
        return ""
    if number >= 10**9:
        return f"{number / 10**9:.1f} GB"
    return f"{max(1, round(number / 10**6))} MB"


def rate(per_second: float) -> str:
    """Format events per second: `0`, `0.3`, `12`, `1,234`."""
    if 0 < per_second < 9.95:
        return f"{per_second:.1f}"
    return f"{per_second:,.0f}"
