"""Send what the workers of this machine did in the last minute to the backend, which adds it up over all machines.

Workers count in their scoreboards. Once a minute, the housekeeper compares these counters with those of the minute before. It
writes the difference to `statistics.json`, together with the new counters, before it sends it. So each run is counted once,
however often the housekeeper or the backend dies: what was sent without an answer is sent again under its request id.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from msgspec import Struct

from ... import events
from ...backends.base import Backend
from ...backends.statistics import FIVE_MINUTES, HOUR, MINUTE, MOST_ADDED, REMEMBERED, StatisticsRow, added, greater
from ...errors import BackendError, BackendUnavailable, QueueFull
from ...ids import new_token
from ...scoreboard import state
from ...scoreboard.reader import JobFigures, total
from ...statistics import MICROSECONDS, enqueued_peaks, runs_in, sums_of

FILE = "statistics.json"
"""The file in the run directory with the counters that were sent, and with what could not be sent yet."""

MOST_UNSENT = 1440
"""Most batches that wait for the backend: those of a day."""

_Counters: TypeAlias = "list[tuple[str, str, tuple[int, ...]]]"  # topic, job, sums


class Batch(Struct):
    """Rows that are sent in one call."""

    request: str
    rows: list[StatisticsRow]
    tried_at: float = 0.0  # when it was first sent, in unix seconds


class Counted(Struct):
    """The content of FILE."""

    counters: _Counters = []
    minute: int = 0  # the last one that was reported, in minutes since 1970
    unsent: list[Batch] = []
    enqueued: dict[str, int] = {}  # topic → the store's count of its enqueues, as it was last reported


class StatisticsSender:
    """Counts what workers did, and sends it. Used by the housekeeper's main thread."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / FILE
        self._counted: Counted | None = None
        self._looked = 0  # the minute of the last look
        self._enqueued: dict[str, int] = {}  # the store's counts as they were last seen
        self._full = False  # whether the backend had no room since then
        self._trouble = ""  # the last one that was logged

    @property
    def unsent(self) -> bool:
        """Return whether there is something to send now."""
        return self._counted is not None and bool(self._counted.unsent) and not self._full

    def begin(self, before: Iterable[JobFigures], now: float) -> None:
        """Begin to count.

        `before` are figures that were counted before there was FILE, such as those of an earlier release: they are not sent.
        """
        last = int(now) // MINUTE - 1  # it was not reported if this machine was down
        counted = state.read(self._path, Counted) or Counted(_counters(before))
        counted.minute = max(counted.minute, last) if counted.minute <= last + 2 else last  # else the clock was set back
        self._counted, self._looked = counted, last + 1
        self._save(counted)

    def saw(self, enqueued: Mapping[str, int | None]) -> None:
        """Take the store's counts of enqueues by topic, None for those that it does not count; a new topic counts from here."""
        if self._counted is None:
            return
        for topic, count in enqueued.items():
            if count is not None:
                self._enqueued[topic] = count
                self._counted.enqueued.setdefault(topic, count)

    def is_due(self, now: float) -> bool:
        """Return whether a minute has ended since the last look."""
        return self._counted is not None and int(now) // MINUTE != self._looked

    def look(self, figures: Iterable[JobFigures], now: float, *, last: bool = False) -> None:
        """Count what happened since the last look, for the minute before this one; the last look counts for this one."""
        counted = self._counted
        if counted is None:
            return
        self._looked, self._full = int(now) // MINUTE, False
        minute = self._looked if last else self._looked - 1
        summed = total(figures)
        known = {(topic, job): sums for topic, job, sums in counted.counters}
        rows = _rows(summed, known, self._new_enqueues(counted), minute, reports=minute > counted.minute)
        unsent = [*counted.unsent, *_batches(rows)]
        enqueued = {**counted.enqueued, **self._enqueued}
        found = Counted(_counters(summed.values()), max(minute, counted.minute), unsent[-MOST_UNSENT:], enqueued)
        if self._save(found):
            self._counted = found
            if len(unsent) > MOST_UNSENT:
                self._tell(f"the backend has not answered for so long that {len(unsent) - MOST_UNSENT} minutes are left out")

    def _new_enqueues(self, counted: Counted) -> dict[str, tuple[int, int]]:
        """Return the store's counts before and now, of topics where they have changed; 0 before if it began again."""
        changed = {topic: (counted.enqueued[topic], now) for topic, now in self._enqueued.items()}
        return {topic: (was if was <= now else 0, now) for topic, (was, now) in changed.items() if was != now}

    def send(self, backend: Backend) -> None:
        """Send what was counted; raise BackendUnavailable. If the backend is full, the rest waits for the next minute."""
        counted = self._counted
        while counted is not None and counted.unsent:
            batch = counted.unsent[0]
            now = time.time()
            if batch.tried_at and not 0 <= now - batch.tried_at < REMEMBERED - HOUR:
                self._tell("whether the backend has counted some minutes before it failed can no longer be known")
            else:
                if not batch.tried_at:
                    batch.tried_at = now
                    if not self._save(counted):
                        return
                self._add(backend, batch)
                if self._full:
                    return
            del counted.unsent[0]
            self._save(counted)

    def _add(self, backend: Backend, batch: Batch) -> None:
        try:
            left_out = backend.add_statistics(batch.rows, batch.request)
        except BackendUnavailable:
            raise
        except QueueFull as error:
            self._full = True
            self._tell(f"it comes late, because the backend is full: {error}")
            return
        except BackendError as error:
            self._tell(str(error))
            return
        if left_out:
            self._tell(
                f"the backend has left out {left_out} rows as too old, or because this machine's clock is ahead of its own"
            )

    def _save(self, counted: Counted) -> bool:
        """Write FILE; return False if that fails: what is not written is not sent, since it might be sent twice."""
        try:
            state.write(self._path, counted)
        except OSError as error:
            self._tell(f"{FILE} cannot be written: {error}")
            return False
        return True

    def _tell(self, trouble: str) -> None:
        """Log a trouble, unless it is that of the last time."""
        if trouble != self._trouble:
            self._trouble = trouble
            events.emit(events.StatisticsTrouble(trouble))


def _counters(figures: Iterable[JobFigures]) -> _Counters:
    return [(topic, job, sums_of(row)) for (topic, job), row in total(figures).items()]


def _rows(
    figures: dict[tuple[str, str], JobFigures],
    known: dict[tuple[str, str], tuple[int, ...]],
    enqueued: Mapping[str, tuple[int, int]],
    minute: int,
    *,
    reports: bool,
) -> list[StatisticsRow]:
    """Return the rows of a minute: one for all topics, one for each in which a run ended or jobs came, and for each job."""
    at = minute * MINUTE
    everything: tuple[tuple[int, ...], tuple[int, ...]] = ((int(reports),), ())
    topics: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        topic: ((), enqueued_peaks(*counts)) for topic, counts in enqueued.items()
    }
    jobs = []
    for (topic, job), row in figures.items():
        sums = _difference(sums_of(row), known.get((topic, job), ()))
        if not any(sums):
            continue
        peaks = _peaks(row, minute) if runs_in(sums) else ()
        everything = added(everything[0], sums), greater(everything[1], peaks)
        if topic:  # else the worker had no row left for it
            mine = topics.get(topic, ((), ()))
            topics[topic] = added(mine[0], sums), greater(mine[1], peaks)
            jobs.append(StatisticsRow(at - at % FIVE_MINUTES, topic, job, sums, peaks, FIVE_MINUTES))
    rows = [StatisticsRow(at, topic, sums=sums, peaks=peaks) for topic, (sums, peaks) in topics.items()]
    if not rows and not any(everything[0]):
        return []
    return [StatisticsRow(at, sums=everything[0], peaks=everything[1]), *rows, *jobs]


def _difference(now: Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    """Return what was added to counters; nothing where one is smaller, because a worker's file was lost."""
    padded = [*before, *([0] * (len(now) - len(before)))]
    return tuple(max(0, new - old) for new, old in zip(now, padded, strict=False))


def _peaks(row: JobFigures, minute: int) -> tuple[int, ...]:
    if not row.longest:
        return ()
    return tuple(round(seconds * MICROSECONDS) for seconds in row.longest[minute % 2])


def _batches(rows: Sequence[StatisticsRow]) -> Iterable[Batch]:
    rest = iter(rows)
    while some := list(islice(rest, MOST_ADDED)):
        yield Batch(new_token(), some)
