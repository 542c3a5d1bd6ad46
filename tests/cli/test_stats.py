"""`jobsctl stats`: what it shows of rows that the test wrote, in 80 columns and in ASCII; gaps are no zeros."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime, timezone

import pytest

from jobs_core.backends.base import Counts
from jobs_core.backends.statistics import DAY, FIVE_MINUTES, HOUR, MOST_ADDED, StatisticsRow
from jobs_core.cli import output, stats
from jobs_core.scoreboard.reader import JobFigures
from jobs_core.statistics import enqueued_peaks, sums_of

from .test_commands import said


class Rows:
    """The statistics of a project's queue, as of a fixed time."""

    def __init__(self, project, monkeypatch):
        self.project = project
        self.now = int(time.time()) // HOUR * HOUR  # so that no test straddles an hour
        monkeypatch.setattr(stats.time, "time", lambda: self.now + 5.0)
        self.backend = project.app().new_backend(clock=lambda: self.now + 5.0)
        self.backend.open(None)
        self.requests = 0

    def add(self, *rows):
        self.requests += 1
        for n in range(0, len(rows), MOST_ADDED):
            assert self.backend.add_statistics(rows[n : n + MOST_ADDED], f"request-{self.requests}-{n}") == 0

    def report(self, *minutes):
        """Let a machine report that it was there, so many minutes ago."""
        self.add(*[StatisticsRow(self.now - 60 * ago, sums=(1,)) for ago in minutes])

    def ran(self, ago, topic, job="shop.send", *, done=0, retry=0, dead=0, bucket=5, waits=5):
        runs, waited = [0] * 15, [0] * 15
        runs[bucket] = waited[waits] = done + retry + dead
        sums = sums_of(JobFigures(topic, job, {"done": done, "retry": retry, "dead": dead}, 1.0, 2.0, runs, waited))
        at = self.now - 60 * ago
        self.add(StatisticsRow(at, sums=sums), StatisticsRow(at, topic, sums=sums))
        if ago < 24 * 60:
            self.add(StatisticsRow(at - at % FIVE_MINUTES, topic, job, sums, span=FIVE_MINUTES))

    def __call__(self, *arguments, back=60, code=0, **environment):
        """Run the command for the last minutes before the fixed time."""
        since = datetime.fromtimestamp(self.now - 60 * back, timezone.utc).isoformat()
        return self.project.here("stats", *arguments, "--since", since, code=code, **environment)


@pytest.fixture
def rows(project, monkeypatch):
    project.configure("pools.default.topics = ['default', 'mail']")
    made = Rows(project, monkeypatch)
    yield made
    made.backend.close()


def test_topics_are_listed_with_rates_failures_and_times(rows):
    rows.report(*range(1, 61))
    rows.ran(1, "mail", done=90, retry=8, dead=2, bucket=3, waits=8)
    rows.ran(30, "mail", done=20)
    text = rows()
    assert re.search(r"^topic +runs +rate +failed +dead +run p50 +p95 +wait p50 +p95$", text, re.MULTILINE)
    assert re.search(r"^default +0 +– +– +0 +– +– +– +–$", text, re.MULTILINE)
    assert re.search(r"^mail +120 +2\.0/min +8\.3% +2 +\d\dms +\d+ms +1\.\ds +2\.\ds$", text, re.MULTILINE), text
    assert re.search(r"^\(all\) +120 ", text, re.MULTILINE)
    assert re.search(r"^mail +▁{29}[▂▃]▁{17}█  100$", text, re.MULTILINE) or re.search(r"^mail .*█  100$", text, re.MULTILINE)
    assert "failed attempts" in text
    assert "no machine" not in text


def test_a_time_without_a_report_is_a_gap_and_not_zero(rows):
    rows.report(*range(1, 11), *range(21, 41))
    text = rows(back=40)
    assert len(re.findall("no machine reported from", text)) == 1
    assert "(10m)" in text
    (line,) = re.findall(r"^default +(\S+)  0$", text, re.MULTILINE)
    assert line == "▁" * 20 + "·" * 10 + "▁" * 10
    assert re.search(r"^ +· no machine reported$", text, re.MULTILINE)
    data = json.loads(rows("--json", back=40))
    assert data["gaps"] == [[rows.now - 20 * 60, rows.now - 10 * 60]]
    assert [column is None for column in data["all"]["columns"]] == [False] * 20 + [True] * 10 + [False] * 10


def test_a_gap_divides_no_rate(rows):
    rows.report(*range(1, 11))
    rows.ran(2, "mail", done=20)
    assert re.search(r"^mail +20 +2\.0/min ", rows(), re.MULTILINE)


def test_without_any_report_it_says_who_reports(rows):
    text = rows()
    assert "no machine has reported: only `jobsctl start` does, once a minute" in text
    assert "topic" not in text


def test_one_topic_is_shown_with_its_job_functions(rows):
    rows.report(*range(1, 61))
    rows.ran(5, "mail", "shop.send", done=10)
    rows.ran(5, "mail", "shop.bill", done=5, dead=5)
    rows.ran(5, "other", "shop.send", done=7)
    text = rows("mail")
    assert "other" not in text
    assert re.search(r"^mail +20 ", text, re.MULTILINE)
    assert re.search(r"^shop\.bill +10 .* 50\.0% +5 ", text, re.MULTILINE)
    assert re.search(r"^shop\.send +10 .* 0\.0% +0 ", text, re.MULTILINE)
    for graph in ("runs", "failed", "run p95", "wait p95"):
        assert re.search(rf"^{graph} +[▁-█]+  \S+$", text, re.MULTILINE), graph


def test_enqueues_are_drawn_with_their_total(rows):
    rows.report(*range(1, 61))
    counts = [StatisticsRow(rows.now - 60 * ago, "mail", peaks=enqueued_peaks(1000 - ago, 1001 - ago)) for ago in range(1, 21)]
    rows.add(*counts, StatisticsRow(rows.now - 60, "bulk", peaks=enqueued_peaks(7, 123_456_796)))
    text = rows()
    assert "enqueued, one column for 2m, highest to the right" in text
    assert re.search(r"^mail +▁+█{10}  2 of 20$", text, re.MULTILINE), text
    assert re.search(r"^\(all\) +▁+▂+█  123M of 123M$", text, re.MULTILINE), text
    assert re.search(r"^enqueued +▁+█{10}  2 of 20$", rows("mail"), re.MULTILINE)
    data = json.loads(rows("--json"))
    assert (data["topics"]["mail"]["enqueued"], data["all"]["enqueued"]) == (20, 123_456_809)
    assert sum(column["enqueued"] for column in data["topics"]["mail"]["columns"]) == 20


@pytest.mark.parametrize("arguments", [(), ("mail",)], ids=["all topics", "one topic"])
def test_a_store_that_counts_no_enqueues_is_named(rows, arguments, monkeypatch):
    monkeypatch.setattr(type(rows.backend), "counts", lambda self, topics: {topic: Counts() for topic in topics})
    rows.report(*range(1, 61))
    assert "enqueued: not counted by sqlite://" in rows(*arguments)
    assert json.loads(rows("--json", *arguments))["all"]["enqueued"] is None


def test_one_job_is_found_without_its_module_in_all_topics(rows):
    rows.report(*range(1, 61))
    rows.ran(5, "mail", done=10)
    rows.ran(5, "default", done=3)
    rows.ran(5, "mail", "shop.bill", done=5)
    text = rows("--job", "send")
    assert "shop.send in 2 topics:" in text
    assert re.search(r"^mail +10 ", text, re.MULTILINE)
    assert re.search(r"^default +3 ", text, re.MULTILINE)
    assert "in 2 topics" not in rows("mail", "--job", "shop.send")
    text = rows("--job", "sent", code=1)
    assert "no run of job sent was counted in this time; did you mean send?" in text
    assert "counted for a day only" in rows("--job", "send", back=3 * 24 * 60)


def test_an_unknown_topic_is_doubted(rows):
    rows.report(*range(1, 61))
    assert "topic mial is not configured and holds no jobs; did you mean mail?" in rows("mial")
    rows.ran(2, "mial", done=1)
    assert "not configured" not in rows("mial")


def test_days_are_shown_by_the_hour(rows):
    rows.report(1, *[n * 60 for n in range(1, 100)])
    rows.ran(3 * 24 * 60, "mail", done=6)
    data = json.loads(rows("--json", back=4 * 24 * 60))
    assert data["topics"]["mail"]["done"] == 6
    assert data["step"] == 2 * HOUR
    assert len(data["gaps"]) == 23, "an hour that was folded is known or not as a whole"
    assert json.loads(rows("--json", back=90 * 24 * 60))["since"] >= rows.now - 30 * DAY


def test_figures_for_programs_have_sums_quantiles_and_columns(rows):
    rows.report(*range(1, 61))
    rows.ran(2, "mail", done=3, retry=1, bucket=3, waits=8)
    data = json.loads(rows("mail", "--json"))
    mail = data["topics"]["mail"]
    assert {name: mail[name] for name in ("runs", "done", "failed", "retried", "dead", "cancelled", "deferred")} == {
        "runs": 4, "done": 3, "failed": 1, "retried": 1, "dead": 0, "cancelled": 0, "deferred": 0
    }  # fmt: skip
    assert (mail["run"]["count"], mail["run"]["sum"], mail["wait"]["sum"]) == (4, 1.0, 2.0)
    assert 0.025 <= mail["run"]["p50"] <= mail["run"]["p95"] <= 0.05
    assert [column["runs"] for column in mail["columns"] if column["runs"]] == [4]
    assert data["jobs"]["rows"][0]["job"] == "shop.send"
    assert data["reports"] == 60


def test_every_line_fits_into_80_columns_of_a_terminal(rows, monkeypatch):
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    rows.report(*range(1, 600))
    for topic in ("mail", "a" * 90, "ä.topic.with.a.long.name", "default"):
        rows.ran(7, topic, "shop." + "x" * 60, done=9_999_999, retry=300, dead=123_456, bucket=14, waits=14)
    for arguments in ([], ["mail"], ["mail", "--job", "x" * 60], ["--job", "x" * 60]):
        for back in (10, 24 * 60, 30 * 24 * 60):
            for line in rows(*arguments, back=back, COLUMNS="80").splitlines():
                assert len(line) <= 80 or line.startswith("jobs: "), (arguments, line)


def test_a_terminal_without_blocks_gets_ascii(rows):
    rows.report(*range(1, 11), *range(21, 41))
    rows.ran(5, "mail", done=5)
    text = rows(back=40, TERM="dumb")
    assert text.isascii()
    assert re.search(r"^mail +_{20}\?{10}_{5}#_{4}  5$", text, re.MULTILINE), text
    assert re.search(r"^ +\? no machine reported$", text, re.MULTILINE)


def test_foreign_names_cannot_act_on_the_terminal(rows):
    rows.report(*range(1, 11))
    rows.ran(5, "mail", "shop.\u202esend", done=5)
    assert "\u202e" not in rows("mail")


def test_a_backend_without_statistics_says_so_and_which_ones_have_them(project):
    project.configure(backend='backend = "redis+cluster://127.0.0.1:1"')
    text = project.here("stats", code=None)
    assert "does not support statistics" in text or "cannot" in text


def test_a_time_to_come_is_refused(project):
    assert "--since: expected a time in the past" in said(project.run("stats", "--since", "2999-01-01T00:00Z"), code=2)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0004, "0ms"), (0.0123, "12ms"), (0.9994, "999ms"), (0.9996, "1.0s"), (9.96, "10s"), (99.4, "99s"),
     (99.6, "1.7m"), (599, "10m"), (3599, "1.0h"), (86400 * 3, "72h"), (86400 * 30, "30d")],
)  # fmt: skip
def test_durations_are_short(seconds, text):
    assert stats.short(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(1234.5, "1,234/s"), (1.0, "1.0/s"), (0.5, "30/min"), (0.01, "36/h"), (1e-5, "0.9/d"), (1e-4, "8.6/d")]
)
def test_rates_have_the_unit_that_a_person_would_choose(rate, text):
    assert stats.rate(rate) == text
