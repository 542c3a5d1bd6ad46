"""Workers under limits: never more at once than a limit allows, in every kind of pool, and no slot that is held in vain."""

import asyncio
import itertools
import threading
import time
from typing import ClassVar

import pytest

from jobs_core import App, Retry, Snooze, current_job, job, set_current_app
from jobs_core.backends.base import Outgoing
from jobs_core.backends.limits import Limit
from jobs_core.backends.memory import MemoryBackend, forget
from jobs_core.config import Config, Pool
from jobs_core.config import Limit as Defined
from jobs_core.ids import new_token
from jobs_core.message import encode, new_message
from jobs_core.plugins import Plugins
from jobs_core.worker.main import Worker

from ...support.project import PATIENCE, until
from ...support.stopwatch import Stopwatch

POOLS = {"sync": Pool(), "threads": Pool(mode="threads", concurrency=8), "async": Pool(mode="async", concurrency=50)}
numbers = itertools.count()


@pytest.fixture
def make_app(registry, monkeypatch):
    made = []

    def make(**limits):
        url = f"memory://limits-at-work-{next(numbers)}"
        app = App(
            Config(backend=url, limits={name: Defined(**each) for name, each in limits.items()}),
            plugins=Plugins(),
            registry=registry,
        )
        monkeypatch.setattr(app, "_make_backend", lambda clock: Recording(url, app.backend_options(clock)))
        made.append((app, url))
        set_current_app(app)
        return app

    yield make
    set_current_app(None)
    for app, url in made:
        app.close()
        forget(url)


class Recording(MemoryBackend):
    """Remembers the limits that settlements give to jobs."""

    given: ClassVar = {}

    def settle(self, settlements, request):
        self.given.update((each.id, each.limits) for each in settlements if each.limits is not None)
        return super().settle(settlements, request)


class AtOnce:
    """Counts how many jobs are inside at once, by limit value."""

    def __init__(self):
        self.guard, self.now, self.most, self.runs = threading.Lock(), 0, 0, 0

    def __enter__(self):
        with self.guard:
            self.now += 1
            self.runs += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_):
        with self.guard:
            self.now -= 1


def drained(app, pool):
    Worker(app, "p", pool, None, drain=True).run()


@pytest.mark.parametrize("mode", POOLS)
def test_a_worker_runs_no_more_at_once_than_a_limit_allows(make_app, registry, mode):
    app, inside = make_app(three={"concurrency": 3}), AtOnce()

    @job(registry=registry, name="plain", limits="three")
    def plain():
        with inside:
            time.sleep(0.001)

    @job(registry=registry, name="waits", limits="three")
    async def waits():
        with inside:
            await asyncio.sleep(0.001)

    plain.enqueue_many([()] * 20)
    waits.enqueue_many([()] * 20)
    drained(app, POOLS[mode])
    assert (inside.runs, inside.now) == (40, 0)
    assert inside.most == (1 if mode == "sync" else 3)


@pytest.mark.parametrize("mode", POOLS)
def test_a_foreign_job_runs_under_the_limits_of_its_function(make_app, registry, mode):
    app, seen = make_app(), []

    @job(registry=registry, name="pay", limits=("stripe", "stripe:{account}"))
    def pay(account: str):
        seen.append((account, current_job().attempt))

    foreign = [new_message("pay", "default", [name], {}) for name in "abc"]
    backend = app.new_backend()
    backend.push([Outgoing(message.id, "default", encode(message)) for message in foreign], new_token())
    drained(app, POOLS[mode])
    assert sorted(seen) == [("a", 1), ("b", 1), ("c", 1)]
    assert [Recording.given[message.id] for message in foreign] == [("stripe", f"stripe:{name}") for name in "abc"]


@pytest.mark.parametrize(
    "signal", [Retry(delay=0.5, close="partner:a"), Snooze(0.5, close="partner:a")], ids=["retry", "snooze"]
)
@pytest.mark.parametrize("mode", POOLS)
def test_a_limit_that_a_job_closes_lets_no_other_start_until_the_job_is_due(make_app, registry, caplog, mode, signal):
    app, seen, watch = make_app(), [], Stopwatch()

    @job(registry=registry, name="call", limits="partner:{account}")
    def call(account: str, number: int):
        seen.append((account, number, time.monotonic(), watch.seconds))
        if number == 0 and [one[1] for one in seen].count(0) == 1:
            raise signal

    backend = app.new_backend()

    def push_once_it_is_closed():
        until(lambda: any(state.closed_for for state in backend.limits(10)))
        call.enqueue_many([("a", 1), ("b", 2)])

    call.enqueue("a", 0)
    pushing = threading.Thread(target=push_once_it_is_closed)
    pushing.start()
    drained(app, POOLS[mode])
    pushing.join()
    watch.stop()
    (_, _, began, so_far), *_ = seen
    after = {(account, number): when - began for account, number, when, _ in seen}
    passed = {(account, number): seconds - so_far for account, number, _, seconds in seen}
    assert after["a", 1] >= 0.5
    assert passed["b", 2] < 0.5
    assert len(seen) == 4
    assert len(caplog.records) == isinstance(signal, Retry)  # a refused call that was only put off is no failure


@pytest.mark.parametrize(("seconds", "before"), [(0.001, 40), (0.2, 10)])
def test_five_workers_of_one_slot_run_five_together_whatever_the_length_of_the_jobs(make_app, registry, seconds, before):
    app, inside, five = make_app(five={"concurrency": 5}), AtOnce(), threading.Barrier(5)

    @job(registry=registry, name="short", limits="five")
    def short():
        with inside:
            time.sleep(seconds)

    @job(registry=registry, name="meet", limits="five")
    def meet():
        with inside:
            five.wait(PATIENCE)

    workers = [Worker(app, "p", Pool(mode="threads", concurrency=1), None, keeps_house=False) for _ in range(5)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    backend = app.new_backend()
    backend.define_limits({"five": Limit(5)}, {})
    for thread in threads:
        thread.start()
    try:
        short.enqueue_many([()] * before)
        meet.enqueue_many([()] * 20)
        until(lambda: inside.runs == before + 20 and not inside.now, PATIENCE)
        assert inside.most == 5
    finally:
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join()


def test_limited_jobs_are_served_beside_a_backlog_of_short_plain_ones(make_app, registry):
    app, order = make_app(one={"concurrency": 1}), []

    @job(registry=registry, name="plain")
    def plain():
        order.append("plain")
        if len(order) == 500:
            limited.enqueue_many([()] * 3)

    @job(registry=registry, name="limited", limits="one", priority=9)
    def limited():
        order.append("limited")

    plain.enqueue_many([()] * 6000)
    drained(app, POOLS["sync"])
    assert order.count("limited") == 3
    assert len(order) == 6003
    assert max(n for n, kind in enumerate(order) if kind == "limited") < 6000


def test_a_worker_whose_slot_is_taken_does_not_spin_while_limited_jobs_wait(make_app, registry):
    app, spins = make_app(two={"concurrency": 2}), []

    @job(registry=registry, name="quick")
    def quick(): ...

    @job(registry=registry, name="slow", limits="two")
    def slow():
        before = app.calls
        time.sleep(0.1)  # while a courier that spins makes thousands of calls
        spins.append(app.calls - before)

    class Counting(Recording):
        def reserve(self, *arguments):
            app.calls += 1
            return super().reserve(*arguments)

    app.calls = 0
    url = app.config.backend
    app._make_backend = lambda clock: Counting(url, app.backend_options(clock))
    quick.enqueue_many([()] * 200)  # short jobs, after which a worker reserves several at a time
    slow.enqueue_many([()] * 3)
    drained(app, POOLS["sync"])
    assert len(spins) == 3
    assert max(spins) < 20
