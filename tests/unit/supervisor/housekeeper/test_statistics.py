"""The housekeeper's part of statistics: every run counts once, whatever dies, and a minute that was not seen is a gap."""

from __future__ import annotations

import logging

import pytest

from jobs_core.backends.base import BackendOptions
from jobs_core.backends.memory import MemoryBackend, forget
from jobs_core.backends.statistics import FIVE_MINUTES, MINUTE, StatisticsRow
from jobs_core.errors import BackendError, BackendUnavailable, QueueFull
from jobs_core.ids import new_token
from jobs_core.scoreboard import state
from jobs_core.scoreboard.reader import JobFigures
from jobs_core.statistics import Tally
from jobs_core.supervisor.housekeeper import statistics
from jobs_core.supervisor.housekeeper.statistics import Counted, StatisticsSender
from jobs_core.supervisor.housekeeper.totals import TotalsFile

from ....support.board import FakeBoard, run

NOON = 1_800_014_400


class Place:
    """A run directory, the counters of its workers, and a backend that can fail."""

    def __init__(self, run_dir, monkeypatch):
        self.run_dir, self.now, self.url = run_dir, float(NOON + 30), f"memory://{new_token()}"
        self.backend = MemoryBackend(self.url, BackendOptions(clock=lambda: self.now))
        self.figures: dict[tuple[str, str], JobFigures] = {}
        self.add, self.fails, self.calls = self.backend.add_statistics, [], []
        monkeypatch.setattr(self.backend, "add_statistics", self._add)
        monkeypatch.setattr(statistics.time, "time", lambda: self.now)

    def _add(self, rows, request):
        self.calls.append(request)
        before, error = self.fails.pop(0) if self.fails else (False, None)
        if before:
            raise error
        answer = self.add(rows, request)
        if error:
            raise error
        return answer

    def ran(self, count=1, topic="mail", job="shop.send", *, outcome="done", seconds=0.3, longest=()):
        row = self.figures.setdefault((topic, job), JobFigures(topic, job, {}, 0.0, 0.0, [0] * 15, [0] * 15))
        row.outcomes[outcome] = row.outcomes.get(outcome, 0) + count
        row.run_seconds += count * seconds
        row.run_buckets[6] += count
        row.longest = longest

    def sender(self, before=()):
        sender = StatisticsSender(self.run_dir)
        sender.begin(before, self.now)
        return sender

    def minute(self, sender, *, seconds=60):
        """Let a minute end, and send what was counted."""
        self.now += seconds
        assert sender.is_due(self.now) == (seconds >= 30)
        sender.look(self.figures.values(), self.now)
        assert not sender.is_due(self.now)
        sender.send(self.backend)

    def rows(self, topic=None, span=MINUTE):
        return self.backend.statistics(span, 0, 1000, topic=topic)

    def done(self, topic=""):
        return sum(Tally(row.sums).outcome("done") for row in self.rows(topic))


@pytest.fixture
def place(tmp_path, monkeypatch):
    made = Place(tmp_path, monkeypatch)
    yield made
    forget(made.url)


def test_each_minute_has_what_was_counted_in_it(place):
    sender = place.sender()
    place.ran(2, longest=((1.5, 0.0), (9.0, 0.0)))
    place.ran(1, "pay", "shop.pay", outcome="dead")
    place.minute(sender)
    place.ran(3)
    place.minute(sender)
    place.minute(sender)
    assert [(row.at - NOON, Tally(row.sums).reports, Tally(row.sums).outcome("done")) for row in place.rows("")] == [
        (0, 1, 2), (60, 1, 3), (120, 1, 0)
    ]  # fmt: skip
    assert [(row.at - NOON, Tally(row.sums).outcome("done")) for row in place.rows("mail")] == [(0, 2), (60, 3)]
    assert place.rows("mail")[0].peaks == (1_500_000, 0), "noon is an even minute"
    assert place.rows("pay")[0].topic == "pay"
    jobs = place.rows(span=FIVE_MINUTES)
    assert [(row.at - NOON, row.topic, row.job) for row in jobs] == [(0, "mail", "shop.send"), (0, "pay", "shop.pay")]
    assert Tally(jobs[0].sums).outcome("done") == 5


def test_runs_without_a_row_of_their_own_count_for_all_topics_together(place):
    sender = place.sender()
    place.ran(4, "", "")
    place.minute(sender)
    assert place.done() == 4
    assert [row.topic for row in place.rows()] == [""]
    assert place.rows(span=FIVE_MINUTES) == []


@pytest.mark.parametrize("before", [True, False], ids=["not stored", "stored without an answer"])
def test_what_got_no_answer_is_sent_again_and_counts_once(place, before):
    sender = place.sender()
    place.ran(2)
    place.fails = [(before, BackendUnavailable("down"))]
    with pytest.raises(BackendUnavailable):
        place.minute(sender)
    assert sender.unsent
    sender.send(place.backend)
    assert not sender.unsent
    assert (place.done(), len(set(place.calls))) == (2, 1)


@pytest.mark.parametrize("before", [True, False], ids=["not stored", "stored without an answer"])
def test_a_housekeeper_that_follows_a_killed_one_counts_everything_once(place, before):
    sender = place.sender()
    place.ran(2)
    place.fails = [(before, KeyboardInterrupt())]
    with pytest.raises(KeyboardInterrupt):
        place.minute(sender)
    place.ran(3)
    follower = place.sender()
    follower.send(place.backend)
    assert place.done() == 2
    place.minute(follower)
    assert (place.done(), place.done("mail")) == (5, 5)


def test_minutes_of_an_outage_are_sent_when_it_is_over(place):
    sender = place.sender()
    place.fails = [(True, BackendUnavailable("down"))] * 3
    for count in (1, 2, 3):
        place.ran(count)
        with pytest.raises(BackendUnavailable):
            place.minute(sender)
    place.minute(sender)
    assert [(row.at - NOON, Tally(row.sums).outcome("done")) for row in place.rows("mail")] == [(0, 1), (60, 2), (120, 3)]
    assert len(place.rows("")) == 4


def test_the_last_look_counts_for_the_minute_that_has_not_ended(place):
    sender = place.sender()
    place.ran(2)
    sender.look(place.figures.values(), place.now, last=True)
    sender.send(place.backend)
    place.ran(5)
    follower = place.sender()
    place.minute(follower)
    (row,) = place.rows("")
    assert (row.at, Tally(row.sums).reports, Tally(row.sums).outcome("done")) == (NOON, 1, 7), "the machine reported once"


def test_minutes_in_which_the_machine_was_down_are_not_reported(place):
    place.minute(place.sender())
    place.now += 600
    place.minute(place.sender())
    assert [row.at - NOON for row in place.rows("")] == [0, 660]


def test_what_was_counted_before_there_was_a_file_is_not_sent(place):
    place.ran(100)
    sender = place.sender(before=list(place.figures.values()))
    place.ran(1)
    place.minute(sender)
    assert place.done() == 1


def test_counters_that_go_back_count_nothing(place):
    sender = place.sender()
    place.ran(5)
    place.minute(sender)
    place.figures.clear()
    place.ran(2)
    place.minute(sender)
    place.ran(1)
    place.minute(sender)
    assert place.done() == 6


def test_a_clock_that_is_set_back_delays_no_report(place):
    sender = place.sender()
    place.minute(sender)
    place.now -= 7200
    place.minute(place.sender())
    assert [row.at - NOON for row in place.rows("")] == [60 - 7200, 0]


def test_what_cannot_be_written_is_not_sent_until_it_can(place, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    sender = place.sender()
    place.ran(2)
    write = state.write

    def full(path, document):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "write", full)
    for _ in range(3):
        place.minute(sender)
    assert place.rows() == []
    assert caplog.text.count("`jobsctl stats` does not show everything that this machine did: statistics.json") == 1
    monkeypatch.setattr(state, "write", write)
    place.ran(1)
    place.minute(sender)
    assert place.done() == 3


def test_what_the_backend_refuses_or_leaves_out_is_logged_and_stops_nothing(place, caplog):
    caplog.set_level(logging.WARNING)
    sender = place.sender()
    place.fails = [(True, BackendError("no room for statistics"))]
    place.minute(sender)
    assert "does not show everything that this machine did: no room for statistics" in caplog.text
    place.add = lambda rows, request: len(rows)
    place.minute(sender)
    assert "left out 1 rows" in caplog.text
    assert not sender.unsent


def test_minutes_for_which_a_full_backend_has_no_room_are_sent_when_it_has(place, caplog):
    caplog.set_level(logging.WARNING)
    sender = place.sender()
    place.fails = [(True, QueueFull("no room"))]
    place.ran(2)
    place.minute(sender)
    assert not sender.unsent, "not before the next minute"
    assert "it comes late, because the backend is full: no room" in caplog.text
    place.ran(3)
    place.minute(sender)
    assert [(row.at - NOON, Tally(row.sums).outcome("done")) for row in place.rows("mail")] == [(0, 2), (60, 3)]


def test_an_answer_that_is_lost_for_hours_is_not_asked_for_again(place, caplog):
    caplog.set_level(logging.WARNING)
    sender = place.sender()
    place.ran(2)
    place.fails = [(False, BackendUnavailable("down"))]
    with pytest.raises(BackendUnavailable):
        place.minute(sender)
    place.now += 5.5 * 3600
    sender.send(place.backend)
    assert place.done() == 2
    assert "can no longer be known" in caplog.text


def test_a_day_of_unsent_minutes_is_kept(place, monkeypatch):
    monkeypatch.setattr(statistics, "MOST_UNSENT", 3)
    sender = place.sender()
    for _ in range(5):
        place.now += 60
        sender.look(place.figures.values(), place.now)
    counted = state.read(place.run_dir / statistics.FILE, Counted)
    assert counted is not None
    assert [batch.rows[0].at - NOON for batch in counted.unsent] == [120, 180, 240]


def test_many_rows_are_sent_in_several_calls(place, monkeypatch):
    monkeypatch.setattr(statistics, "MOST_ADDED", 4)
    sender = place.sender()
    for n in range(5):
        place.ran(1, f"topic-{n}", f"job-{n}")
    place.minute(sender)
    assert len(place.calls) == 3
    assert len(place.rows()) == 6
    assert len(place.rows(span=FIVE_MINUTES)) == 5


# -- the figures of real scoreboard files -----------------------------------------------------------


def ended(worker, seconds, waited=0.03, job="shop.send", topic="mail"):
    one = run(job, topic)
    one.ended = one.started + seconds
    one.delivery.broker_now = one.delivery.pushed_at + waited
    worker.note(one, "done")
    worker.publish()


def test_the_longest_run_of_a_minute_is_known_in_the_next_one(tmp_path, monkeypatch):
    clock = [float(NOON + 50), 1000.0]
    monkeypatch.setattr("jobs_core.scoreboard.writer.time.time", lambda: clock[0])
    monkeypatch.setattr("jobs_core.scoreboard.writer.time.monotonic", lambda: clock[1])

    def later(seconds):
        clock[0] += seconds
        clock[1] += seconds

    board = FakeBoard(tmp_path / "run")
    worker = board.worker("h-1")
    totals = TotalsFile(board.run_dir)
    ended(worker, 2.0, 7.0)
    ended(worker, 0.5, 0.5)
    later(20)
    worker.beat(2, 0, 0)
    ended(worker, 1.0)
    (row,) = totals.figures()
    assert [tuple(round(each, 2) for each in pair) for pair in row.longest] == [(2.0, 7.0), (1.0, 0.03)]
    ended(worker, 1e6)
    later(60)
    worker.beat(4, 0, 0)
    (row,) = totals.figures()
    assert row.longest[0] == (0.0, 0.0), "the minute has begun"
    assert row.longest[1][0] > 60_000, "as long as can be told"
    totals.add_worker(board.run_dir / state.WORKERS / "h-1", 0)
    (row,) = totals.figures()
    assert (row.outcomes["done"], row.longest) == (4, ())
    board.close()


def test_only_workers_of_earlier_generations_were_counted_before(tmp_path):
    board = FakeBoard(tmp_path / "run")
    ended(board.worker("h-1"), 1.0)  # of generation 1
    totals = TotalsFile(board.run_dir)
    assert len(totals.figures(2)) == 1
    assert totals.figures(1) == []
    board.close()


def test_rows_can_be_stored(place):
    sender = place.sender()
    place.ran(1, "mail", "x" * 200)
    place.ran(1, "ü" * 48, "(not run)")
    place.minute(sender)
    assert isinstance(place.rows(span=FIVE_MINUTES)[0], StatisticsRow)
