"""Statistics: what the workers of all machines did, by minute and topic.

A *row* counts the runs of one topic in one minute, or of one job function of a topic in five minutes; see `span_of`. A row
without a topic counts all topics of the machines that sent it: every machine sends one each minute, even if nothing ran, so
that a minute without one is a gap and not a zero. Machines send their rows with `Backend.add_statistics`.

*Rows of one key* (span, time, topic, job) are added up: `sums` number by number, and of `peaks` the greater ones. A shorter
tuple is as good as one that ends in zeros. Sums are whole numbers, so that the order of additions makes no difference. What the
numbers mean is for the core alone to know.

*Folding.* Rows of topics are folded into hours when they are MINUTES_KEPT old, and dropped when they are HOURS_KEPT old. Rows
of job functions are dropped when they are JOBS_KEPT old. A row that arrives late is treated as if it had been there before.
Ages are those of the row's time by the broker's clock; a row from more than AHEAD in the future is left out.

*Retried calls.* A call has a request id. If the same request is repeated within REMEMBERED, it adds nothing and returns the
first answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ..errors import BackendError

if TYPE_CHECKING:
    from .base import Operable

MINUTE: Final = 60
FIVE_MINUTES: Final = 300
HOUR: Final = 3600
DAY: Final = 86_400

MINUTES_KEPT: Final = DAY
"""Seconds after which the rows of topics are folded into hours."""

HOURS_KEPT: Final = 30 * DAY
"""Seconds for which the rows of topics are kept in all."""

JOBS_KEPT: Final = DAY
"""Seconds for which the rows of job functions are kept."""

AHEAD: Final = HOUR
"""Most seconds by which a row may be ahead of the broker's clock."""

REMEMBERED: Final = 6 * HOUR
"""Seconds for which the request ids of `add_statistics` are remembered."""

MOST_ADDED: Final = 100
"""Most rows of one call of `add_statistics`: no backend is busy with it for longer than 50 ms."""

MOST_ROWS: Final = 1000
"""Most rows of one page."""

MOST_NUMBERS: Final = 64
"""Most sums, and most peaks, of one row."""

LARGEST_NUMBER: Final = 2**53 - 1
"""The largest sum or peak of a row that is sent: a store that has only floats adds up exactly to this number."""

_NAME: Final = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{0,200}")


class StatisticsRow(Struct, frozen=True):
    """The counts of one topic and span of time."""

    at: int  # beginning of the time that it counts, in unix seconds; a multiple of `span`
    topic: str = ""  # "" for all topics
    job: str = ""  # "" for all job functions
    sums: tuple[int, ...] = ()
    peaks: tuple[int, ...] = ()
    span: int = MINUTE  # seconds that it counts: HOUR if it was folded

    @property
    def place(self) -> tuple[int, str, str]:
        """Return its position among the rows of one span."""
        return self.at, self.topic, self.job


def span_of(job: str) -> int:
    """Return the span of a row that is sent: FIVE_MINUTES for a job function, MINUTE otherwise."""
    return FIVE_MINUTES if job else MINUTE


def check(rows: Sequence[StatisticsRow]) -> None:
    """Raise BackendError if these rows cannot be added in one call."""
    if len(rows) > MOST_ADDED:
        raise BackendError(f"{len(rows):,} rows of statistics in one call, the most is {MOST_ADDED}")
    for row in rows:
        if not (_NAME.fullmatch(row.topic) and _NAME.fullmatch(row.job)):
            raise BackendError(
                "invalid topic or job in a row of statistics: expected up to 200 characters, none of them a control character"
            )
        if row.span != span_of(row.job) or row.at % row.span or row.at < 0:
            raise BackendError(f"a row of statistics of {row.span} s at {row.at}: expected a multiple of {span_of(row.job)} s")
        if max(len(row.sums), len(row.peaks)) > MOST_NUMBERS:
            raise BackendError(f"a row of statistics has more than {MOST_NUMBERS} numbers")
        if any(not 0 <= number <= LARGEST_NUMBER for number in (*row.sums, *row.peaks)):
            raise BackendError(f"a row of statistics has a number that is not from 0 to {LARGEST_NUMBER:,}")


def kept_as(row: StatisticsRow, now: float) -> tuple[int, int] | None:
    """Return span and time under which a row is kept at this time of the broker's clock; None if it is not kept."""
    age = now - row.at
    if age < -AHEAD or age >= (JOBS_KEPT if row.job else HOURS_KEPT):
        return None
    if row.job or age < MINUTES_KEPT:
        return row.span, row.at
    return HOUR, row.at - row.at % HOUR


def added(mine: Sequence[int], others: Sequence[int]) -> tuple[int, ...]:
    """Return the sums of two rows of one key, added up."""
    return tuple(one + other for one, other in zip_longest(mine, others, fillvalue=0))


def greater(mine: Sequence[int], others: Sequence[int]) -> tuple[int, ...]:
    """Return the peaks of two rows of one key."""
    return tuple(max(pair) for pair in zip_longest(mine, others, fillvalue=0))


def all_of(backend: Operable, span: int, since: float, topic: str | None = None) -> Iterator[StatisticsRow]:
    """Yield all rows of a span from `since` on, page by page; of one topic, if it is given."""
    after: StatisticsRow | None = None
    while page := backend.statistics(span, since, MOST_ROWS, topic=topic, after=after):
        yield from page
        after = page[-1]
