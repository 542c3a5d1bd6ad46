"""Runs are separate: each has its own context, and what it leaves behind is ended."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import decimal
import signal
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from jobs_core import EndlessWait, JobFailed, JobWasCancelled, current_job, job
from jobs_core.backends.base import State
from jobs_core.config import Pool
from jobs_core.events import LeftBehind
from jobs_core.units import Duration
from jobs_core.worker.executors import base, loops
from jobs_core.worker.executors.asyncio import AsyncExecutor
from jobs_core.worker.main import Worker

from ...support.project import PATIENCE

MODES = ["sync", "threads", "async"]
tenant: contextvars.ContextVar[str | None] = contextvars.ContextVar("tenant", default=None)


def drain(app, mode, concurrency=1):
    worker = Worker(app, "p", Pool(mode=mode, concurrency=concurrency), None, drain=True)
    worker.run()
    assert worker.courier.failure is None


@pytest.fixture(params=["plain", "async"])
def kind(request):
    """Define a function as a job, plain or async."""

    def define(registry, function, **options):
        if request.param == "plain":
            return job(registry=registry, name=function.__name__, **options)(function)

        async def coroutine() -> Any:
            return function()

        return job(registry=registry, name=function.__name__, **options)(coroutine)

    return define


@pytest.mark.parametrize("mode", MODES)
def test_context_variables_and_decimals_of_one_run_are_not_seen_by_the_next(app, registry, kind, mode):
    decimal.getcontext()  # as when an application computes with decimals while it is imported

    def dirty() -> None:
        tenant.set("A")
        decimal.getcontext().prec = 2
        decimal.getcontext().traps[decimal.Inexact] = True

    def clean() -> list[str | None]:
        return [tenant.get(), str(decimal.Decimal(2) / 3)]

    first = kind(registry, dirty)
    second = kind(registry, clean, store_result=True)
    handles = []
    for _ in range(3):
        first.enqueue()
        handles.append(second.enqueue())
    drain(app, mode)
    assert [handle.result(1) for handle in handles] == [[None, "0.6666666666666666666666666667"]] * 3
    assert decimal.getcontext().prec == 28


@pytest.mark.parametrize("mode", ["sync", "threads"])
@pytest.mark.parametrize("ending", ["polite", "deaf", "exits"])
def test_tasks_that_a_run_leaves_behind_are_ended_and_told(app, registry, monkeypatch, caplog, mode, ending):
    monkeypatch.setattr(loops, "CANCEL_PATIENCE", 0.01)
    seen: list[str] = []

    async def beat() -> None:
        while True:
            try:
                await asyncio.sleep(0)
                seen.append(current_job().name)
            except asyncio.CancelledError:
                if ending == "polite":
                    raise
                if ending == "exits":
                    raise SystemExit(1) from None

    @job(registry=registry, name="leaves")
    async def leaves() -> None:
        global _kept
        _kept = asyncio.create_task(beat(), name="beat")
        await asyncio.sleep(0)

    @job(registry=registry, name="after", store_result=True)
    async def after() -> int:
        seen.clear()
        for _ in range(5):
            await asyncio.sleep(0)
        return len(seen)

    leaves.enqueue()
    counted = after.enqueue()
    drain(app, mode)
    assert counted.result(1) == 0
    (event,) = [event for record in caplog.records if isinstance(event := getattr(record, "event", None), LeftBehind)]
    assert (event.job, event.what) == ("leaves", ["asyncio task beat"])


_kept: asyncio.Task[None] | None = None


async def rude() -> None:
    raise SystemExit(3)


def leave_a_rude_task() -> None:
    global _kept
    _kept = asyncio.create_task(rude())


def cancel_what_serves() -> None:
    for task in asyncio.all_tasks():
        if "_serve" in repr(task.get_coro()):
            task.cancel()


@pytest.mark.parametrize(
    "end",
    [
        leave_a_rude_task,
        cancel_what_serves,
        lambda: asyncio.get_running_loop().stop(),
        lambda: asyncio.get_running_loop().call_soon(exec, "raise KeyboardInterrupt"),
    ],
)
def test_a_job_that_stops_the_loop_of_an_async_pool_ends_no_other_job(app, registry, end):
    @job(registry=registry, name="ends")
    async def ends() -> None:
        end()
        await asyncio.sleep(0.01)

    @job(registry=registry, name="beside", store_result=True)
    async def beside() -> int:
        await asyncio.sleep(0.02)
        return 1

    handles = [beside.enqueue() for _ in range(3)]
    ends.enqueue()
    drain(app, "async", concurrency=4)
    assert [handle.result(1) for handle in handles] == [1, 1, 1]


class Left(BaseException):
    """Raised in an executor's own code between jobs, and not in that of the standard library or of a run."""


OURS = str(Path(base.__file__).parent)


def throw_into_this_thread() -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), ctypes.py_object(Left))


def leave_an_alarm() -> None:
    def rung(number: int, frame: FrameType) -> None:
        if OURS in frame.f_code.co_filename and frame.f_code.co_name == "_serve":
            raise Left
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGALRM, rung)
        signal.setitimer(signal.ITIMER_REAL, 0.001)


def leave_a_task_factory() -> None:
    with contextlib.suppress(RuntimeError):  # in a thread
        asyncio.get_running_loop().set_task_factory(lambda *args, **options: 1 / 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("leave", [throw_into_this_thread, leave_an_alarm, leave_a_task_factory])
def test_leftovers_of_a_job_in_its_thread_end_neither_the_worker_nor_another_job(app, registry, kind, mode, leave):
    first = kind(registry, leave, retries=0)

    @job(registry=registry, name="after", store_result=True, retries=0)
    def after() -> int:
        return 1

    first.enqueue()
    following = after.enqueue()
    worker = Worker(app, "p", Pool(mode=mode, stop_timeout=60), None, drain=True)
    try:
        worker.run()
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # first: one that is under way would set the timer again
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert worker.courier.failure is None
    assert following.result(1) == 1


@pytest.mark.parametrize("mode", MODES)
def test_an_exception_in_a_thread_that_waits_for_a_job_loses_no_job(app, registry, mode):
    """Libraries that time out threads throw late; a thread that waits for a job notices when it has been given one."""
    threads: list[int] = []

    @job(registry=registry, name="first", retries=0)
    def first() -> None:
        threads.append(threading.get_ident())

    @job(registry=registry, name="after", store_result=True, retries=0)
    def after() -> int:
        return 1

    worker = Worker(app, "p", Pool(mode=mode, stop_timeout=60), None)
    got: list[int] = []

    def produce() -> None:
        try:
            for _ in range(5):
                threads.clear()
                handle = first.enqueue()
                while handle.status() is not State.UNKNOWN:  # done, and its thread waits, or is about to
                    time.sleep(0.001)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threads[0]), ctypes.py_object(Left))
                got.append(after.enqueue().result(5))
        finally:
            worker.courier.stop(0)

    producer = threading.Thread(target=produce)
    producer.start()
    worker.run()
    producer.join()
    assert got == [1] * 5
    assert worker.courier.failure is None


class Snatching(deque[Any]):
    """Raise once, between taking a run and recording it."""

    struck = False

    def popleft(self) -> Any:
        taken = super().popleft()
        if not self.struck:
            self.struck = True
            raise Left
        return taken


@pytest.mark.parametrize("mode", MODES)
def test_a_job_that_an_executor_took_and_forgot_is_started_again_and_uncharged(app, registry, monkeypatch, mode):
    monkeypatch.setattr("jobs_core.worker.reservations.LOST_AFTER", 0.05)

    @job(registry=registry, name="taken", store_result=True, retries=0)
    def taken() -> int:
        return current_job().attempt

    handles = [taken.enqueue() for _ in range(3)]
    worker = Worker(app, "p", Pool(mode=mode), None, drain=True)
    worker._executor.run_queue.pending = Snatching()
    worker.run()
    assert worker.courier.failure is None
    assert [handle.result(1) for handle in handles] == [1, 1, 1]


@pytest.mark.parametrize("function", [AsyncExecutor._make_tasks, AsyncExecutor._ended], ids=["begin", "end"])
def test_an_interrupt_at_any_line_of_the_async_executor_runs_each_job_once(app, registry, monkeypatch, function):
    monkeypatch.setattr("jobs_core.worker.reservations.LOST_AFTER", 0.02)
    ran: list[int] = []

    @job(registry=registry, name="counted", retries=0)
    async def counted(number: int) -> None:
        ran.append(number)
        await asyncio.sleep(0)

    for line in sorted({line for *_, line in function.__code__.co_lines() if line} - {function.__code__.co_firstlineno}):

        def strike(frame: FrameType, event: str, _: Any, line: int = line) -> Any:
            if frame.f_code is not function.__code__:
                return None
            if event == "line" and frame.f_lineno == line:
                raise Left  # and the trace function is gone
            return strike

        ran.clear()
        counted.enqueue_many([(number,) for number in range(3)])
        worker = Worker(app, "p", Pool(mode="async", concurrency=2), None, drain=True)
        before = sys.gettrace()
        sys.settrace(strike)
        try:
            worker.run()
        finally:
            sys.settrace(before)
        assert worker.courier.failure is None
        assert sys.exc_info() == (None, None, None), f"struck at line {line}"  # later errors would show it as their context
        assert sorted(ran) == [0, 1, 2], f"struck at line {line}"
        assert worker._executor.started() == []
        assert worker.courier.done == 3


def test_the_time_of_a_plain_function_in_an_async_pool_begins_on_its_thread(app, registry, monkeypatch):
    monkeypatch.setattr("jobs_core.worker.executors.asyncio.PLAIN_THREADS", 1)

    @job(registry=registry, name="plain", timeout=2.0, retries=0, store_result=True)
    def plain() -> int:
        time.sleep(0.25)  # ten of them outlast the timeout, and one does on no machine
        return 1

    handles = [plain.enqueue() for _ in range(10)]
    drain(app, "async", concurrency=10)
    assert [handle.result(1) for handle in handles] == [1] * 10


@pytest.mark.parametrize("mode", MODES)
def test_a_follow_up_after_the_end_of_the_run_raises(app, registry, mode):
    over, told = threading.Event(), []

    @job(registry=registry, name="follow")
    def follow() -> None: ...

    @job(registry=registry, name="leaves")
    def leaves() -> None:
        me = current_job()

        def late() -> None:
            over.wait(PATIENCE)
            try:
                me.enqueue(follow)
            except RuntimeError as error:
                told.append(str(error))

        threading.Thread(target=late, name="late").start()

    leaves.enqueue()
    drain(app, mode)
    over.set()
    for thread in threading.enumerate():
        if thread.name == "late":
            thread.join(PATIENCE)
    (text,) = told
    assert "has ended" in text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"id": "chosen"}, {"unique": "key"}, {"id": "own"}])
def test_a_follow_up_does_not_claim_to_be_created_before_it_is_sent(app, registry, mode, options):
    created: list[object] = []

    @job(registry=registry, name="follow", retries=0)
    def follow() -> None: ...

    @job(registry=registry, name="first", retries=0)
    def first() -> None:
        created.extend(current_job().enqueue(follow.using(**options)).created for _ in range(2))

    first.using(id="own").enqueue()
    drain(app, mode)
    assert created == [None, None]
    assert follow.using(id="now").enqueue().created is True


def in_the_run(wait: Any) -> None:
    wait()


def in_a_thread(wait: Any) -> None:
    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()


def in_a_thread_of_a_thread(wait: Any) -> None:
    in_a_thread(lambda: in_a_thread(wait))


def in_a_pool(wait: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(wait).result()


def in_a_loop_of_its_own(wait: Any) -> None:
    in_a_thread(lambda: asyncio.run(asyncio.to_thread(wait)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", [in_the_run, in_a_thread, in_a_thread_of_a_thread, in_a_pool, in_a_loop_of_its_own])
def test_a_job_that_waits_for_another_without_a_timeout_is_refused(app, registry, kind, mode, where):
    @job(registry=registry, name="other", store_result=True)
    def other() -> int:
        return 1

    refused = []

    def wait() -> None:
        for timeout in (None, float("inf")):
            try:
                other.enqueue().result(timeout)
            except EndlessWait as error:
                refused.append(str(error))

    def waits() -> None:
        where(wait)

    kind(registry, waits).enqueue()
    drain(app, mode)
    assert len(refused) == 2
    assert all("Pass result(timeout=…)" in text for text in refused)


@pytest.mark.parametrize("mode", MODES)
def test_a_thread_that_a_worker_had_before_its_jobs_may_wait_without_a_timeout(app, registry, mode):
    @job(registry=registry, name="other", store_result=True)
    def other() -> int:
        return 1

    waits, results = threading.Event(), []

    def wait(begin: threading.Event) -> None:
        begin.wait(PATIENCE)
        handle = other.enqueue()
        waits.set()
        results.append(handle.result())
        results.append(asyncio.run(handle.aresult()))

    @job(registry=registry, name="begins")
    def begins() -> None:
        begin.set()
        waits.wait(PATIENCE)  # so that the drain goes on

    begin = threading.Event()
    thread = threading.Thread(target=wait, args=(begin,))
    thread.start()
    begins.enqueue()
    drain(app, mode)
    thread.join(PATIENCE)
    assert results == [1, 1]


def test_a_job_on_an_event_loop_is_refused_the_endless_wait_too(app, registry):
    @job(registry=registry, name="other", store_result=True)
    def other() -> int:
        return 1

    refused = []

    @job(registry=registry, name="waits")
    async def waits() -> None:
        handle = other.enqueue()
        with pytest.raises(EndlessWait):
            await handle.aresult()
        refused.append(await handle.aresult(timeout=10))

    waits.enqueue()
    drain(app, "async", concurrency=2)
    assert refused == [1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("why", ["timeout", "cancel"])
def test_an_async_job_is_interrupted_in_every_mode_and_its_worker_goes_on(app, registry, mode, why):
    began = threading.Event()

    @job(registry=registry, name="awaits", retries=0, store_result=True)
    async def awaits() -> None:
        began.set()
        await asyncio.sleep(60)

    @job(registry=registry, name="after", store_result=True)
    async def after() -> int:
        return 1

    handle = awaits.using(timeout=0.2 if why == "timeout" else None).enqueue()
    following = after.enqueue()
    if why == "cancel":
        threading.Thread(target=lambda: (began.wait(30), handle.cancel())).start()
    worker = Worker(app, "p", Pool(mode=mode, timeout_grace=Duration(60)), None, drain=True)
    worker.run()
    assert worker.courier.replace is False
    assert following.result(1) == 1
    with pytest.raises(JobWasCancelled if why == "cancel" else JobFailed, match="timeout" if why == "timeout" else None):
        handle.result(1)
