"""The statistics of a memory store."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TypeAlias

from ..statistics import (
    FIVE_MINUTES,
    HOUR,
    HOURS_KEPT,
    JOBS_KEPT,
    MINUTE,
    MINUTES_KEPT,
    REMEMBERED,
    StatisticsRow,
    added,
    greater,
    kept_as,
)

_Place: TypeAlias = "tuple[int, str, str]"
_Numbers: TypeAlias = "tuple[tuple[int, ...], tuple[int, ...]]"


class Statistics:
    """All rows of a store. Callers hold the store's lock; `now` is the broker's clock."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[_Place, _Numbers]] = {MINUTE: {}, FIVE_MINUTES: {}, HOUR: {}}  # by span
        self._answers: dict[str, tuple[float, int]] = {}  # request → (its time, its answer)

    def add(self, rows: Sequence[StatisticsRow], request: str, now: float) -> int:
        if request in self._answers:
            return self._answers[request][1]
        left_out = 0
        for row in rows:
            kept = kept_as(row, now)
            if kept is None:
                left_out += 1
            else:
                self._add(kept[0], (kept[1], row.topic, row.job), (row.sums, row.peaks))
        self._answers[request] = now, left_out
        return left_out

    def listed(self, span: int, since: float, most: int, topic: str | None, after: StatisticsRow | None) -> list[StatisticsRow]:
        found = sorted(
            place
            for place in self._rows[span]
            if place[0] >= since and topic in (None, place[1]) and (after is None or place > after.place)
        )
        return [StatisticsRow(*place, *self._rows[span][place], span=span) for place in found[:most]]

    def housekeep(self, now: float, limit: int) -> bool:
        """Fold and drop old rows, up to `limit` of each kind; return whether there may be more."""
        more = False
        for span, kept in ((MINUTE, MINUTES_KEPT), (FIVE_MINUTES, JOBS_KEPT), (HOUR, HOURS_KEPT)):
            old = list(islice((place for place in self._rows[span] if now - place[0] >= kept), limit))
            for place in old:
                numbers = self._rows[span].pop(place)
                if span == MINUTE:
                    at, topic, job = place
                    self._add(HOUR, (at - at % HOUR, topic, job), numbers)
            more = more or len(old) == limit
        for request in list(islice(self._answers, 10 * limit)):
            if self._answers[request][0] > now - REMEMBERED:
                break
            del self._answers[request]
        return more

    def _add(self, span: int, place: _Place, numbers: _Numbers) -> None:
        sums, peaks = self._rows[span].get(place, ((), ()))
        self._rows[span][place] = added(sums, numbers[0]), greater(peaks, numbers[1])
