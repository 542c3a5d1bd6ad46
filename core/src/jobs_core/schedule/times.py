"""The ticks of an entry: by a cron expression in a time zone, or at a fixed interval.

Times are whole milliseconds since 1970, so that every machine computes exactly the same ticks.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from datetime import datetime, timezone, tzinfo
from typing import TypeAlias

from cronsim import CronSim, CronSimError

Times: TypeAlias = "Callable[[int], int | None]"
"""A function that returns the first tick after a time; None if there is none within 50 years.

It never returns an earlier tick for a later time.
"""

SHORTEST = 1000
"""Shortest interval, in milliseconds."""

LONGEST = 1e9
"""Longest interval, in seconds: that of durations in the configuration."""

_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def by_interval(every: float) -> Times:
    """Tick at the multiples of `every` seconds since 1970; raise ValueError if it is too short or too long."""
    if not every <= LONGEST:
        raise ValueError(f"every {every:g} s is too seldom, the longest is {LONGEST:g} s")
    step = round(max(every, 0.0) * 1000)
    if step < SHORTEST:
        raise ValueError(f"every {every:g} s is too often, the shortest is 1s: let one job do several in a row")
    return lambda at: (at // step + 1) * step


def by_cron(expression: str, zone: tzinfo) -> Times:
    """Tick as Debian's cron does, with its rules for daylight saving.

    Raises ValueError with the reason if the expression is invalid.
    """
    text = _NICKNAMES.get(expression.strip().lower(), expression)
    try:
        CronSim(text, datetime.now(zone))
    except CronSimError as error:
        raise ValueError(
            f'invalid cron expression "{expression}" ({str(error).lower()}): write minute, hour, day of month, month and day '
            'of week, such as "*/5 * * * *" or "30 2 * * MON-FRI"; with six fields, seconds come first'
        ) from None

    def after(at: int) -> int | None:
        try:
            # The loop skips ticks that are too early: cronsim counts on the wall clock, which shows one hour of autumn twice,
            # and for fixed hours it may begin with a tick in the first of the two.
            for moment in CronSim(text, datetime.fromtimestamp(at // 1000, zone)):
                tick = round(moment.timestamp()) * 1000
                if tick > at:
                    return tick
        except (OverflowError, ValueError, OSError):  # a time beyond the calendar
            pass
        return None

    return after


def zone(name: str) -> tzinfo:
    """Return the time zone of this name; raise ValueError with the fix if there is none."""
    if name.upper() == "UTC":
        return timezone.utc  # needs no database
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = zoneinfo.available_timezones()
    if not known:
        raise ValueError(
            f'"{name}" cannot be looked up, since this machine has no time zone data: install its package tzdata, '
            "or `pip install tzdata`"
        )
    from difflib import get_close_matches

    near = get_close_matches(name, known, 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else ", such as Europe/Berlin"
    raise ValueError(f'"{name}" is not a time zone: use a name from the IANA database{hint}')


def latest(after: Times, since: int, now: int) -> int | None:
    """Return the last tick after `since` and up to `now`; None if there is none."""
    first = after(since)
    if first is None or first > now:
        return None
    low, high = since, now  # the tick after `low` is due, the one after `high` is not
    while high - low > 1:
        middle = (low + high) // 2
        tick = after(middle)
        if tick is not None and tick <= now:
            low = middle
        else:
            high = middle
    return after(low)
