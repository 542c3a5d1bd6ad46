"""The promises of statistics: sums over machines and time, retried calls, folding, ages, bounds, pages."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ...backends.base import Backend
from ...backends.statistics import (
    AHEAD,
    FIVE_MINUTES,
    HOUR,
    HOURS_KEPT,
    JOBS_KEPT,
    LARGEST_NUMBER,
    MINUTE,
    MINUTES_KEPT,
    MOST_ADDED,
    MOST_NUMBERS,
    StatisticsRow,
    all_of,
)
from ...errors import BackendError, NotSupported
from .rig import Rig, RigCase, T

JOB = "contract.job"


class StatisticsCases(RigCase):
    """No count is lost or counted twice, whichever machine sends it and however often; nothing grows without bound."""

    waits_for_minutes = True
    """Whether a case may wait up to a minute for a real clock; False for a store that is tried by a movable clock as well."""

    def test_statistics_are_refused_without_the_feature(self, rig: Rig) -> None:
        if rig.has("statistics"):
            return
        backend = rig.producer()
        with pytest.raises(NotSupported, match="statistics"):
            backend.add_statistics([], rig.request())
        with pytest.raises(NotSupported, match="statistics"):
            backend.statistics(MINUTE, 0, 1)

    def test_rows_are_read_as_they_were_added(self, rig: Rig) -> None:
        if not rig.has("statistics"):
            return
        writer, reader = rig.producer(), rig.producer()
        assert reader.statistics(MINUTE, 0, 10) == []
        minute = _minute(rig)
        rows = [
            StatisticsRow(minute - 60, "", sums=(1, 0, 3)),
            StatisticsRow(minute, "", sums=(1,), peaks=(5,)),
            StatisticsRow(minute, T, sums=(0, 0, LARGEST_NUMBER), peaks=(0, LARGEST_NUMBER)),
            StatisticsRow(minute, 'ä "\\ %:,;|{}\u2028', sums=tuple(range(MOST_NUMBERS)), peaks=tuple(range(MOST_NUMBERS))),
        ]
        jobs = [
            StatisticsRow(_five(minute), T, JOB, (7,), (8,), FIVE_MINUTES),
            StatisticsRow(_five(minute), T, "ö 'x'", (), (), FIVE_MINUTES),
        ]
        assert writer.add_statistics([*rows, *jobs], rig.request()) == 0
        assert reader.statistics(MINUTE, 0, 10) == rows
        assert reader.statistics(FIVE_MINUTES, 0, 10) == jobs
        assert reader.statistics(HOUR, 0, 10) == []
        assert reader.statistics(MINUTE, minute, 10) == rows[1:]
        assert reader.statistics(MINUTE, minute + 0.5, 10) == []
        assert reader.statistics(MINUTE, 0, 10, topic="") == rows[:2]
        assert reader.statistics(MINUTE, 0, 10, topic=T) == rows[2:3]
        assert reader.statistics(FIVE_MINUTES, 0, 10, topic="other") == []

    def test_rows_of_two_machines_in_one_minute_add_up(self, rig: Rig) -> None:
        if not rig.has("statistics"):
            return
        one, other = rig.producer(), rig.producer()
        minute = _minute(rig)
        one.add_statistics([StatisticsRow(minute, T, sums=(1, 2), peaks=(9, 1))], rig.request())
        other.add_statistics([StatisticsRow(minute, T, sums=(10, 20, 30), peaks=(5, 2, 3))], rig.request())
        one.add_statistics([StatisticsRow(minute, T, sums=(100,))], rig.request())
        assert one.statistics(MINUTE, 0, 10) == [StatisticsRow(minute, T, sums=(111, 22, 30), peaks=(9, 2, 3))]

    def test_rows_of_one_key_in_one_call_add_up(self, rig: Rig) -> None:
        if not rig.has("statistics"):
            return
        backend, minute = rig.producer(), _minute(rig)
        backend.add_statistics([StatisticsRow(minute, T, sums=(n,), peaks=(n,)) for n in range(1, 5)], rig.request())
        assert backend.statistics(MINUTE, 0, 10) == [StatisticsRow(minute, T, sums=(10,), peaks=(4,))]

    def test_a_repeated_request_counts_once_and_returns_the_first_answer(self, rig: Rig) -> None:
        if not rig.has("statistics"):
            return
        one, other = rig.producer(), rig.producer()
        minute, request = _minute(rig), rig.request()
        rows = [StatisticsRow(minute, T, sums=(1,)), StatisticsRow(minute - HOURS_KEPT, T, sums=(1,))]
        assert one.add_statistics(rows, request) == 1
        rig.advance(0.1)
        one.housekeep(100)
        assert one.add_statistics(rows, request) == 1
        assert other.add_statistics(rows, request) == 1
        if rig.clock:
            rig.advance(5 * HOUR)
            one.housekeep(100)
            assert other.add_statistics(rows, request) == 1
        assert other.add_statistics(rows[:1], rig.request()) == 0
        assert other.statistics(MINUTE, 0, 10) == [StatisticsRow(minute, T, sums=(2,))]

    def test_calls_of_many_machines_at_once_lose_nothing(self, rig: Rig) -> None:
        if not rig.has("statistics"):
            return
        minute = _minute(rig)

        def send(backend: Backend) -> None:
            for n in range(20):
                rows = [StatisticsRow(minute, topic, sums=(1, n), peaks=(n,)) for topic in ("", T)]
                backend.add_statistics(rows, rig.request())

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(send, [rig.producer() for _ in range(4)]))
        expected = [StatisticsRow(minute, topic, sums=(80, 760), peaks=(19,)) for topic in ("", T)]
        assert rig.producer().statistics(MINUTE, 0, 10) == expected

    def test_folding_into_hours_keeps_the_sums(self, rig: Rig) -> None:
        if not rig.has("statistics") or not (rig.clock or self.waits_for_minutes):
            return
        backend = rig.producer()
        oldest, hours = _about_to_be(rig, MINUTES_KEPT), set[int]()
        for n, topic in enumerate(("", T, "other") * 3):
            at = oldest - n // 3 * MINUTE
            hours.add(at - at % HOUR)
            backend.add_statistics([StatisticsRow(at, topic, sums=(1, n), peaks=(n,))], rig.request())
        backend.add_statistics([StatisticsRow(oldest + HOUR, T, sums=(5,))], rig.request())
        rig.advance(oldest + MINUTES_KEPT - _now(rig) + 0.1)
        rig.until(lambda: not backend.housekeep(2).more)
        assert backend.statistics(MINUTE, 0, 10) == [StatisticsRow(oldest + HOUR, T, sums=(5,))]
        folded = backend.statistics(HOUR, 0, 10)
        assert {row.at for row in folded} == hours
        for first, topic in enumerate(("", T, "other")):
            of_topic = [row for row in folded if row.topic == topic]
            assert sum(row.sums[0] for row in of_topic) == 3
            # Rows may lie in two hours; of one whose figures are 0, a store need not keep these.
            assert sum(sum(row.sums[1:]) for row in of_topic) == 3 * first + 9
            assert max(max(row.peaks, default=0) for row in of_topic) == first + 6

    def test_a_late_row_is_added_to_its_hour_and_a_too_late_one_left_out(self, rig: Rig) -> None:
        if not rig.has("statistics"):
            return
        backend, now = rig.producer(), _minute(rig)
        late = now - MINUTES_KEPT - 2 * MINUTE
        rows = [
            StatisticsRow(late, T, sums=(1,)),
            StatisticsRow(now - HOURS_KEPT - MINUTE, T, sums=(1,)),
            StatisticsRow(_five(late), T, JOB, (1,), span=FIVE_MINUTES),
            StatisticsRow(now + AHEAD + 2 * MINUTE, T, sums=(1,)),
            StatisticsRow(now + AHEAD - MINUTE, T, sums=(1,)),
        ]
        assert backend.add_statistics(rows, rig.request()) == 3
        assert backend.add_statistics(rows[:1], rig.request()) == 0
        assert backend.statistics(HOUR, 0, 10) == [StatisticsRow(late - late % HOUR, T, sums=(2,), span=HOUR)]
        assert [row.at for row in backend.statistics(MINUTE, 0, 10)] == [now + AHEAD - MINUTE]
        assert backend.statistics(FIVE_MINUTES, 0, 10) == []

    def test_rows_are_dropped_when_they_are_too_old(self, rig: Rig) -> None:
        if not rig.has("statistics"):
            return
        backend = rig.producer()
        margin = 0 if rig.clock else MINUTE  # a minute may end meanwhile
        late = _about_to_be(rig, HOURS_KEPT) + margin
        assert backend.add_statistics([StatisticsRow(late, T, sums=(1,))], rig.request()) == 0  # now part of an older hour
        if late % HOUR > margin:
            rig.until(lambda: not backend.housekeep(100).more)
            assert backend.statistics(HOUR, 0, 10) == []
        if not rig.clock:  # neither five minutes nor an hour can be waited for
            return
        five = _five(_about_to_be(rig, JOBS_KEPT)) + FIVE_MINUTES
        rows = [
            StatisticsRow(late - late % HOUR + HOUR, T, sums=(1,)),
            StatisticsRow(five, T, JOB, (1,), span=FIVE_MINUTES),
        ]
        assert backend.add_statistics(rows, rig.request()) == 0
        backend.housekeep(100)
        assert len(backend.statistics(FIVE_MINUTES, 0, 10)) == len(backend.statistics(HOUR, 0, 10)) == 1
        rig.advance(FIVE_MINUTES + 1)
        rig.until(lambda: not backend.housekeep(100).more)
        assert backend.statistics(FIVE_MINUTES, 0, 10) == []
        rig.advance(HOUR)
        rig.until(lambda: not backend.housekeep(100).more)
        assert backend.statistics(HOUR, 0, 10) == []

    def test_what_cannot_be_added_is_refused_as_a_whole(self, rig: Rig) -> None:
        if not rig.has("statistics"):
            return
        backend, minute = rig.producer(), _minute(rig)
        good = StatisticsRow(minute, T, sums=(1,))
        wrong = (
            ([good] * (MOST_ADDED + 1), "101 rows"),
            ([good, StatisticsRow(minute, "a\n")], "control character"),
            ([good, StatisticsRow(minute, "x" * 201)], "200 characters"),
            ([good, StatisticsRow(minute, T, "a\0", span=FIVE_MINUTES)], "control character"),
            ([good, StatisticsRow(minute + 1, T)], "multiple of 60 s"),
            ([good, StatisticsRow(minute, T, span=HOUR)], "multiple of 60 s"),
            ([good, StatisticsRow(_five(minute), T, JOB)], "multiple of 300 s"),
            ([good, StatisticsRow(minute, T, sums=(-1,))], "from 0"),
            ([good, StatisticsRow(minute, T, peaks=(LARGEST_NUMBER + 1,))], "from 0"),
            ([good, StatisticsRow(minute, T, sums=(1,) * (MOST_NUMBERS + 1))], "more than 64 numbers"),
        )
        for rows, reason in wrong:
            with pytest.raises(BackendError, match=reason):
                backend.add_statistics(rows, rig.request())
        assert backend.statistics(MINUTE, 0, 10) == []
        assert backend.add_statistics([], rig.request()) == 0

    def test_pages_hold_every_row_once_in_order(self, rig: Rig) -> None:
        if not rig.has("statistics"):
            return
        backend, minute = rig.producer(), _minute(rig)
        topics = sorted(["", "ä", "b", "B", "a", "a b", "a-b", "aa", "z:1", *(f"n{n}" for n in range(30))])
        rows = [StatisticsRow(minute - n * 60, topic, sums=(n + 1,)) for n in (2, 1, 0) for topic in topics]
        backend.add_statistics(list(reversed(rows))[:MOST_ADDED], rig.request())
        backend.add_statistics(list(reversed(rows))[MOST_ADDED:], rig.request())
        assert backend.statistics(MINUTE, 0, 5) == rows[:5]
        seen: list[StatisticsRow] = []
        while page := backend.statistics(MINUTE, 0, 7, after=seen[-1] if seen else None):
            assert len(page) <= 7
            seen += page
        assert seen == rows
        assert list(all_of(backend, MINUTE, minute - 60, "b")) == [row for row in rows if row.topic == "b"][1:]
        jobs = [
            StatisticsRow(_five(minute), topic, job, (1,), (), FIVE_MINUTES) for topic in ("a", "a b") for job in ("a", "b")
        ]
        backend.add_statistics(jobs, rig.request())
        assert backend.statistics(FIVE_MINUTES, 0, 10, after=jobs[1]) == jobs[2:]
        assert backend.statistics(FIVE_MINUTES, 0, 10, topic="a", after=jobs[0]) == jobs[1:2]

    def test_as_many_rows_as_a_call_may_have_are_added_and_listed(self, rig: Rig) -> None:
        if not rig.has("statistics"):
            return
        backend, minute = rig.producer(), _minute(rig)
        sums = (LARGEST_NUMBER // 2,) * MOST_NUMBERS
        rows = [StatisticsRow(minute, f"{n:04}{'x' * 196}", sums=sums) for n in range(MOST_ADDED)]
        for _ in range(2):
            assert backend.add_statistics(rows, rig.request()) == 0
        found = list(all_of(backend, MINUTE, 0))
        assert [row.topic for row in found] == [row.topic for row in rows]
        assert {row.sums for row in found} == {(LARGEST_NUMBER - 1,) * MOST_NUMBERS}


def _now(rig: Rig) -> float:
    return rig.clock() if rig.clock else time.time()


def _minute(rig: Rig) -> int:
    """Return the beginning of the current minute, unless it is about to end."""
    now = int(_now(rig))
    return now - now % MINUTE


def _five(at: int) -> int:
    return at - at % FIVE_MINUTES


def _about_to_be(rig: Rig, age: int) -> int:
    """Return the beginning of the oldest minute that is not of this age yet."""
    oldest = int(_now(rig)) - age
    return oldest - oldest % MINUTE + MINUTE
