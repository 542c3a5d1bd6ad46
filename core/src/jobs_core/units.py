"""Durations and sizes as people write them: "30s", "5m", "100MB"."""

from __future__ import annotations

import math
import re
import time
from datetime import timedelta
from typing import Final, TypeAlias

DurationLike: TypeAlias = "float | str | timedelta"

MAX_SECONDS: Final = 1e9
"""The longest delay, timeout, lease or retention: 31 years.

In microseconds, the unit of the Redis backend, it is still exact as a float, and a date so far off can still be shown.
"""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"B": 1, "kB": 1000, "KB": 1000, "MB": 10**6, "GB": 10**9, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_NUMBER = re.compile(r"[+-]?(?:\d[\d_]{0,30}(?:\.[\d_]{0,30})?|\.\d[\d_]{0,30})(?:[eE][+-]?\d{1,4})?")
_NUMBER_UNIT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


class Duration(float):
    """Seconds; in configuration files also "500ms", "30s", "5m", "1h30m", "7d"."""

    def __str__(self) -> str:
        return format_duration(float(self))


class Size(int):
    """Bytes; in configuration files also "64KB", "1MB", "2GiB"."""

    def __str__(self) -> str:
        return format_size(int(self))


def seconds(value: object) -> Duration:
    """Convert a number, a timedelta or a string such as "1h30m" to a duration in seconds.

    Raises ValueError for anything else, and for values that are negative, not finite or more than MAX_SECONDS.
    """
    result: float
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        result = value
    elif isinstance(value, str):
        result = _parse(value, _SECONDS, 'a duration such as "30s", "5m" or "1h30m"')
    else:
        raise ValueError(f'expected a duration such as "30s" or a number of seconds, got {type(value).__name__}')
    if not 0 <= result <= MAX_SECONDS:  # before the conversion: an int may be too large for a float
        raise ValueError(
            f"expected a duration of zero or more, and of {MAX_SECONDS:g} s (31 years) at most, got {shown(value)}"
        )
    return Duration(result)


def size(value: object) -> Size:
    """Convert a number or a string such as "1MB" to a number of bytes; raise ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"expected a size of zero or more, got {value}")
        return Size(value)
    if isinstance(value, str):
        result = _parse(value, _BYTES, 'a size such as "1MB" or "64KB"')
        if result == math.inf:
            raise ValueError(f"expected a size, got {shown(value)}")
        return Size(result)
    raise ValueError(f'expected a size such as "1MB" or a number of bytes, got {shown(value)}')


_RATE = re.compile(r"\s*([1-9][0-9_]{0,8})\s*/\s*(.+?)\s*")


def interval(rate: str) -> float:
    """Return the seconds from one to the next at a rate such as "100/s", "10/m" or "5/10s"; raise ValueError."""
    expected = 'expected a rate such as "100/s", "10/m", "1000/h" or "5/10s"'
    match = _RATE.fullmatch(rate) if isinstance(rate, str) else None
    if match is None:
        raise ValueError(f"{expected}, got {shown(rate)}")
    number, period = match.groups()
    try:
        length = _parse(f"1{period}" if period[0].isalpha() else period, _SECONDS, "a period")
    except ValueError:
        length = 0.0
    each = length / int(number)
    if not 1e-6 <= each <= MAX_SECONDS:
        raise ValueError(f"{expected}, between one in 31 years and 1,000,000 a second, got {shown(rate)}")
    return each


def format_rate(each: float) -> str:
    """Return a rate as a person would write it, from the seconds from one to the next: "100/s", "10/m"."""
    for unit in ("s", "m", "h", "d"):
        number = _SECONDS[unit] / each
        if number >= 1 and abs(number - round(number)) < 1e-6 * number:
            return f"{round(number)}/{unit}"
    return f"1/{format_duration(each)}"


def plain_number(text: str) -> int | float | str:
    """Convert text from a variable or a command line to a number, by TOML's rules; return any other text unchanged."""
    stripped = text.strip()
    if not _NUMBER.fullmatch(stripped):
        return text
    try:
        return float(stripped) if any(each in ".eE" for each in stripped) else int(stripped)
    except ValueError:  # underscores in places that are not allowed
        return text


def format_duration(value: float) -> str:
    """Return the shortest text that a person would write: "30s", "1h30m", "250ms"."""
    if 0 < value < 1:
        return f"{value * 1000:g}ms"
    left, text = value, ""
    for unit in ("d", "h", "m"):
        count, left = divmod(left, _SECONDS[unit])
        if count:
            text += f"{count:g}{unit}"
    left = round(left, 3)
    return text + f"{left:g}s" if left or not text else text


def format_size(value: int) -> str:
    """Return the shortest exact text that a person would write: "1MB", "64KB", "123B"."""
    for unit in ("GB", "MB", "KB"):
        if value and value % _BYTES[unit] == 0:
            return f"{int(value) // _BYTES[unit]}{unit}"
    return f"{int(value)}B"


def count(number: int, noun: str, plural: str = "") -> str:
    """Format a count: `1 worker`, `2 workers`, `12,000 jobs`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def are(number: int, noun: str, plural: str = "") -> str:
    """Format a count with its verb: `1 job is`, `2 jobs are`."""
    return f"{count(number, noun, plural)} {'is' if number == 1 else 'are'}"


def times(number: int) -> str:
    """Format a number of times: `once`, `twice`, `3 times`."""
    return {1: "once", 2: "twice"}.get(number) or count(number, "time")


def shown_time(at: float) -> str:
    """Format a Unix time in local time; one that no calendar has, from a foreign producer, as "beyond the calendar"."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return "beyond the calendar"


def shown(value: object, most: int = 80) -> str:
    """Format a value for an error: shorten it if it is long; name its type if `repr` fails."""
    try:
        text = repr(value)
    except Exception:  # a user's class may raise anything, and Python refuses to write very large ints
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _parse(text: str, units: dict[str, float] | dict[str, int], expected: str) -> float:
    total, end = 0.0, 0
    stripped = text.strip()
    for match in _NUMBER_UNIT.finditer(stripped):
        number, unit = match.groups()
        if match.start() != end or unit not in units:
            break
        total += float(number) * units[unit]
        end = match.end()
    if not stripped or end != len(stripped):
        raise ValueError(f'expected {expected}, got "{shown(text)[1:-1]}"')
    return total
