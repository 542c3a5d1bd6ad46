"""The courier beside a backend that is slow."""

import threading
import time

import pytest

from jobs_core import App, events, job, set_current_app
from jobs_core.backends.memory import MemoryBackend, forget
from jobs_core.config import Config, Pool
from jobs_core.errors import BackendUnavailable
from jobs_core.plugins import Plugins
from jobs_core.units import Duration
from jobs_core.worker.main import Worker

from ...support.project import until

LEASE = 0.6


class FarAway(MemoryBackend):
    """Its answers take longer than the pause between two beats, and between two housekeepings."""

    def heartbeat(self):
        time.sleep(LEASE / 4)
        return super().heartbeat()

    def housekeep(self, limit):
        time.sleep(LEASE / 4)
        return super().housekeep(limit)


@pytest.fixture
def far_app(registry, monkeypatch):
    url = "memory://far-away"
    app = App(Config(backend=url, lease=Duration(LEASE)), plugins=Plugins(), registry=registry)
    set_current_app(app)
    made = app.new_backend
    monkeypatch.setattr(app, "new_backend", lambda: FarAway(url, made()._options))
    yield app
    set_current_app(None)
    app.close()
    forget(url)


def test_a_worker_whose_round_trips_outlast_its_beats_still_takes_jobs(far_app, registry):
    done = []

    @job(registry=registry, name="note")
    def note(text: str) -> None:
        done.append(text)

    worker = Worker(far_app, "p", Pool(), None)

    def push_to_the_idle_worker():
        try:
            for text in "abc":
                note.enqueue(text)
                until(lambda text=text: text in done, 10.0)
                until(lambda: not far_app.operate(lambda backend: backend.counts(["default"]))["default"].reserved)
        finally:
            worker.courier.stop()

    pushing = threading.Thread(target=push_to_the_idle_worker)
    pushing.start()
    worker.run()
    pushing.join()
    assert done == ["a", "b", "c"]


class Away(MemoryBackend):
    """Out of reach while `away` is set, and it knows how often it was called in vain."""

    away = threading.Event()
    waits = refused = 0

    def _reach(self):
        if self.away.is_set():
            type(self).refused += 1
            raise BackendUnavailable("away")

    def heartbeat(self):
        self._reach()
        return super().heartbeat()

    def wait(self, topics, timeout):
        self._reach()
        type(self).waits += 1
        answer = super().wait(topics, timeout)
        self._reach()
        return answer


def test_an_idle_worker_tells_an_outage_once_and_its_end_once(registry, monkeypatch, caplog):
    url = "memory://away"
    app = App(Config(backend=url), plugins=Plugins(), registry=registry)
    set_current_app(app)
    made = app.new_backend
    monkeypatch.setattr(app, "new_backend", lambda: Away(url, made()._options))
    worker = Worker(app, "p", Pool(), None, keeps_house=False)

    def told(kind):
        return sum(isinstance(getattr(record, "event", None), kind) for record in caplog.records)

    def trouble():
        try:
            until(lambda: Away.waits, 10.0)
            Away.away.set()
            worker.courier.wake()
            until(lambda: Away.refused >= 5, 10.0)
            assert (told(events.BackendLost), told(events.BackendBack)) == (1, 0)
            Away.away.clear()
            until(lambda: told(events.BackendBack), 10.0)
            assert (told(events.BackendLost), told(events.BackendBack)) == (1, 1)
        except BaseException as error:
            failures.append(error)
        finally:
            Away.away.clear()
            worker.courier.stop()

    failures = []
    troubling = threading.Thread(target=trouble)
    with caplog.at_level("INFO", logger="jobs"):
        troubling.start()
        worker.run()
        troubling.join()
    set_current_app(None)
    app.close()
    forget(url)
    assert not failures


class Counted(MemoryBackend):
    """It knows how many jobs it handed out."""

    handed_out = 0

    def reserve(self, topics, limit, request):
        deliveries = super().reserve(topics, limit, request)
        type(self).handed_out += len(deliveries)
        return deliveries


def test_what_a_dead_worker_held_is_run_one_by_one_and_not_reserved_over_and_over(registry, monkeypatch):
    url = "memory://counted"
    app = App(Config(backend=url), plugins=Plugins(), registry=registry)
    set_current_app(app)
    made = app.new_backend
    monkeypatch.setattr(app, "new_backend", lambda: Counted(url, made()._options))
    done = []

    @job(registry=registry, name="note")
    def note(number: int) -> None:
        done.append(number)

    note.enqueue_many([(number,) for number in range(200)])
    dead = app.new_backend()
    dead.open("dead")
    held = {delivery.id for delivery in dead.reserve(["default"], 200, "r")}
    dead.release_owner("dead", held, b"")
    Counted.handed_out = 0
    try:
        Worker(app, "p", Pool(), None, drain=True).run()
        assert done == list(range(200))
        assert Counted.handed_out < 400
    finally:
        dead.close()
        set_current_app(None)
        app.close()
        forget(url)
