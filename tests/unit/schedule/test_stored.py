"""Entries of the schedule that are added, paused and changed at run time, on machines that share one queue."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import pytest

from jobs_core import App, job
from jobs_core.backends.base import State
from jobs_core.backends.documents import all_of
from jobs_core.backends.memory import MemoryBackend, forget
from jobs_core.config import Config, Duration, ScheduleEntry
from jobs_core.errors import ArgumentError, NotSupported, ScheduleError
from jobs_core.ids import new_token
from jobs_core.message import decode
from jobs_core.plugins import Plugins
from jobs_core.registry import Registry
from jobs_core.schedule import Schedule, Ticker
from jobs_core.schedule.stored import KIND, StoredEntry
from jobs_core.sealed import seal

NOON = datetime(2026, 11, 24, 12, tzinfo=timezone.utc).timestamp()
KEYS = ["a:0123456789012345678901234567890123"]


class Shop:
    """Two machines with one queue in memory, on a clock that the test moves."""

    def __init__(self, path, *, keys=()):
        self.path, self.url, self.now = path, f"memory://{new_token()}", NOON
        registry = Registry()

        @job(name="shop.tell", topic="news", registry=registry)
        def tell(what: str = "x", when: datetime | None = None): ...

        @job(name="shop.nightly", cron="0 2 * * *", registry=registry)
        def nightly(): ...

        self.tell = tell
        config = Config(
            backend=self.url,
            signing_keys=list(keys),
            schedule={"minute": ScheduleEntry(job="shop.tell", every=Duration(60))},
        )
        self.app = App(config, plugins=Plugins(), registry=registry)
        make = self.app.new_backend
        self.app.new_backend = lambda **_: make(clock=lambda: self.now)
        self.backend = self.app.new_backend()
        self.backend.open(None)
        self.schedule = Schedule(self.app)
        self.machines = {name: self.machine(name) for name in "ab"}

    def machine(self, name):
        ticker = Ticker(self.app, self.path / f"{name}.json")
        ticker.refresh(self.backend)
        ticker.due(self.now)
        return ticker

    def look(self, *names, read=True):
        """Let machines look at the schedule, as their housekeepers do."""
        for name in names or self.machines:
            ticker = self.machines[name]
            if read or ticker.stale:
                ticker.refresh(self.backend)
            ticker.enqueue(ticker.due(self.now), self.backend.push, self.backend.push_guarded)

    def pushed(self, topic="news"):
        """Return entry and tick, in seconds after noon, of the jobs in the queue."""
        records = self.backend.browse(topic, State.READY, 10_000)
        headers = [decode(record.payload, signer=self.app.signer, topic=topic).headers for record in records]
        return sorted((one["schedule"], one["tick"] - NOON) for one in headers)

    def close(self):
        self.backend.close()
        self.app.close()
        forget(self.url)


@pytest.fixture
def shop(tmp_path):
    one = Shop(tmp_path)
    yield one
    one.close()


@pytest.fixture
def signed(tmp_path):
    one = Shop(tmp_path, keys=KEYS)
    yield one
    one.close()


def test_an_added_entry_ticks_once_over_both_machines_from_then_on(shop):
    shop.now += 30
    shop.schedule.add("mine", shop.tell.call("hello"), every="20s")
    for _ in range(6):
        shop.now += 10
        shop.look()
    assert [tick for name, tick in shop.pushed() if name == "mine"] == [40, 60, 80]
    (record, *_) = shop.backend.browse("news", State.READY, 1)
    assert decode(record.payload, topic="news").args == ["hello"]


def test_the_first_tick_is_not_lost_though_machines_learn_of_the_entry_later(shop):
    shop.now += 39
    shop.schedule.add("mine", shop.tell.call(), every=20)
    shop.now += 4
    shop.look()
    assert shop.pushed() == [("mine", 40)]


def test_arguments_are_kept_as_the_job_gets_them(shop):
    moment = datetime(2026, 1, 2, tzinfo=timezone.utc)
    shop.schedule.add("mine", shop.tell.using(topic="other").call(what="ä", when=moment), cron="* * * * *", tz="Europe/Berlin")
    shop.now += 60
    shop.look()
    (record,) = shop.backend.browse("other", State.READY, 9)
    message = decode(record.payload, topic="other")
    assert shop.tell.arguments.convert(message.args, message.kwargs)[1] == {"what": "ä", "when": moment}


@pytest.mark.parametrize("name", ["minute", "mine"])
def test_no_tick_is_enqueued_after_a_pause_has_returned_though_no_machine_has_heard_of_it(shop, name):
    shop.schedule.add("mine", shop.tell.call(), every=60)
    shop.now += 1
    shop.look()
    shop.schedule.pause(name)
    shop.now = NOON + 60
    shop.look(read=False)
    shop.look()
    assert [one for one, _ in shop.pushed()] == [{"minute": "mine", "mine": "minute"}[name]]


def test_a_resumed_entry_leaves_out_the_ticks_of_its_pause(shop):
    shop.schedule.pause("minute")
    shop.look()
    shop.now += 150
    shop.look()
    shop.schedule.resume("minute")
    shop.look()
    assert shop.pushed() == []
    shop.now = NOON + 180
    shop.look()
    assert shop.pushed() == [("minute", 180)]


def test_a_tick_between_resume_and_the_machines_learning_of_it_runs(shop):
    shop.schedule.pause("minute")
    shop.look()
    shop.now += 59
    shop.schedule.resume("minute")
    shop.now += 5
    shop.look()
    assert shop.pushed() == [("minute", 60)]


def test_a_pause_outlasts_restarts_of_all_machines(shop):
    shop.schedule.pause("minute")
    for name in "ab":
        shop.machines[name] = shop.machine(name)
    shop.now += 60
    shop.look()
    assert shop.pushed() == []


def test_a_tick_pushed_by_one_machine_before_the_pause_is_no_error_of_another(shop):
    shop.now = NOON + 60
    shop.look("a")
    shop.schedule.pause("minute")
    shop.look("b", read=False)
    shop.look("b")
    assert shop.pushed() == [("minute", 60)]


def test_ticks_that_all_machines_missed_run_once(shop):
    shop.schedule.add("mine", shop.tell.call(), every=60)
    shop.look()
    shop.now = NOON + 3601
    shop.machines = {name: shop.machine(name) for name in "ab"}
    shop.look()
    assert shop.pushed() == [("mine", 3600), ("minute", 3600)]


def test_a_new_machine_repeats_no_tick_of_an_old_entry(shop):
    shop.schedule.add("mine", shop.tell.call(), every=60)
    shop.now += 60
    shop.look("a")
    shop.now += 30
    shop.machines["c"] = shop.machine("c")
    shop.look("c")
    assert shop.pushed() == [("mine", 60), ("minute", 60)]


def test_a_removed_entry_ticks_no_more_and_its_name_is_free(shop):
    shop.schedule.add("mine", shop.tell.call(), every=60)
    shop.look()
    shop.schedule.remove("mine")
    shop.now += 60
    shop.look(read=False)
    shop.look()
    assert shop.pushed() == [("minute", 60)]
    shop.schedule.add("mine", shop.tell.call(), every=30)


def test_an_entry_is_replaced_only_if_asked_and_its_pause_stays(shop):
    shop.schedule.add("mine", shop.tell.call("a"), every=60)
    shop.schedule.pause("mine")
    with pytest.raises(ScheduleError, match="schedule entry mine exists"):
        shop.schedule.add("mine", shop.tell.call("b"), every=60)
    shop.schedule.add("mine", shop.tell.call("b"), every=30, replace=True)
    (stored,) = shop.schedule.stored()
    assert (stored.said.args, stored.said.every, stored.said.paused) == (["b"], 30.0, True)
    assert stored.said.by


def test_run_enqueues_the_job_now_though_the_entry_is_paused(shop):
    shop.schedule.add("mine", shop.tell.using(topic="other").call("a"), every=60)
    shop.schedule.pause("mine")
    shop.schedule.run("mine")
    shop.schedule.run("minute")
    assert [name for name, _ in shop.pushed("other")] == ["mine"]
    assert [name for name, _ in shop.pushed()] == ["minute"]


def test_what_cannot_be_an_entry_is_refused(shop):
    add, call = shop.schedule.add, shop.tell.call
    for wrong, reason in (
        (lambda: add("minute", call(), every=60), "choose another name"),
        (lambda: add("shop.nightly", call(), every=60), "choose another name"),
        (lambda: add("x", call()), "give either cron or every"),
        (lambda: add("x", call(), cron="* * * * *", every=60), "give either cron or every"),
        (lambda: add("x", call(), every="soon"), "every"),
        (lambda: add("x", call(), every=60, tz="Europe/Berlin"), "tz belongs to cron"),
        (lambda: add("x", shop.tell, every=60), r"expected the call of a job, such as shop\.tell\.call"),
        (lambda: add("x", call(), every=0.1), "too often"),
        (lambda: add("x", call(), cron="0 0 30 2 *"), "x: "),
        (lambda: add("x", call(), cron="* * * * *", tz="Nowhere/At_all"), "not a time zone"),
        (lambda: add("x", shop.tell.using(priority=3).call(), every=60), r"keeps no priority"),
        (lambda: shop.schedule.pause("unknown"), "there is no schedule entry unknown"),
        (lambda: shop.schedule.resume("unknown"), "there is no schedule entry unknown"),
        (lambda: shop.schedule.run("unknown"), "there is no schedule entry unknown"),
        (lambda: shop.schedule.remove("unknown"), "there is no such entry"),
        (lambda: shop.schedule.remove("minute"), "pause it"),
    ):
        with pytest.raises(ScheduleError, match=reason):
            wrong()
    with pytest.raises(ArgumentError):
        add("x", call(1, 2, 3), every=60)
    assert list(all_of(shop.backend, KIND)) == []


def test_a_backend_without_documents_is_named(shop, monkeypatch):
    monkeypatch.setattr(MemoryBackend, "features", MemoryBackend.features - {"documents", "guards"})
    with pytest.raises(NotSupported, match=r"does not support documents: the schedule cannot change at run time"):
        shop.schedule.pause("minute")
    ticker = shop.machine("c")
    shop.now += 60
    ticker.enqueue(ticker.due(shop.now), shop.backend.push)
    assert shop.pushed() == [("minute", 60)]


def test_changes_at_once_are_all_made(shop):
    def change(n):
        shop.schedule.add(f"entry {n}", shop.tell.call(), every=60)
        for _ in range(5):
            shop.schedule.pause("minute")
            shop.schedule.resume("minute")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(4)))
    assert {one.name for one in shop.schedule.stored()} == {"minute", *(f"entry {n}" for n in range(4))}


def test_an_entry_whose_job_this_machine_does_not_know_is_logged_once_and_others_go_on(shop, caplog):
    data = seal(shop.app.signer, KIND, "mine", StoredEntry(job="shop.unknown", every=60.0))
    shop.backend.put_document(KIND, "mine", data, new_token())
    for _ in range(3):
        shop.now += 60
        shop.look("a")
    assert [name for name, _ in shop.pushed()] == ["minute"] * 3
    refused = [record.message for record in caplog.records if "refused" in record.message]
    assert len(refused) == 1
    assert "shop.unknown" in refused[0]


def test_changes_are_logged_with_who_made_them(shop, caplog):
    caplog.set_level(logging.INFO, "jobs")
    shop.schedule.add("mine", shop.tell.call(), every=60)
    shop.look("a")
    shop.schedule.pause("mine")
    shop.look("a")
    shop.schedule.resume("mine")
    shop.look("a")
    shop.schedule.remove("mine")
    shop.look("a")
    said = [record.message.partition(" by ")[0] for record in caplog.records if "schedule mine" in record.message]
    assert said == [f"schedule mine is {change}" for change in ("added", "paused", "resumed", "removed")]


# -- signatures ------------------------------------------------------------------------------------


def test_with_keys_a_signed_entry_ticks(signed):
    signed.schedule.add("mine", signed.tell.call(), every=60)
    signed.schedule.pause("minute")
    signed.now += 60
    signed.look()
    assert signed.pushed() == [("mine", 60)]


@pytest.mark.parametrize("forgery", ["unsigned", "changed", "copied", "another key", "not JSON"])
def test_with_keys_what_is_not_signed_is_refused_and_logged(signed, forgery, caplog):
    signed.schedule.add("mine", signed.tell.call("a"), every=3600)
    document = signed.backend.document(KIND, "mine")
    entry, name = StoredEntry(job="shop.tell", every=60.0), "forged"
    if forgery == "unsigned":
        data = seal(App(Config(backend="memory://"), plugins=Plugins(), registry=Registry()).signer, KIND, name, entry)
    elif forgery == "changed":
        name, data = "mine", document.data.replace(b'"every":3600', b'"every":60.0')
        assert data != document.data
    elif forgery == "copied":
        data = document.data
    elif forgery == "another key":
        other = App(Config(backend="memory://", signing_keys=["a:another_0123456789_another_0123456789"]), plugins=Plugins())
        data = seal(other.signer, KIND, name, entry)
    else:
        data = b"\xff"
    signed.look()
    signed.backend.put_document(KIND, name, data, new_token())
    signed.now += 3600
    signed.look()
    assert signed.pushed() == [("mine", 3600), ("minute", 3600)], "the trusted ones go on"
    assert "refused" in caplog.text
    assert signed.schedule.read()[1].keys() == signed.machines["a"].refused.keys() == {name}
    with pytest.raises(ScheduleError, match="cannot be trusted"):
        signed.schedule.pause(name)
    signed.schedule.remove(name)


@pytest.mark.parametrize(
    "entry",
    [
        {"every": 1e308},
        {"every": -1e308},
        {"every": 5, "tz": "../nowhere"},
        {"cron": "* * * * * * *"},
        {"every": 5, "kwargs": {"\u202e": 1}},
        {"every": 5, "topic": "../x"},
    ],
    ids=["too seldom", "negative", "zone", "cron", "arguments", "topic"],
)
def test_an_entry_that_makes_no_sense_ends_no_housekeeper_and_can_be_removed(shop, entry, caplog):
    data = seal(shop.app.signer, KIND, "odd", {"job": "shop.tell", **entry})
    shop.backend.put_document(KIND, "odd", data, new_token())
    shop.look()
    shop.now += 60
    shop.look()
    assert shop.pushed() == [("minute", 60)], "the others go on"
    assert "schedule odd has a document in the backend that is refused" in caplog.text
    for stored in shop.schedule.stored():
        assert stored.entry.after(0) is not None
    shop.schedule.remove("odd")


def test_an_unforeseen_error_in_an_entry_ends_no_housekeeper(shop, monkeypatch, caplog):
    def fail(app, entry):
        raise ZeroDivisionError("unforeseen")

    shop.schedule.add("odd", shop.tell.call("x"), every=60)
    monkeypatch.setattr("jobs_core.schedule.stored.problems_of", fail)
    shop.look()
    shop.now += 60
    shop.look()
    assert shop.pushed() == [("minute", 60)]
    assert "unforeseen" in caplog.text


def test_an_older_signed_document_is_refused_by_machines_that_saw_the_newer_one(signed, caplog):
    signed.schedule.pause("minute")
    paused = signed.backend.document(KIND, "minute").data
    signed.look()
    signed.schedule.resume("minute")
    signed.look()
    signed.backend.put_document(KIND, "minute", paused, new_token())
    signed.now += 60
    signed.look()
    assert signed.pushed() == [("minute", 60)]
    assert "older" in caplog.text


def test_a_change_by_a_machine_whose_clock_is_behind_counts(signed, monkeypatch):
    signed.schedule.pause("minute")
    signed.look()
    monkeypatch.setattr("jobs_core.sealed.time.time", lambda: 1_000_000_000.0)
    signed.schedule.resume("minute")
    signed.now += 60
    signed.look()
    assert signed.pushed() == [("minute", 60)]


@pytest.mark.parametrize("name", ["", "n" * 201, "a\nb", "a\0b"])
def test_a_name_that_no_entry_can_have_is_refused_with_what_names_may_be(shop, name):
    for change in (
        lambda: shop.schedule.add(name, shop.tell.call(), every=60),
        lambda: shop.schedule.remove(name),
        lambda: shop.schedule.pause(name),
    ):
        with pytest.raises(ScheduleError, match="invalid name of a schedule entry .*: use 1 to 200 characters"):
            change()


def test_an_entry_whose_arguments_are_too_large_is_refused_with_what_to_do(shop):
    with pytest.raises(ScheduleError, match="schedule entry big takes 70,.* the most is 65,536: pass a reference"):
        shop.schedule.add("big", shop.tell.call("x" * 70_000), every=60)
    assert shop.schedule.stored() == []
