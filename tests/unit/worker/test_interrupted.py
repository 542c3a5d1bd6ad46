"""Wherever in a job of a sync pool its timeout strikes: the run counts as timed out, and the worker and the queue go on."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from jobs_core import JobFailed, job, set_current_app
from jobs_core.app import App
from jobs_core.backends.base import BackendOptions
from jobs_core.backends.sqlite import connection
from jobs_core.config import Config, Pool
from jobs_core.plugins import Plugins
from jobs_core.running import running
from jobs_core.scoreboard.writer import Scoreboard
from jobs_core.worker.main import Worker
from jobs_core.worker.run import Run

TIMEOUT = 0.1
LONG = 20.0
"""Seconds; nothing here lasts so long unless a timeout was lost."""


class Stage:
    """What the job under test needs, and what it has noted."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.noted: list[str] = []
        self.note: Callable[[], Any] = lambda: None  # enqueues something

    def until_told(self) -> None:
        """Keep the interpreter busy until the timeout has struck, and for some instructions longer."""
        if threading.current_thread() is not threading.main_thread():
            return  # the courier
        run, until = running.get(), time.monotonic() + LONG
        while run.interrupted is None:
            assert time.monotonic() < until
        for _ in range(10_000):
            pass


@pytest.fixture(params=["sqlite", "memory"])
def stage(request, registry, tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'q.db'}" if request.param == "sqlite" else f"memory://{tmp_path}"
    app = App(Config(backend=url), plugins=Plugins(), registry=registry)
    set_current_app(app)
    yield Stage(app)
    set_current_app(None)
    app.close()


def drain(app: App, mode: str = "sync") -> None:
    worker = Worker(app, "p", Pool(mode=mode, concurrency=1), None, drain=True)
    worker.run()
    assert worker.courier.failure is None


# -- plain functions -------------------------------------------------------------------------------


def sleeping(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    time.sleep(LONG)


def in_a_transaction(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    begin = connection.Connection.begin

    def slow(self: connection.Connection, durable: bool) -> None:
        begin(self, durable)
        stage.until_told()

    patch.setattr(connection.Connection, "begin", slow)
    stage.note()
    time.sleep(LONG)


def at_the_end_of_a_transaction(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    end = connection.Transaction.__exit__

    def slow(self: connection.Transaction, *error: Any) -> None:
        stage.until_told()
        end(self, *error)

    patch.setattr(connection.Transaction, "__exit__", slow)
    stage.note()
    time.sleep(LONG)


def asking_a_backend(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    stage.app.operate(lambda backend: stage.until_told())
    time.sleep(LONG)


def asking_a_slow_backend_again_and_again(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        stage.app.operate(lambda backend: time.sleep(0.02))


def enqueueing_slowly_again_and_again(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    def slow(*args: Any) -> dict[str, str]:
        time.sleep(0.02)
        return {}

    patch.setattr(stage.app._producer, "_send", slow)
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        stage.note()


def waiting_for_a_result(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    stage.note().result(LONG)


def in_a_fork(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    run, made = running.get(), connection.Connection(Path("never.db"), BackendOptions(), durability="power")
    held = threading.Event()

    def hold() -> None:
        with made.lock:  # as while SQLite is at work: a fork waits for that
            held.set()
            while run.interrupted is None:
                time.sleep(0.001)
            time.sleep(0.02)

    threading.Thread(target=hold).start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    time.sleep(LONG)


def in_a_finalizer(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    class Closes:
        def __del__(self) -> None:
            stage.until_told()

    closes = Closes()
    del closes
    time.sleep(LONG)


def in_finalizers(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    class Closes:
        def __del__(self) -> None:
            time.sleep(TIMEOUT)

    for _ in range(5):
        weakref.ref(Closes())
    time.sleep(LONG)


PLAIN = [
    sleeping, in_a_transaction, at_the_end_of_a_transaction, asking_a_backend, asking_a_slow_backend_again_and_again,
    enqueueing_slowly_again_and_again, waiting_for_a_result, in_a_fork, in_a_finalizer, in_finalizers,
]  # fmt: skip


@pytest.mark.parametrize("place", PLAIN)
def test_a_timeout_that_strikes_in_code_of_ours_leaves_nothing_locked(stage, registry, monkeypatch, place):
    @job(registry=registry, name="overdue", retries=0, timeout=TIMEOUT, store_result=True)
    def overdue() -> None:
        with monkeypatch.context() as patch:
            place(stage, patch)

    @job(registry=registry, name="after", retries=0, store_result=True)
    def after(number: int) -> int:
        stage.note()
        return number

    @job(registry=registry, name="noted", store_result=True)
    def noted() -> None:
        stage.noted.append("noted")

    stage.note = noted.enqueue
    handles = overdue.enqueue(), after.enqueue(1)
    began = time.monotonic()
    drain(stage.app)
    assert time.monotonic() - began < LONG / 4, "it was ended after its grace, with its worker"
    with pytest.raises(JobFailed, match="ran longer than its timeout"):
        handles[0].result(1)
    assert handles[1].result(1) == 1
    assert "noted" in stage.noted


# -- just taken ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["memory"], indirect=True)
@pytest.mark.parametrize(("mode", "kind"), [("sync", "plain"), ("sync", "async"), ("threads", "async"), ("async", "async")])
def test_a_timeout_between_the_taking_of_a_run_and_its_call_ends_it_all_the_same(stage, registry, mode, kind):
    def plain() -> None:
        time.sleep(LONG)

    async def coroutine() -> None:
        await asyncio.sleep(LONG)

    overdue = job(registry=registry, name="overdue", retries=0, timeout=TIMEOUT, store_result=True)(
        plain if kind == "plain" else coroutine
    )
    handle = overdue.enqueue()
    worker = Worker(stage.app, "p", Pool(mode=mode, concurrency=1), None, drain=True)

    class Slow(Scoreboard):
        def begin(self, run: Run) -> None:
            until = time.monotonic() + LONG
            while run.interrupted is None:
                assert time.monotonic() < until
                time.sleep(0.001)

    worker._executor.board = Slow()
    began = time.monotonic()
    worker.run()
    with pytest.raises(JobFailed, match="ran longer than its timeout"):
        handle.result(1)
    assert time.monotonic() - began < LONG / 2


# -- async functions -------------------------------------------------------------------------------


async def awaiting(stage: Stage) -> None:
    await asyncio.sleep(LONG)


async def busy(stage: Stage) -> None:
    stage.until_told()
    await asyncio.sleep(LONG)


async def asleep(stage: Stage) -> None:
    time.sleep(LONG)


async def busy_in_a_callback(stage: Stage) -> None:
    asyncio.get_running_loop().call_soon(stage.until_told)
    await asyncio.sleep(LONG)


async def asleep_in_a_callback(stage: Stage) -> None:
    asyncio.get_running_loop().call_soon(time.sleep, LONG)
    await asyncio.sleep(LONG)


async def busy_in_a_task(stage: Stage) -> None:
    await asyncio.gather(busy(stage), asyncio.sleep(LONG), return_exceptions=True)


async def asleep_in_a_task(stage: Stage) -> None:
    async def sleeps() -> None:
        time.sleep(LONG)

    await asyncio.gather(sleeps(), asyncio.sleep(LONG), return_exceptions=True)


async def turning(stage: Stage) -> None:
    """The loop itself is at work nearly all the time."""
    loop, until = asyncio.get_running_loop(), time.monotonic() + LONG
    future = loop.create_future()

    def again() -> None:
        if time.monotonic() < until:
            loop.call_soon(again)
        else:
            future.set_result(None)

    again()
    await future


ASYNC: list[Callable[[Stage], Awaitable[None]]] = [
    awaiting, busy, asleep, busy_in_a_callback, asleep_in_a_callback, busy_in_a_task, asleep_in_a_task, turning,
]  # fmt: skip


@pytest.mark.parametrize("stage", ["memory"], indirect=True)
@pytest.mark.parametrize("place", ASYNC)
def test_a_timeout_that_strikes_anywhere_in_an_event_loop_ends_the_run_and_lets_it_clean_up_once(stage, registry, place):
    cleaned: list[bool] = []

    @job(registry=registry, name="overdue", retries=0, timeout=TIMEOUT, store_result=True)
    async def overdue() -> None:
        try:
            stage.noted.append("begun")
            await place(stage)
        finally:
            for _ in range(20):  # longer than an interruption is tried again
                await asyncio.sleep(0.001)
                time.sleep(0.001)
            cleaned.append(True)

    @job(registry=registry, name="after", store_result=True)
    async def after() -> int:
        await asyncio.sleep(0.01)
        return 1

    handles = overdue.enqueue(), after.enqueue()
    began = time.monotonic()
    drain(stage.app)
    with pytest.raises(JobFailed, match="ran longer than its timeout"):
        handles[0].result(1)
    assert handles[1].result(1) == 1
    assert cleaned == [True] or not stage.noted
    assert time.monotonic() - began < LONG / 2


def test_a_timeout_never_loses_a_callback_of_the_loop(stage, registry):
    """Raised in the loop itself it did, now and then: a task was never resumed, and the worker waited for it forever."""

    @job(registry=registry, name="turns", retries=0, timeout=0.02, store_result=True)
    async def turns() -> None:
        while True:
            await asyncio.sleep(0)

    handles = [turns.enqueue() for _ in range(20)]
    drain(stage.app)
    for handle in handles:
        with pytest.raises(JobFailed, match="ran longer than its timeout"):
            handle.result(1)
