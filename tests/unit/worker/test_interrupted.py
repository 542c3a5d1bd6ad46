"""Wherever its timeout strikes in a job of a sync pool, the run counts as timed out, and worker and queue continue."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import signal
import sqlite3
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from jobs_core import Discard, JobFailed, JobTimeout, JobWasCancelled, Retry, Snooze, job, set_current_app, uninterrupted
from jobs_core.app import App
from jobs_core.backends.base import BackendOptions, State
from jobs_core.backends.sqlite import connection
from jobs_core.config import Config, Pool
from jobs_core.plugins import Plugins
from jobs_core.runs.run import Run
from jobs_core.runs.running import running
from jobs_core.scoreboard.writer import Scoreboard
from jobs_core.uninterrupted import INTERRUPT
from jobs_core.units import Duration
from jobs_core.worker.executors.sync import SyncExecutor
from jobs_core.worker.main import Worker

from ...support.project import PATIENCE
from ...support.stopwatch import Stopwatch

TIMEOUT = 0.1
LONG = 20.0
"""Seconds; nothing here takes so long unless a timeout was lost."""


class Stage:
    """The state of the job under test, and its records."""

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
    """Run all jobs; none may have to be ended after its grace, which would end this process with its worker."""
    worker = Worker(app, "p", Pool(mode=mode, concurrency=1, timeout_grace=Duration(LONG / 4)), None, drain=True)
    given_up: list[bool] = []
    worker.abandoned = given_up.append  # type: ignore[method-assign]
    worker.run()
    assert worker.courier.failure is None
    assert not given_up, "a run was ended after its grace, and its worker with it"


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


def in_a_callback_of_a_loop_of_its_own(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    asyncio.run(busy_in_a_callback(stage))


def in_a_task_of_a_loop_of_its_own(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    asyncio.run(busy_in_a_task(stage))


def in_a_loop_of_its_own_that_is_held_up(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    asyncio.run(asleep_in_a_task(stage))


def in_a_loop_of_its_own_that_turns(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    asyncio.run(turning(stage))


def in_a_callback_of_c_code(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.create_function("told", 0, stage.until_told)
        db.execute("SELECT told()")  # SQLite makes its own error of what the function raises


def in_the_making_of_a_class(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    class Field:
        def __set_name__(self, owner: type, name: str) -> None:
            stage.until_told()

    type("Model", (), {"field": Field()})  # Python 3.11 makes a RuntimeError of what it raises


def waiting_for_a_lock(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    threading.Event().wait(LONG)


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


def in_a_finalizer_and_where_that_is_noticed(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    insist, again = SyncExecutor._insist, []

    def slow(self: SyncExecutor, run: Run) -> None:
        if not again:
            again.append(True)
            signal.raise_signal(INTERRUPT)  # as it is sent again on a busy machine
        insist(self, run)

    patch.setattr(SyncExecutor, "_insist", slow)
    in_a_finalizer(stage, patch)


def in_a_warning_of_a_fork(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    """Interrupt the warning about a fork beside threads (from Python 3.12 on), which drops what is raised there.

    Python 3.12 warns before logging has its lock back, which the courier may wait for.
    """

    def busy(*_: Any) -> None:
        until = time.monotonic() + 2 * TIMEOUT
        while time.monotonic() < until:
            pass

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = busy
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        time.sleep(LONG)


PLAIN = [
    sleeping, in_a_transaction, at_the_end_of_a_transaction, asking_a_backend, asking_a_slow_backend_again_and_again,
    enqueueing_slowly_again_and_again, waiting_for_a_result, in_a_callback_of_a_loop_of_its_own,
    in_a_task_of_a_loop_of_its_own, in_a_loop_of_its_own_that_is_held_up, in_a_loop_of_its_own_that_turns,
    in_a_callback_of_c_code, in_the_making_of_a_class, waiting_for_a_lock, in_a_fork, in_a_warning_of_a_fork, in_a_finalizer,
    in_finalizers, in_a_finalizer_and_where_that_is_noticed,
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
    drain(stage.app)
    with pytest.raises(JobFailed, match="ran longer than its timeout"):
        handles[0].result(1)
    assert handles[1].result(1) == 1
    assert "noted" in stage.noted


@pytest.mark.parametrize("stage", ["memory"], indirect=True)
def test_a_timeout_leaves_no_lock_of_pythons_library_taken(stage, registry):
    """Otherwise the courier waits for a log handler's lock, and the next job for that of a queue or an event."""
    event, condition, log = threading.Event(), threading.Condition(), logging.getLogger("app.of.this.test")
    handler = logging.StreamHandler(io.StringIO())
    log.addHandler(handler)
    log.propagate = False

    @job(registry=registry, name="locks", retries=0)
    def locks() -> None:
        while True:
            log.error("x")
            event.set()
            with condition:
                condition.notify_all()

    for number in range(40):
        locks.using(timeout=0.004 + number / 10_000).enqueue()
    drain(stage.app)
    free = []

    def takes_all() -> None:
        log.error("y")
        event.set()
        with condition:
            free.append(True)

    thread = threading.Thread(target=takes_all, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert free


@pytest.mark.parametrize("stage", ["memory"], indirect=True)
@pytest.mark.parametrize(("mode", "kind"), [("sync", "plain"), ("sync", "async"), ("threads", "async"), ("async", "async")])
@pytest.mark.parametrize("why", ["timeout", "cancel"])
def test_an_interrupted_job_that_fails_while_it_cleans_up_was_interrupted_all_the_same(stage, registry, mode, kind, why):
    begun = threading.Event()

    def plain() -> None:
        try:
            begun.set()
            time.sleep(LONG)
        finally:
            raise ValueError("while cleaning up")

    async def coroutine() -> None:
        try:
            begun.set()
            await asyncio.sleep(LONG)
        finally:
            raise ValueError("while cleaning up")

    declare = job(registry=registry, name="job", retries=0, timeout=TIMEOUT if why == "timeout" else None, store_result=True)
    handle = declare(plain if kind == "plain" else coroutine).enqueue()
    if why == "cancel":
        threading.Thread(target=lambda: (begun.wait(LONG), handle.cancel())).start()
    stopwatch = Stopwatch()
    drain(stage.app, mode)
    assert stopwatch.stop() < LONG / 2
    if why == "cancel":
        with pytest.raises(JobWasCancelled):
            handle.result(1)
        return
    with pytest.raises(JobFailed) as told:
        handle.result(1)
    assert told.value.reason == "timeout"
    assert "ValueError: while cleaning up" in told.value.traceback


@pytest.mark.parametrize("stage", ["memory"], indirect=True)
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_signal_that_comes_just_before_a_system_call_is_sent_again(stage, registry, kind, monkeypatch):
    sent: list[int] = []
    send = signal.pthread_kill

    def lose_the_first(thread: int, number: int) -> None:
        sent.append(number)
        if len(sent) > 1:
            send(thread, number)

    monkeypatch.setattr(signal, "pthread_kill", lose_the_first)

    def plain() -> None:
        try:
            time.sleep(LONG)
        except JobTimeout:
            stage.noted.append("interrupted")
            raise

    async def coroutine() -> None:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            stage.noted.append("interrupted")
            raise

    handle = job(registry=registry, name="job", retries=0, timeout=TIMEOUT)(plain if kind == "plain" else coroutine).enqueue()
    drain(stage.app)
    assert stage.noted == ["interrupted"]
    assert len(sent) > 1
    assert handle.status() is State.DEAD


@pytest.mark.parametrize("stage", ["memory"], indirect=True)
@pytest.mark.parametrize("signal", [Retry(delay=0.01), Snooze(0.01), Discard("too slow")])
def test_a_job_may_catch_its_timeout_and_continue_differently(stage, registry, signal):
    @job(registry=registry, name="job", retries=5, timeout=TIMEOUT, store_result=True)
    def answers() -> str:
        runs.append(1)
        if len(runs) == 1:
            try:
                time.sleep(LONG)
            except JobTimeout:
                raise signal from None
        return "in time"

    runs: list[int] = []
    handle = answers.enqueue()
    drain(stage.app)
    if isinstance(signal, Discard):
        with pytest.raises(JobFailed, match="too slow"):
            handle.result(1)
    else:
        assert handle.result(1) == "in time"


@pytest.mark.parametrize("stage", ["memory"], indirect=True)
def test_a_timeout_never_interrupts_the_fork_handlers_of_libraries(stage, registry, monkeypatch):
    monkeypatch.setattr(uninterrupted, "_whole_forks", False)  # as in a process that has not run jobs yet
    lock, concerned = threading.Lock(), []

    def take() -> None:
        if concerned:
            stage.until_told()
            lock.acquire()

    def give() -> None:
        if concerned:
            for _ in range(100_000):  # the signal comes again meanwhile
                pass
            lock.release()

    os.register_at_fork(before=take, after_in_parent=give)

    @job(registry=registry, name="forks", retries=0, timeout=TIMEOUT, store_result=True)
    def forks() -> None:
        concerned.append(True)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        concerned.clear()
        os.waitpid(pid, 0)
        time.sleep(LONG)

    handle = forks.enqueue()
    drain(stage.app)
    concerned.clear()
    with pytest.raises(JobFailed, match="ran longer than its timeout"):
        handle.result(1)
    assert lock.acquire(blocking=False)


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
    watch = Stopwatch()
    worker.run()
    with pytest.raises(JobFailed, match="ran longer than its timeout"):
        handle.result(1)
    assert watch.stop() < LONG / 2


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
            for _ in range(20):  # longer than an interruption is retried
                await asyncio.sleep(0.001)
                time.sleep(0.001)
            cleaned.append(True)

    @job(registry=registry, name="after", store_result=True)
    async def after() -> int:
        await asyncio.sleep(0.01)
        return 1

    handles = overdue.enqueue(), after.enqueue()
    drain(stage.app)
    with pytest.raises(JobFailed, match="ran longer than its timeout"):
        handles[0].result(1)
    assert handles[1].result(1) == 1
    assert cleaned == [True] or not stage.noted


def test_a_timeout_never_loses_a_callback_of_the_loop(stage, registry):
    """An exception raised in the loop itself lost one now and then: a task was never resumed, and the worker waited forever."""

    @job(registry=registry, name="turns", retries=0, timeout=0.02, store_result=True)
    async def turns() -> None:
        while True:
            await asyncio.sleep(0)

    handles = [turns.enqueue() for _ in range(20)]
    drain(stage.app)
    for handle in handles:
        with pytest.raises(JobFailed, match="ran longer than its timeout"):
            handle.result(1)
