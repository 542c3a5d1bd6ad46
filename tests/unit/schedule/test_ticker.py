"""The schedule on one machine, and on two machines with one queue."""

import contextlib
import json
import logging
import tempfile
import uuid
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from jobs_core import App, job
from jobs_core.backends.base import Outcome, Settlement, State
from jobs_core.backends.memory import forget
from jobs_core.config import Config, Duration, ScheduleEntry
from jobs_core.errors import BackendUnavailable, QueueFull
from jobs_core.ids import new_token
from jobs_core.message import decode
from jobs_core.plugins import Plugins
from jobs_core.registry import Registry
from jobs_core.schedule import Ticker
from jobs_core.schedule import ticker as ticker_module

NOON = datetime(2026, 11, 24, 12, tzinfo=timezone.utc).timestamp()
HOUR = 3600.0


class Shop:
    """An application with a schedule, on memory with its own clock; everything pushed is kept."""

    def __init__(self, path, **schedule):
        self.path, self.url, self.now = path, f"memory://{new_token()}", NOON
        registry = Registry()

        @job(name="shop.tell", topic="news", registry=registry)
        def tell(what: str = "x"): ...

        entries = {
            name: ScheduleEntry(
                job="shop.tell", **{key: Duration(value) if key == "every" else value for key, value in said.items()}
            )
            for name, said in schedule.items()
        }
        self.app = App(Config(backend=self.url, schedule=entries), plugins=Plugins(), registry=registry)
        self.backend = self.app.new_backend(clock=lambda: self.now)
        self.backend.open(None)
        self.down = False

    def ticker(self, machine="a"):
        return Ticker(self.app, self.path / f"{machine}.json")

    def push(self, messages, request):
        if self.down:
            raise BackendUnavailable("down")
        return self.backend.push(messages, request)

    def look(self, ticker, now):
        """Look at the schedule, as the housekeeper does."""
        self.now = now
        ticks = ticker.due(now)
        ticker.enqueue(ticks, self.push)
        return [tick.at / 1000 for tick in ticks]

    def pushed(self, topic="news"):
        """Return the ticks of the jobs in the queue, in order."""
        records = self.backend.browse(topic, State.READY, 10_000)
        return sorted(decode(record.payload, topic=topic).headers["tick"] for record in records)

    def run_all(self):
        """Finish all jobs, so that they are forgotten; return their ticks."""
        worker = self.app.new_backend(clock=lambda: self.now)
        worker.open(new_token())
        deliveries = worker.reserve(["news"], 10_000, new_token())
        worker.settle([Settlement(one.id, one.token, Outcome.DONE) for one in deliveries], new_token())
        worker.close()
        self.ids = [one.id for one in deliveries]
        return sorted(decode(one.payload, topic="news").headers["tick"] for one in deliveries)

    def close(self):
        self.backend.close()
        self.app.close()
        forget(self.url)


@pytest.fixture
def shop(tmp_path):
    shops = []

    def shop(**schedule):
        shops.append(Shop(tmp_path, **(schedule or {"five": {"cron": "*/5 * * * *"}})))
        return shops[-1]

    yield shop
    for one in shops:
        one.close()


# -- one machine -----------------------------------------------------------------------------------


def test_a_first_start_is_not_an_outage(shop):
    one = shop()
    ticker = one.ticker()
    assert one.look(ticker, NOON + 1) == []
    assert ticker.next(NOON + 1) == 299
    assert one.look(ticker, NOON + 299) == []
    assert one.look(ticker, NOON + 300) == [NOON + 300]
    assert one.look(ticker, NOON + 301) == []
    assert one.pushed() == [NOON + 300]


def test_a_machine_that_ends_before_its_first_tick_has_missed_it(shop):
    one = shop()
    one.look(one.ticker(), NOON + 1)
    assert one.look(one.ticker(), NOON + HOUR + 1) == [NOON + HOUR]


def test_a_restart_continues_where_it_was(shop):
    one = shop()
    ticker = one.ticker()
    one.look(ticker, NOON)
    one.look(ticker, NOON + 300)
    assert one.look(one.ticker(), NOON + 310) == []
    assert one.look(one.ticker(), NOON + 600) == [NOON + 600]


def test_missed_ticks_run_once_the_latest(shop):
    one = shop()
    one.look(one.ticker(), NOON)
    ticker = one.ticker()
    assert one.look(ticker, NOON + 10 * HOUR + 200) == [NOON + 10 * HOUR]
    assert one.look(ticker, NOON + 10 * HOUR + 201) == []


def test_missed_ticks_never_run_by_choice(shop, caplog):
    one = shop(five={"cron": "*/5 * * * *", "missed": "skip"})
    one.look(one.ticker(), NOON)
    ticker = one.ticker()
    assert one.look(ticker, NOON + 10 * HOUR + 200) == []
    assert one.look(ticker, NOON + 10 * HOUR + 300) == [NOON + 10 * HOUR + 300]
    assert one.pushed() == [NOON + 10 * HOUR + 300]


def test_a_slightly_late_tick_is_on_time(shop):
    one = shop(five={"cron": "*/5 * * * *", "missed": "skip"})
    ticker = one.ticker()
    one.look(ticker, NOON)
    assert one.look(ticker, NOON + 359) == [NOON + 300]


def test_missed_ticks_are_logged_once(shop, caplog):
    caplog.set_level(logging.DEBUG, "jobs")
    one = shop()
    one.look(one.ticker(), NOON)
    ticker = one.ticker()
    one.down = True
    for second in range(3):
        with pytest.raises(BackendUnavailable):
            one.look(ticker, NOON + HOUR + second)
    one.down = False
    one.look(ticker, NOON + HOUR + 5)
    (event,) = [record.event for record in caplog.records]
    assert (event.first, event.last, event.runs) == (NOON + 300, NOON + HOUR, True)


def test_an_outage_of_the_broker_is_retried_until_pushed(shop):
    one = shop()
    ticker = one.ticker()
    one.look(ticker, NOON)
    one.down = True
    for second in (300, 301, 330):
        with pytest.raises(BackendUnavailable):
            one.look(ticker, NOON + second)
        assert ticker.next(NOON + second) >= 1, "the housekeeper would spin"
    one.down = False
    assert one.look(ticker, NOON + 340) == [NOON + 300]
    assert ticker.next(NOON + 340) == 260


def test_a_long_outage_of_the_broker_counts_as_missed(shop):
    one = shop(once={"cron": "*/5 * * * *"}, skip={"cron": "*/5 * * * *", "missed": "skip"})
    ticker = one.ticker()
    one.look(ticker, NOON)
    one.down = True
    with pytest.raises(BackendUnavailable):
        one.look(ticker, NOON + 300)
    one.down = False
    assert one.look(ticker, NOON + HOUR + 100) == [NOON + HOUR]


def test_a_full_queue_keeps_its_tick_and_no_other(shop, caplog):
    one = shop(a={"every": 60, "topic": "full"}, b={"every": 60})
    ticker = one.ticker()
    one.look(ticker, NOON)

    def push(messages, request):
        if messages[0].topic == "full":
            raise QueueFull("full")
        return one.backend.push(messages, request)

    for second in (60, 61):
        ticker.enqueue(ticker.due(NOON + second), push)
        assert ticker.next(NOON + second) == 1
    assert [type(record.event).__name__ for record in caplog.records] == ["TickWaits"]
    assert one.pushed() == [NOON + 60]
    assert [tick.entry.name for tick in ticker.due(NOON + 62)] == ["a"]
    assert one.look(ticker, NOON + 63) == [NOON + 60]
    assert ticker.next(NOON + 63) == 57


def test_a_failed_tick_is_logged_and_skipped(shop, caplog):
    one = shop(big={"every": 60, "args": ["x" * 2_000_000]}, small={"every": 60})
    ticker = one.ticker()
    one.look(ticker, NOON)
    one.look(ticker, NOON + 60)
    assert len(one.pushed()) == 1
    (event,) = [record.event for record in caplog.records]
    assert (event.entry, event.job) == ("big", "shop.tell")
    assert "limit" in event.error
    assert ticker.due(NOON + 61) == []


def test_a_job_carries_its_entry_and_tick(shop):
    one = shop(hello={"every": 60, "args": ["hi"], "topic": "vip"})
    ticker = one.ticker()
    one.look(ticker, NOON)
    one.look(ticker, NOON + 60)
    (record,) = one.backend.browse("vip", State.READY, 9)
    message = decode(record.payload, topic="vip")
    assert (message.job, message.args, message.headers) == ("shop.tell", ["hi"], {"schedule": "hello", "tick": NOON + 60})
    assert uuid.UUID(message.id).version == 8
    assert uuid.UUID(message.id).variant == uuid.RFC_4122


def test_nothing_scheduled_costs_nothing(shop, tmp_path):
    one = shop()
    one.app.config = Config(backend=one.url)
    ticker = one.ticker()
    assert ticker.due(NOON) == []
    assert ticker.next(NOON) == float("inf")
    assert list(tmp_path.iterdir()) == []


# -- the clock -------------------------------------------------------------------------------------


def test_a_clock_set_back_runs_no_tick_twice(shop):
    one = shop()
    ticker = one.ticker()
    one.look(ticker, NOON)
    assert one.look(ticker, NOON + 2 * HOUR) == [NOON + 2 * HOUR]
    seen = [at for second in range(0, 7200, 10) for at in one.look(ticker, NOON + HOUR + second)]
    assert seen == [NOON + 2 * HOUR + second for second in range(300, 3600, 300)]


def test_a_clock_set_forward_is_an_outage(shop):
    one = shop()
    ticker = one.ticker()
    one.look(ticker, NOON)
    assert one.look(ticker, NOON + 5 * HOUR + 1) == [NOON + 5 * HOUR]


def test_a_clock_that_was_wrong_by_years_does_not_stop_the_schedule(shop):
    one = shop()
    ticker = one.ticker()
    one.look(ticker, NOON)
    one.look(ticker, NOON + 10 * 365 * 24 * HOUR)
    assert one.look(ticker, NOON + 10) == []
    assert one.look(ticker, NOON + 300) == [NOON + 300]


# -- the file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [b"", b"{", b"null", b'{"v":1}', b'{"v":1,"entries":{"five":7}}', b"\xff\x00"])
def test_garbage_in_the_file_is_a_first_start(shop, tmp_path, garbage):
    (tmp_path / "a.json").write_bytes(garbage)
    one = shop()
    ticker = one.ticker()
    assert one.look(ticker, NOON + 1) == []
    assert one.look(ticker, NOON + 300) == [NOON + 300]
    assert json.loads((tmp_path / "a.json").read_bytes())["v"] == 1


def test_entries_come_and_go(shop, tmp_path):
    one = shop(a={"every": 60}, b={"every": 60})
    one.look(one.ticker(), NOON)
    one.app.config = Config(backend=one.url, schedule={"b": one.app.config.schedule["b"], "c": one.app.config.schedule["a"]})
    ticker = one.ticker()
    assert one.look(ticker, NOON + 90) == [NOON + 60]  # b; c is new
    assert set(json.loads((tmp_path / "a.json").read_bytes())["entries"]) == {"b", "c"}


def test_a_changed_entry_starts_over(shop):
    one = shop(a={"every": 3600})
    one.look(one.ticker(), NOON)
    one.app.config = Config(backend=one.url, schedule={"a": ScheduleEntry(job="shop.tell", every=Duration(60))})
    assert one.look(one.ticker(), NOON + 1800) == []


def test_a_file_that_cannot_be_written_stops_nothing(shop, tmp_path, caplog):
    one = shop()
    one.path = tmp_path / "missing"
    ticker = one.ticker()
    one.look(ticker, NOON)
    assert one.look(ticker, NOON + 300) == [NOON + 300]
    assert one.look(ticker, NOON + 301) == []
    assert [type(record.event).__name__ for record in caplog.records] == ["ScheduleNotSaved"]


# -- many machines ---------------------------------------------------------------------------------


def test_two_machines_enqueue_each_tick_once(shop):
    one = shop()
    tickers = [one.ticker("a"), one.ticker("b")]
    for second in range(0, 3610, 7):
        for ticker in tickers:
            one.look(ticker, NOON + second)
    assert one.pushed() == [NOON + second for second in range(300, 3601, 300)]


def test_a_machine_hours_late_adds_nothing(shop):
    one = shop()
    early, late = one.ticker("a"), one.ticker("b")
    one.look(early, NOON)
    one.look(late, NOON)
    asked = late.due(NOON + 300)  # and then it is stopped
    one.look(early, NOON + 300)
    assert one.run_all() == [NOON + 300]
    one.now = NOON + 20 * HOUR
    one.backend.housekeep(1000)
    late.enqueue(asked, one.push)
    assert one.run_all() == []


@pytest.mark.parametrize(("cron", "days"), [("0 0 1 * *", 30), ("0 0 * * 0", 7), ("0 0 1 1 *", 360)])
def test_a_machine_that_was_away_adds_no_ticks_that_others_ran(shop, cron, days):
    one = shop(rare={"cron": cron})
    here, away = one.ticker("a"), one.ticker("b")
    one.look(here, NOON)
    one.look(away, NOON)
    for hour in range(0, days * 24, 6):
        one.look(here, NOON + hour * HOUR)
        one.backend.housekeep(1000)
        one.run_all()
    one.look(away, NOON + days * 24 * HOUR)
    assert one.run_all() == []


def test_a_kill_between_push_and_file_adds_nothing(shop, monkeypatch):
    one = shop()
    ticker = one.ticker()
    one.look(ticker, NOON)

    class Killed(BaseException): ...

    def killed(name):
        raise Killed

    monkeypatch.setattr(ticker_module, "failpoint", killed)
    with pytest.raises(Killed):
        one.look(ticker, NOON + 300)
    monkeypatch.undo()
    assert one.run_all() == [NOON + 300]
    again = one.ticker()
    assert one.look(again, NOON + 400) == [NOON + 300]
    assert one.run_all() == []
    assert one.look(again, NOON + 401) == []


def test_without_unique_keys_the_request_still_identifies_a_repeated_tick(shop, monkeypatch):
    one = shop()
    monkeypatch.setattr(type(one.backend), "features", one.backend.features - {"unique"})
    tickers = [one.ticker("a"), one.ticker("b")]
    for ticker in tickers:
        one.look(ticker, NOON)
    for ticker in tickers:
        one.look(ticker, NOON + 300)
    assert one.run_all() == [NOON + 300]


def test_keys_do_not_accumulate(shop):
    one = shop(second={"every": 1}, minute={"every": 60}, month={"cron": "0 0 1 * *"})
    ticker = one.ticker()
    one.look(ticker, NOON)
    held = {tick.entry.name: tick.held for tick in ticker.due(NOON + 40 * 24 * HOUR)}
    assert held["second"] == 3601
    assert held["minute"] == 60 + 86400
    assert held["month"] > 28 * 86400


class Machines(RuleBasedStateMachine):
    """Machines that stop, restart, lose their file, or are killed in mid-enqueue, and a broker that goes away: no tick runs
    twice."""

    @initialize()
    def begin(self):
        self.directory = tempfile.TemporaryDirectory()
        self.shop = Shop(Path(self.directory.name), a={"every": 60}, b={"cron": "*/3 * * * *"})
        self.now = NOON
        self.tickers = {}
        self.ran = []
        for name in "xy":
            self.start(name)

    def start(self, name):
        self.tickers[name] = self.shop.ticker(name)
        self.look(name)

    def look(self, name):
        if name not in self.tickers:
            return
        with contextlib.suppress(BackendUnavailable):
            self.shop.look(self.tickers[name], self.now)

    @rule(seconds=st.integers(1, 200))
    def time_passes(self, seconds):
        for _ in range(seconds):
            self.now += 1
            if int(self.now) % 20 == 0:
                for name in list(self.tickers):
                    self.look(name)

    @rule(hours=st.integers(1, 30))
    def nobody_looks_for_hours(self, hours):
        self.now += hours * HOUR
        self.shop.now = self.now
        self.shop.backend.housekeep(10_000)

    @rule(name=st.sampled_from("xy"))
    def a_machine_stops(self, name):
        self.tickers.pop(name, None)

    @rule(name=st.sampled_from("xy"))
    def a_machine_starts(self, name):
        self.start(name)

    @rule(name=st.sampled_from("xy"))
    def a_file_is_lost(self, name):
        (self.shop.path / f"{name}.json").unlink(missing_ok=True)

    @rule(name=st.sampled_from("xy"))
    def a_machine_dies_having_pushed(self, name):
        ticker = self.tickers.pop(name, None)
        if ticker is None or self.shop.down:
            return
        ticks = ticker.due(self.now)
        for tick in ticks:
            ticker._push(tick, self.shop.push)

    @rule(down=st.booleans())
    def the_broker_goes_or_comes(self, down):
        self.shop.down = down

    @rule()
    def workers_run_everything(self):
        self.shop.now = self.now
        self.shop.run_all()
        self.ran += self.shop.ids

    def teardown(self):
        if hasattr(self, "shop"):
            try:
                self.workers_run_everything()
                assert len(self.ran) == len(set(self.ran))
            finally:
                self.shop.close()
                self.directory.cleanup()


Machines.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestMachines = Machines.TestCase
