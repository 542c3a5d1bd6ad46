"""What the numbers of rows of statistics mean, and their sums over topics, machines and time.

See backends/statistics.py for the rows. `sums_of` and `StatisticsRow.sums` have the numbers in the order of SUMS, followed by
both histograms, with the bounds of `scoreboard.layout.BUCKETS`. New numbers come last: older rows end in zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from msgspec import Struct, field

from .backends.base import Operable
from .backends.statistics import FIVE_MINUTES, HOUR, LARGEST_NUMBER, MINUTE, StatisticsRow, added, all_of, greater
from .scoreboard.layout import BUCKETS, OUTCOMES
from .scoreboard.reader import JobFigures

SUMS: Final = ("reports", *OUTCOMES, "too_fast", "run_us", "wait_us")
"""Names of the first sums. "reports": machines and minutes that sent the row; then runs by outcome, and microseconds."""

_ENQUEUED, _BEFORE = 2, 3  # places among the peaks, after the longest run and the longest wait
_BOUNDS: Final = len(BUCKETS) + 1
_RUN: Final = len(SUMS)
_WAIT: Final = _RUN + _BOUNDS

MICROSECONDS: Final = 1_000_000


def sums_of(figures: JobFigures) -> tuple[int, ...]:
    """Return the sums of the figures of a job so far. No machine has reported yet."""
    return (
        0,
        *(figures.outcomes.get(outcome, 0) for outcome in OUTCOMES),
        figures.too_fast,
        round(figures.run_seconds * MICROSECONDS),
        round(figures.wait_seconds * MICROSECONDS),
        *figures.run_buckets,
        *figures.wait_buckets,
    )


def enqueued_peaks(before: int, after: int) -> tuple[int, ...]:
    """Return the peaks of a row with the store's own count of a topic's enqueues before and after its minute.

    All machines read the same count. So that rows keep the highest one and the lowest one, the latter is stored upside down.
    """
    return (0, 0, min(after, LARGEST_NUMBER), max(0, LARGEST_NUMBER - before))


def runs_in(sums: tuple[int, ...]) -> int:
    """Return the number of runs in sums."""
    return sum(sums[_RUN:_WAIT])


class Tally(Struct):
    """Rows added up."""

    sums: tuple[int, ...] = ()
    peaks: tuple[int, ...] = ()
    enqueued: int = 0  # jobs that were added to the topic, if the store counts them; not of job functions

    def add(self, row: StatisticsRow | Tally) -> None:
        self.sums, self.peaks = added(self.sums, row.sums), greater(self.peaks, row.peaks)

    @property
    def reports(self) -> int:
        """Return for how many minutes machines have reported, together."""
        return self._sum(0)

    def outcome(self, name: str) -> int:
        """Return the number of runs with one of OUTCOMES; "dead" includes jobs that died without a run."""
        return self._sum(SUMS.index(name))

    @property
    def runs(self) -> int:
        """Return the number of runs that ended: done, failed, cancelled or put off."""
        return runs_in(self.sums)

    @property
    def failed(self) -> int:
        """Return the number of failed attempts, retried or dead; and of jobs that died without one."""
        return self.outcome("retry") + self.outcome("dead")

    @property
    def ended(self) -> int:
        """Return the number of attempts that were done or failed."""
        return self.outcome("done") + self.failed

    @property
    def run(self) -> Durations:
        """Return the durations of the runs."""
        return self._durations(_RUN, "run_us", 0)

    @property
    def wait(self) -> Durations:
        """Return the times from when jobs were due until their first run."""
        return self._durations(_WAIT, "wait_us", 1)

    def _sum(self, number: int) -> int:
        return self.sums[number] if number < len(self.sums) else 0

    def _durations(self, begin: int, total: str, peak: int) -> Durations:
        buckets = [*self.sums[begin : begin + _BOUNDS], *([0] * _BOUNDS)][:_BOUNDS]
        longest = self.peaks[peak] if peak < len(self.peaks) else 0
        return Durations(buckets, self._sum(SUMS.index(total)) / MICROSECONDS, longest / MICROSECONDS)


class Durations(Struct, frozen=True):
    """A number of durations: how many in each bucket, their sum, and the longest one, in seconds."""

    buckets: list[int]
    seconds: float
    longest: float

    @property
    def count(self) -> int:
        return sum(self.buckets)

    @property
    def mean(self) -> float | None:
        return self.seconds / self.count if self.count else None

    @property
    def most(self) -> float | None:
        """Return the longest duration; if it is not known, the bound of its bucket. None without any."""
        last = max((number for number, count in enumerate(self.buckets) if count), default=None)
        if last is None:
            return None
        low, high = BUCKETS[last - 1] if last else 0.0, BUCKETS[min(last, len(BUCKETS) - 1)]
        return self.longest if self.longest > low else high

    def below(self, share: float) -> float | None:
        """Return an estimate of the duration below which this share of them lies; None without any.

        It lies in the right bucket; inside it, durations count as spread evenly.
        """
        wanted, most = share * self.count, self.most
        if most is None:
            return None
        for number, count in enumerate(self.buckets):
            if count >= wanted > 0:
                low = BUCKETS[number - 1] if number else 0.0
                high = min(BUCKETS[number], most) if number < len(BUCKETS) else most
                return low + max(0.0, high - low) * wanted / count
            wanted -= count
        return most


# -- over time --------------------------------------------------------------------------------------

STEPS: Final = tuple(
    MINUTE * n for n in (1, 2, 5, 10, 15, 20, 30, 60, 120, 180, 240, 360, 720, 1440, 2880, 4320, 7200, 10080, 14400, 21600)
)
"""Seconds of time that a column of a table over time may have."""


class Span(Struct, frozen=True):
    """A stretch of time in equal columns: from `begin`, in unix seconds, each of `step` seconds."""

    begin: int
    step: int
    columns: int
    until: int  # end of the last minute, or five minutes, that can be known; the last column may be incomplete

    @classmethod
    def of(cls, since: float, now: float, most: int, least: int = MINUTE, kept: float = math.inf) -> Span:
        """Return the span from `since` until now with up to `most` columns of at least `least` seconds.

        Columns begin at multiples of their step. Minutes older than `kept` are known by the hour.
        """
        until = int(now) - int(now) % least
        least = HOUR if now - since > kept + MINUTE else least
        step = next((step for step in STEPS if step % least == 0 and (until - since) / step <= most), STEPS[-1])
        begin = min(math.ceil(since / step) * step, (until - least) // step * step)
        return cls(begin, step, max(1, math.ceil((until - begin) / step)), until)

    def column(self, at: int) -> int | None:
        """Return the column of a time; None if it is outside."""
        column = (at - self.begin) // self.step
        return column if 0 <= column < self.columns else None


class Line(Struct):
    """What was counted of one topic, or one job function, in each column and in all."""

    columns: list[Tally]
    total: Tally = field(default_factory=Tally)

    @classmethod
    def empty(cls, span: Span) -> Line:
        return cls([Tally() for _ in range(span.columns)])

    def add(self, span: Span, row: StatisticsRow) -> None:
        """Add a row, if the span has its time."""
        column = span.column(row.at)
        if column is not None:
            self.columns[column].add(row)
            self.total.add(row)


class _Enqueues:
    """Computes enqueues in the columns of a topic from the store's counts in its rows."""

    def __init__(self) -> None:
        self._counts: list[tuple[int, int, int]] = []  # time, count before, count after

    def add(self, row: StatisticsRow) -> None:
        if len(row.peaks) > _BEFORE and row.peaks[_BEFORE]:
            self._counts.append((row.at, LARGEST_NUMBER - row.peaks[_BEFORE], row.peaks[_ENQUEUED]))

    def put_into(self, line: Line, everything: Line, span: Span) -> None:
        known = 0
        for at, before, after in sorted(self._counts):
            if before == 0 and after < known:
                known = 0  # the store counts from zero again
            added, known = max(0, after - max(before, known)), max(after, known)
            column = span.column(at)
            if column is not None:
                for tally in (line.columns[column], line.total, everything.columns[column], everything.total):
                    tally.enqueued += added


class Statistics(Struct):
    """What was counted in a span of time: of all topics, of each topic, and which times nobody has reported."""

    span: Span
    everything: Line
    topics: dict[str, Line]
    gaps: list[tuple[int, int]]  # begin and end of each time without a report, in unix seconds

    def is_known(self, column: int) -> bool:
        """Return whether any machine reported in a column."""
        return self.everything.columns[column].reports > 0


def of_topics(backend: Operable, span: Span, topic: str | None = None) -> Statistics:
    """Read the statistics of all topics, or of one; raise NotSupported or BackendUnavailable."""
    found = Statistics(span, Line.empty(span), {}, [])
    reported: list[tuple[int, int]] = []
    enqueues: dict[str, _Enqueues] = {}
    for row in _rows(backend, span, topic):
        if row.topic:
            found.topics.setdefault(row.topic, Line.empty(span)).add(span, row)
            enqueues.setdefault(row.topic, _Enqueues()).add(row)
        else:
            found.everything.add(span, row)
            reported.append((row.at, row.at + row.span))
    for name, each in enqueues.items():
        each.put_into(found.topics[name], found.everything, span)
    found.gaps = _gaps(sorted(reported), span)
    return found


def of_all(backend: Operable, span: Span) -> Statistics:
    """Read the statistics of all topics together: a row a minute, however many topics there are."""
    found = Statistics(span, Line.empty(span), {}, [])
    reported: list[tuple[int, int]] = []
    for size in (MINUTE, HOUR):
        for row in all_of(backend, size, span.begin, ""):
            if not row.job:
                found.everything.add(span, row)
                reported.append((row.at, row.at + row.span))
    found.gaps = _gaps(sorted(reported), span)
    return found


def of_jobs(backend: Operable, span: Span, topic: str | None, job: str | None = None) -> dict[tuple[str, str], Line]:
    """Read the statistics of job functions, by topic and name: all, or those of a topic, or of a name."""
    found: dict[tuple[str, str], Line] = {}
    for row in all_of(backend, FIVE_MINUTES, span.begin, topic):
        if job in (None, row.job) and span.column(row.at) is not None:
            found.setdefault((row.topic, row.job), Line.empty(span)).add(span, row)
    return found


def _rows(backend: Operable, span: Span, topic: str | None) -> Iterator[StatisticsRow]:
    """Yield the rows of topics. The hours come last: rows that are folded meanwhile are counted twice, and not left out."""
    for each in (None,) if topic is None else ("", topic):
        for size in (MINUTE, HOUR):
            yield from all_of(backend, size, span.begin, each)


def _gaps(reported: list[tuple[int, int]], span: Span) -> list[tuple[int, int]]:
    """Return the times of a span that no row covers. A single minute is no gap: clocks and restarts may shift a report."""
    gaps, last = [], span.begin
    for begin, end in [*reported, (span.until, span.until)]:
        if begin - last > MINUTE:
            gaps.append((last, begin))
        last = max(last, end)
    return gaps
