"""What statistics mean: counts and durations of rows, spans of time in columns, gaps."""

from __future__ import annotations

import pytest

from jobs_core import App, Config
from jobs_core.backends.memory import forget
from jobs_core.backends.statistics import DAY, FIVE_MINUTES, HOUR, MINUTE, StatisticsRow
from jobs_core.ids import new_token
from jobs_core.plugins import Plugins
from jobs_core.registry import Registry
from jobs_core.scoreboard import state
from jobs_core.scoreboard.layout import BUCKETS, OUTCOMES
from jobs_core.scoreboard.reader import JobFigures
from jobs_core.statistics import SUMS, Durations, Span, Tally, enqueued_peaks, of_jobs, of_topics, sums_of
from jobs_core.supervisor.housekeeper.statistics import FILE, Counted, StatisticsSender

NOON = 1_800_014_400  # a multiple of a day


def durations(*seconds: float) -> Durations:
    buckets = [0] * (len(BUCKETS) + 1)
    for each in seconds:
        buckets[sum(each > bound for bound in BUCKETS)] += 1
    return Durations(buckets, sum(seconds), max(seconds, default=0.0))


@pytest.fixture
def backend():
    url = f"memory://{new_token()}"
    app = App(Config(backend=url), plugins=Plugins(), registry=Registry())
    made = app.new_backend(clock=lambda: NOON + 30.0)
    made.open(None)
    yield made
    made.close()
    app.close()
    forget(url)


def test_the_order_of_the_numbers_stays_because_stores_keep_them():
    assert (SUMS[0], SUMS[-2:], OUTCOMES) == (
        "reports", ("run_us", "wait_us"), ("done", "retry", "dead", "cancelled", "deferred", "stale")
    )  # fmt: skip
    assert BUCKETS == (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


def test_figures_of_workers_are_found_again_in_a_tally():
    outcomes = {"done": 3, "retry": 2, "dead": 1, "cancelled": 4, "deferred": 5, "stale": 6}
    runs, waits = list(range(15)), [2 * n for n in range(15)]
    tally = Tally(sums_of(JobFigures("t", "j", outcomes, 1.25, 2.5, runs, waits)), (7_000_000_000, 1_000_000))
    assert {name: tally.outcome(name) for name in OUTCOMES} == outcomes
    assert (tally.failed, tally.ended, tally.runs, tally.reports) == (3, 6, sum(runs), 0)
    assert tally.run == Durations(runs, 1.25, 7000.0)
    assert tally.wait == Durations(waits, 2.5, 1.0)
    assert tally.wait.most == 300.0, "its bucket says that it is longer"


def test_rows_of_an_older_release_are_padded_with_zeros():
    tally = Tally((1, 5))
    assert (tally.reports, tally.outcome("done"), tally.failed, tally.runs) == (1, 5, 0, 0)
    assert (tally.run.count, tally.run.mean, tally.run.most, tally.run.below(0.5)) == (0, None, None, None)


@pytest.mark.parametrize(
    ("seconds", "share", "low", "high"),
    [
        ((0.003,), 0.5, 0.0, 0.005),
        ((0.02, 0.02, 0.02, 8.0), 0.5, 0.01, 0.025),
        ((0.02, 0.02, 0.02, 8.0), 0.95, 5.0, 8.0),
        ((0.3,) * 19 + (400.0,), 0.95, 0.25, 0.5),
        ((0.3,) * 19 + (400.0,), 0.99, 300.0, 400.0),
        ((400.0,), 0.5, 300.0, 400.0),
    ],
    ids=["fast", "half", "tail", "edge", "beyond", "only beyond"],
)
def test_a_quantile_lies_in_its_bucket_and_not_above_the_longest(seconds, share, low, high):
    found = durations(*seconds).below(share)
    assert found is not None
    assert low <= found <= high


@pytest.mark.parametrize(
    ("back", "step", "columns"),
    [
        (90, MINUTE, 1), (600, MINUTE, 10), (2 * HOUR, 5 * MINUTE, 24),
     (DAY, 30 * MINUTE, 48), (7 * DAY, 4 * HOUR, 42), (30 * DAY, DAY, 30)],
)  # fmt: skip
def test_columns_begin_at_multiples_of_their_step_and_are_few_enough(back, step, columns):
    span = Span.of(NOON - back, NOON + 5, 48, kept=DAY)
    assert (span.step, span.columns, span.until, span.begin % step) == (step, columns, NOON, 0)
    assert span.begin >= NOON - back
    assert span.column(span.begin) == 0
    assert span.column(NOON - 1) == columns - 1
    assert span.column(span.begin - 1) is None


def test_a_span_has_at_least_one_column():
    assert Span.of(NOON - 5, NOON, 48).columns == 1
    assert Span.of(NOON + 100, NOON, 48, FIVE_MINUTES) == Span(NOON - 300, 300, 1, NOON)


def test_topics_machines_and_folded_hours_add_up_in_columns(backend):
    def row(ago: int, topic: str = "", **fields):
        return StatisticsRow(NOON - ago, topic, **fields)

    rows = [row(ago, sums=(2, ago)) for ago in (DAY + 3 * HOUR, 120, 60)]
    rows += [row(ago, "mail", sums=(0, 1)) for ago in (DAY + 3 * HOUR, 120, 60)]
    rows += [StatisticsRow(NOON - 300, "mail", "shop.send", (0, 7), span=FIVE_MINUTES)]
    backend.add_statistics(rows, "one")
    hours = Span.of(NOON - 2 * DAY, NOON, 48, kept=DAY)
    found = of_topics(backend, hours)
    assert [n for n in range(hours.columns) if found.is_known(n)] == [21, 47]
    assert found.everything.total.reports == 6
    assert found.topics["mail"].total.outcome("done") == 3
    assert [tally.outcome("done") for tally in found.topics["mail"].columns if tally.sums] == [1, 2]
    minutes = Span.of(NOON - 600, NOON, 48)
    assert of_topics(backend, minutes, "other").topics == {}
    assert of_topics(backend, minutes, "mail").topics["mail"].total.outcome("done") == 2
    assert of_topics(backend, minutes).gaps == [(NOON - 600, NOON - 120)]
    assert of_jobs(backend, minutes, None)["mail", "shop.send"].total.outcome("done") == 7
    assert of_jobs(backend, minutes, "mail", "other") == {}


def test_a_missing_minute_is_no_gap_but_two_are(backend):
    backend.add_statistics([StatisticsRow(NOON - ago * 60, sums=(1,)) for ago in (10, 9, 7, 4, 3)], "one")
    found = of_topics(backend, Span.of(NOON - 600, NOON, 48))
    assert found.gaps == [(NOON - 360, NOON - 240), (NOON - 120, NOON)]


def test_enqueues_are_the_differences_of_the_stores_counts_however_many_machines_report_them(backend):
    def row(ago: int, before: int, after: int):
        return StatisticsRow(NOON - ago * 60, "mail", peaks=enqueued_peaks(before, after))

    backend.add_statistics([row(9, 100, 110), row(8, 110, 130), row(6, 130, 150)], "one")
    backend.add_statistics([row(9, 104, 115), row(7, 100, 130), row(6, 130, 150)], "two")  # it was away for a minute
    backend.add_statistics([row(3, 0, 7), row(2, 7, 8)], "three")  # the store has begun again
    backend.add_statistics([StatisticsRow(NOON - 120, "quiet", sums=(0, 1))], "four")
    found = of_topics(backend, Span.of(NOON - 600, NOON, 48))
    assert [tally.enqueued for tally in found.topics["mail"].columns] == [0, 15, 15, 0, 20, 0, 0, 7, 1, 0]
    assert (found.topics["mail"].total.enqueued, found.topics["quiet"].total.enqueued) == (58, 0)
    assert found.everything.total.enqueued == 58


def test_enqueues_survive_the_folding_into_hours(backend):
    rows = [
        StatisticsRow(NOON - DAY - HOUR + minute * 60, "mail", peaks=enqueued_peaks(10 * minute, 10 * minute + 10))
        for minute in range(60)
    ]
    backend.add_statistics(rows, "one")
    assert of_topics(backend, Span.of(NOON - 2 * DAY, NOON, 48, kept=DAY)).topics["mail"].total.enqueued == 600


def test_a_machine_reports_each_new_count_once_and_begins_with_the_first_that_it_sees(tmp_path):
    sender = StatisticsSender(tmp_path)
    sender.begin([], NOON)
    sender.saw({"mail": 100, "rabbit": None})
    sender.saw({"mail": 107})
    sender.look([], NOON + 60)
    sender.look([], NOON + 120)
    sender = StatisticsSender(tmp_path)  # a restart of the supervisor, during which jobs came
    sender.begin([], NOON + 130)
    sender.saw({"mail": 110})
    sender.look([], NOON + 180)
    sender.saw({"mail": 3})  # the store has begun again
    sender.look([], NOON + 240)
    found = state.read(tmp_path / FILE, Counted)
    rows = [(row.at - NOON, row.peaks) for batch in found.unsent for row in batch.rows if row.topic]
    assert rows == [(0, enqueued_peaks(100, 107)), (120, enqueued_peaks(107, 110)), (180, enqueued_peaks(0, 3))]
