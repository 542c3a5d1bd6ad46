"""The courier with a slow backend."""

import asyncio
import threading
import time

import pytest

from jobs_core import App, events, job, set_current_app
from jobs_core.backends.memory import MemoryBackend, forget
from jobs_core.config import Config, Pool
from jobs_core.errors import BackendUnavailable
from jobs_core.plugins import Plugins
from jobs_core.scoreboard.writer import Scoreboard
from jobs_core.units import Duration
from jobs_core.worker.executors.asyncio import AsyncExecutor
from jobs_core.worker.main import Worker
from jobs_core.worker.reservations import Reservations

from ...support.project import PATIENCE, until
from ...support.stopwatch import Stopwatch

LEASE = 0.6


class FarAway(MemoryBackend):
    """A backend whose answers take longer than the pause between two heartbeats, and between two rounds of housekeeping."""

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


def test_a_worker_with_round_trips_longer_than_its_heartbeats_still_takes_jobs(far_app, registry):
    done = []

    @job(registry=registry, name="note")
    def note(text: str) -> None:
        done.append(text)

    worker = Worker(far_app, "p", Pool(), None)

    def push_to_the_idle_worker():
        try:
            for text in "abc":
                note.enqueue(text)
                until(lambda text=text: text in done)
                until(lambda: not far_app.operate(lambda backend: backend.counts(["default"]))["default"].reserved)
        finally:
            worker.courier.stop()

    pushing = threading.Thread(target=push_to_the_idle_worker)
    pushing.start()
    worker.run()
    pushing.join()
    assert done == ["a", "b", "c"]


class Away(MemoryBackend):
    """A backend that is unreachable while `away` is set, and counts calls made in vain."""

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


def test_an_idle_worker_logs_an_outage_once_and_its_end_once(registry, monkeypatch, caplog):
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
            until(lambda: Away.waits)
            Away.away.set()
            worker.courier.wake()
            until(lambda: Away.refused >= 5)
            assert (told(events.BackendLost), told(events.BackendBack)) == (1, 0)
            Away.away.clear()
            until(lambda: told(events.BackendBack))
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
    """A backend that counts the jobs that it delivered."""

    handed_out = 0

    def reserve(self, topics, limit, request):
        deliveries = super().reserve(topics, limit, request)
        type(self).handed_out += len(deliveries)
        return deliveries


def test_jobs_of_two_dead_workers_run_one_by_one_and_are_not_reserved_repeatedly(registry, monkeypatch):
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
    for owner in ("dead", "dead+1"):
        dead.open(owner)
        held = {delivery.id for delivery in dead.reserve(["default"], 200, "r")}
        dead.release_owner(owner, held, b"")
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


# -- acknowledged before it runs -------------------------------------------------------------------


@pytest.fixture
def memory_app(registry, monkeypatch):
    """An app on a memory store whose backends are of the class in `made_of`."""
    url = "memory://courier"
    app = App(Config(backend=url), plugins=Plugins(), registry=registry)
    set_current_app(app)
    made = app.new_backend
    app.made_of = MemoryBackend
    monkeypatch.setattr(app, "new_backend", lambda: app.made_of(url, made()._options))
    yield app
    set_current_app(None)
    app.close()
    forget(url)


def counts(app):
    (count,) = app.operate(lambda backend: backend.counts(["default"])).values()
    return count.ready, count.scheduled, count.reserved, count.dead


def charge(app, deaths, topic="default"):
    """Let this many workers die while they ran every job."""
    dead = app.new_backend()
    for number in range(deaths):
        dead.open(f"dead{number}")
        held = {delivery.id for delivery in dead.reserve([topic], 1000, "r")}
        dead.release_owner(f"dead{number}", held, b"")
    dead.close()


@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
@pytest.mark.parametrize("deaths", range(5))
def test_early_acknowledgement_comes_before_the_run_whatever_the_job_saw(memory_app, registry, mode, deaths):
    left = []

    @job(registry=registry, name="once", acks="early")
    def once() -> None:
        left.append(counts(memory_app))

    once.enqueue_many([()] * 3)
    charge(memory_app, deaths)
    memory_app.config = Config(backend=memory_app.config.backend, max_redeliveries=10)
    Worker(memory_app, "p", Pool(mode=mode, concurrency=2), None, drain=True).run()
    assert len(left) == 3
    assert counts(memory_app) == (0, 0, 0, 0)
    assert all(reserved <= 3 - number for number, (_, _, reserved, _) in enumerate(left, 1))


class LostAnswers(MemoryBackend):
    """A backend that loses the first answer to each settle."""

    def __init__(self, url, options):
        super().__init__(url, options)
        self.seen = set()

    def settle(self, settlements, request):
        answers = super().settle(settlements, request)
        if request not in self.seen:
            self.seen.add(request)
            raise BackendUnavailable("the answer was lost")
        return answers


@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
def test_a_job_whose_early_acknowledgement_was_answered_late_is_run_once(memory_app, registry, mode):
    memory_app.made_of = LostAnswers
    done = []

    @job(registry=registry, name="once", acks="early")
    def once(number: int) -> None:
        done.append(number)

    once.enqueue_many([(number,) for number in range(7)])
    Worker(memory_app, "p", Pool(mode=mode, concurrency=2), None, drain=True).run()
    assert sorted(done) == list(range(7))
    assert counts(memory_app) == (0, 0, 0, 0)


def test_waiting_early_acknowledged_jobs_run_here_when_the_worker_stops(memory_app, registry):
    done, workers = [], []

    @job(registry=registry, name="once", acks="early")
    def once(number: int) -> None:
        workers[0].courier.stop()
        done.append(number)

    once.enqueue_many([(number,) for number in range(20)])
    workers.append(Worker(memory_app, "p", Pool(mode="async", concurrency=4), None))
    workers[0].run()
    ready, _, reserved, _ = counts(memory_app)
    assert (len(done) + ready, reserved) == (20, 0), "each was run here, or is there for others"


# -- a worker that stood still ---------------------------------------------------------------------


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "kept"])
@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
def test_a_worker_whose_lease_may_have_ended_starts_nothing_before_it_has_asked(memory_app, registry, mode, lost):
    ran, workers, frozen = [], [], []
    other = memory_app.new_backend()

    @job(registry=registry, name="note")
    def note(number: int) -> None:
        courier = workers[0].courier
        ran.append((number, courier.owner))
        if number == 5 and not frozen:  # as if the process had been stopped here, and continued a long time afterwards
            assert courier._run_queue.pending
            if lost:
                other.release_owner(courier.owner, (), b"")
            frozen.append(True)
            courier._run_queue.leased_until = 0.0

    note.enqueue_many([(number,) for number in range(10)])
    workers.append(Worker(memory_app, "p", Pool(mode=mode, concurrency=1), None, owner="w", drain=True))
    prefetch = workers[0].courier._reservations._prefetch
    prefetch._mean, prefetch.learn = 0.001, lambda runs: None  # all ten are reserved ahead, however slow the machine is
    workers[0].run()
    assert sorted({number for number, _ in ran}) == list(range(10))
    owner = "w+1" if lost else "w"
    assert sorted(each for each in ran if each[0] > 5) == [(number, owner) for number in range(6, 10)], "once each"


def test_a_plain_function_that_waits_for_its_thread_in_an_async_pool_sends_no_other_job_back(memory_app, registry, monkeypatch):
    monkeypatch.setattr("jobs_core.worker.reservations.AHEAD", 5.0)  # so that no machine is too slow
    looked = threading.Event()
    look, begin = Reservations.release_waiting, AsyncExecutor._run_in_thread

    def looks(self, now):
        released = look(self, now)
        looked.set()
        return released

    def begins_late(self, run):
        for _ in range(2):  # the first look may have begun before
            looked.clear()
            worker.courier.wake()
            assert looked.wait(PATIENCE)
        begin(self, run)

    monkeypatch.setattr(Reservations, "release_waiting", looks)
    monkeypatch.setattr(AsyncExecutor, "_run_in_thread", begins_late)
    plain = job(registry=registry, name="plain")(lambda number: None)
    plain.enqueue_many([(number,) for number in range(10)])
    worker = Worker(memory_app, "p", Pool(mode="async", concurrency=1), None, drain=True)
    worker.courier._reservations._prefetch._mean = 0.001  # all are reserved ahead
    worker.run()
    assert (worker.courier.done, worker.courier._reservations.released) == (10, 0)


# -- suspicion -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["threads", "async"])
def test_suspects_and_long_jobs_delay_no_other_job(memory_app, registry, mode):
    go_on = threading.Event()
    began, done, workers = [], [], []

    @job(registry=registry, name="long")
    def long(text: str) -> None:
        began.append(text)
        go_on.wait(30.0)

    @job(registry=registry, name="short")
    def short(number: int) -> None:
        done.append(number)

    long.enqueue_many([("suspect",)] * 5)
    charge(memory_app, 2)
    long.enqueue("unrelated")

    def drive():
        try:
            until(lambda: sorted(set(began)) == ["suspect", "unrelated"])
            for number in range(20):
                short.enqueue(number)
                until(lambda number=number: number in done)
            assert sorted(began) == ["suspect", "unrelated"], "of eight at once one suspect runs at a time"
        except BaseException as error:
            failures.append(error)
        finally:
            go_on.set()
            until(lambda: began.count("suspect") == 5 or failures)
            workers[0].courier.stop()

    failures = []
    workers.append(Worker(memory_app, "p", Pool(mode=mode, concurrency=8), None, board=Scoreboard()))
    driving = threading.Thread(target=drive)
    driving.start()
    workers[0].run()
    driving.join()
    assert not failures
    assert counts(memory_app) == (0, 0, 0, 0)


# -- cancel ----------------------------------------------------------------------------------------


class Unwoken(MemoryBackend):
    """A backend that wakes no worker for a cancel."""

    wakes_to_cancel = False


@pytest.mark.parametrize("backend", [MemoryBackend, Unwoken])
def test_a_running_job_is_cancelled_long_before_the_next_heartbeat(memory_app, registry, backend):
    memory_app.made_of = backend
    waited = []

    @job(registry=registry, name="long")
    async def long() -> None:
        begun.set()
        await asyncio.sleep(60)

    begun = threading.Event()
    handle = long.enqueue()
    worker = Worker(memory_app, "p", Pool(mode="async", concurrency=2), None, drain=True)

    def cancel():
        begun.wait(PATIENCE)
        waited.append(Stopwatch())
        memory_app.cancel(handle.id)

    cancelling = threading.Thread(target=cancel)
    cancelling.start()
    worker.run()
    cancelling.join()
    assert waited[0].stop() < 2.0, "a heartbeat comes every 5 s"
    assert (worker.courier.done, worker.courier.failed) == (0, 0), "it was cancelled, and did not fail"
