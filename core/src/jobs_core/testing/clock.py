"""The clock of a test's queue: it stands still until the test moves it."""

from __future__ import annotations

import sys
import time
from datetime import datetime, timedelta, timezone
from types import BuiltinFunctionType

from ..app import App
from ..backends.base import Backend
from ..errors import JobsError
from ..schedule import Ticker
from ..units import DurationLike, seconds

MOST_TICKS = 10_000
"""Most ticks of the schedule in one `travel`; more are an error, because they would take too long."""


class Clock:
    """The clock of a test's queue, in seconds since 1970.

    It stands still, so that no job becomes due or expires because the machine is slow. If a library replaces the process's
    clock (freezegun, time-machine), it follows that clock.
    """

    def __init__(self) -> None:
        self._still = round(time.time(), 6)  # whole microseconds, the precision of datetime
        self._shift = 0.0

    def now(self) -> float:
        return time.time() + self._shift if _is_replaced() else self._still

    def move(self, to: float) -> None:
        self._shift += to - self.now()
        self._still = to


def _is_replaced() -> bool:
    if type(time.time) is not BuiltinFunctionType:  # freezegun, or a monkeypatch
        return True
    machine = sys.modules.get("time_machine")  # it changes the result of the built-in function
    return machine is not None and bool(machine.escape_hatch.is_travelling())


def destination(now: float, by: DurationLike | None, to: datetime | None) -> float:
    """Return the Unix time to which `travel(by)` or `travel(to=to)` moves; raise ValueError for other arguments."""
    if isinstance(by, datetime):
        raise ValueError("travel: a point in time is given as travel(to=...), a duration as travel(...)")
    if (by is None) is (to is None):
        raise ValueError('travel: give either a duration, travel("1h"), or a point in time, travel(to=datetime(...))')
    if by is not None:
        try:
            return _in_calendar(now + seconds(by), by)
        except ValueError as error:
            raise ValueError(f"travel: {error}") from None
    if not isinstance(to, datetime):
        raise ValueError(f"travel: to: expected a datetime, got {type(to).__name__}")
    if to.utcoffset() is None:
        raise ValueError(
            f"travel: to: {to} has no time zone, so it is another moment on every machine: write "
            f"datetime(..., tzinfo=timezone.utc), or {to.isoformat()!r} with astimezone()"
        )
    later = to.timestamp() + 2.4e-7  # a quarter of a microsecond, because a sum of floats may be slightly later than `to`
    try:
        return _in_calendar(later, to)
    except ValueError as error:
        raise ValueError(f"travel: to: {error}") from None


def _in_calendar(at: float, given: object) -> float:
    """Return a time that a datetime can express; raise ValueError for any other."""
    try:
        moment(at)
    except OverflowError:
        raise ValueError(f"{given} is beyond the calendar, which ends with the year 9999: choose an earlier time") from None
    return at


def moment(at: float) -> datetime:
    """Return a time as a datetime in UTC."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=at)


def travel(clock: Clock, to: float, app: App, backend: Backend, *, schedule: bool) -> None:
    """Move the clock, enqueuing each tick of the schedule at its time; renew the lease, and drop what has expired."""
    if schedule:
        _tick(clock, to, app, backend)
    clock.move(to)
    backend.heartbeat()
    while backend.housekeep(1000).more:
        pass


def _tick(clock: Clock, to: float, app: App, backend: Backend) -> None:
    ticker = Ticker(app, None)
    ticker.refresh(backend)
    ticker.done(ticker.due(clock.now()))  # ignore ticks that were due before this move
    for _ in range(MOST_TICKS):
        due = ticker.next(0.0)
        if due > to:
            return
        clock.move(due + 1e-6)  # a little later than the tick, so that rounding to milliseconds does no harm
        ticker.enqueue(ticker.due(clock.now()), backend.push)
    raise JobsError(
        f"travel: the schedule has more than {MOST_TICKS:,} ticks up to {moment(to):%Y-%m-%d %H:%M} (the entries are "
        f"{', '.join(entry.name for entry in ticker.entries)}): travel less far, or leave the schedule out, "
        "travel(..., schedule=False)"
    )
