"""A job is done when its code has run, whatever wraps an async function, and whatever it returns."""

import asyncio
import contextlib
import functools
import itertools
import threading
import types

import pytest

from jobs_core import App, State, current_job, hookimpl, job, set_current_app
from jobs_core.backends.memory import forget
from jobs_core.config import Config, Pool
from jobs_core.plugins import PluginInfo, Plugins
from jobs_core.testing.inline import InlineJobs, install
from jobs_core.worker.main import Worker

ran = []
inside = []


def keeps(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


def drops(function):
    return lambda *args, **kwargs: function(*args, **kwargs)


def runs(function):
    @functools.wraps(function)
    def inner(*args):
        return asyncio.run(function(*args))

    return inner


async def charge(n: int) -> int:
    await asyncio.sleep(0)
    ran.append((current_job().id, current_job().id in inside))
    return n


def returns_generator(n: int):
    return (ran.append(n) for _ in range(3))


async def async_returns_generator(n: int):
    return (ran.append(n) for _ in range(3))


def returns_async_generator(n: int):
    async def numbers():
        ran.append(n)
        yield n

    return numbers()


class Later:
    def __init__(self, n):
        self.n = n

    def __await__(self):
        return charge(self.n).__await__()


class Around:
    def __init__(self, function):
        functools.update_wrapper(self, function)

    async def __call__(self, *args):
        return await charge(*args)


async def nested(n: int):
    return charge(n)


AWAITED = {
    "an async function": charge,
    "under a decorator": keeps(charge),
    "under two": keeps(keeps(charge)),
    "under a decorator that does not tell": drops(charge),
    "under one that runs it": runs(charge),
    "a lambda that calls it": lambda n: charge(n),
    "an object with an async call": Around(returns_generator),
    "an async function that returns a coroutine": nested,
    "an awaitable object": lambda n: Later(n),
    "a coroutine by decorator": keeps(types.coroutine(lambda n: charge(n))),
}


def closed(coroutine):
    """An awaitable that Python does not warn about when it is never awaited."""
    coroutine.close()
    return coroutine


NEVER_RUN = {
    "a generator": returns_generator,
    "a generator of an async function": async_returns_generator,
    "an async generator": returns_async_generator,
    "a generator under a decorator": keeps(returns_generator),
    "a map": lambda n: map(ran.append, range(n)),
    "a filter": lambda n: filter(ran.append, range(n)),
    "a starmap": lambda n: itertools.starmap(ran.append, ()),
    "a list of coroutines": lambda n: [closed(charge(n))],
}


class Context:
    @hookimpl
    def jobs_run_context(self, run):
        @contextlib.contextmanager
        def around():
            inside.append(run.id)
            try:
                yield
            finally:
                inside.remove(run.id)

        return around()


@pytest.fixture(params=["bare", "surrounded"])
def app(registry, request):
    plugins = Plugins()
    if request.param == "surrounded":
        plugins._manager.register(Context(), name="context")
        plugins._by_plugin["context"] = PluginInfo("context", "tests", "0")
    made = App(Config(backend="memory://returned"), plugins=plugins, registry=registry)
    made.surrounds = request.param == "surrounded"
    set_current_app(made)
    ran.clear()
    yield made
    set_current_app(None)
    made.close()
    forget("memory://returned")


def work(app, mode, handles):
    """Run a worker in this process until these jobs have ended."""
    worker = Worker(app, "p", Pool(mode=mode, concurrency=2), None)

    def wait():
        try:
            for handle in handles:
                app.operate(lambda backend, handle=handle: backend.fetch_result(handle.id, 10.0))
        finally:
            worker.courier.stop()

    waiting = threading.Thread(target=wait)
    waiting.start()
    worker.run()
    waiting.join()


@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
def test_awaitables_are_awaited_and_their_result_is_the_jobs(app, registry, mode):
    jobs = [job(registry=registry, name=f"j{n}", store_result=True, retries=0)(f) for n, f in enumerate(AWAITED.values())]
    handles = [made.enqueue(n) for n, made in enumerate(jobs)]
    work(app, mode, handles)
    assert [handle.result(0) for handle in handles] == list(range(len(AWAITED)))
    assert sorted(ran) == sorted((handle.id, app.surrounds) for handle in handles)


@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
def test_a_returned_generator_is_a_failed_attempt_with_the_fix(app, registry, mode):
    jobs = [job(registry=registry, name=f"j{n}", retries=0)(function) for n, function in enumerate(NEVER_RUN.values())]
    handles = [made.enqueue(1) for made in jobs]
    work(app, mode, handles)
    records = [app.find(handle.id) for handle in handles]
    assert [(record.state, record.reason) for record in records] == [(State.DEAD, "failed")] * len(NEVER_RUN)
    fixes = b"which has not run: loop over it inside the job", b"none of which has run: await asyncio.gather(*them)"
    assert all(any(fix in record.errors[-1] for fix in fixes) for record in records)
    assert ran == []


def test_inline_jobs_are_awaited_too():
    inline = InlineJobs()
    undo = install(inline)
    try:
        made = job(name=f"{__name__}.charge", store_result=True)(keeps(charge))
        assert made.enqueue(5).result(0) == 5

        async def server():
            return made.enqueue(6).result(0)

        assert asyncio.run(server()) == 6
    finally:
        undo()
