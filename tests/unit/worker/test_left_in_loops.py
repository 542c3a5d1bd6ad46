"""Nothing that a run has left in its thread's event loop runs inside another run, and connections stay open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from jobs_core import job
from jobs_core.config import Pool
from jobs_core.events import LeftBehind
from jobs_core.worker.main import Worker


class Stage:
    """One job leaves something, a later one triggers it, and each run is recorded."""

    def __init__(self) -> None:
        self.rang: list[str] = []
        self.go_off: Callable[[], None] = lambda: None
        self.kept: list[Any] = []
        self.calls: list[asyncio.Future[Any]] = []
        self.reading, self.writing = os.pipe()
        self.thread = threading.Event()

    def ring(self, *_: object) -> None:
        self.rang.append("rang")

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)
        for each in self.kept:
            if isinstance(each, socket.socket):
                each.close()

    def ring_in_an_hour(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set a timer that is due as soon as the loop's clock is put forward."""
        loop.call_later(3600, self.ring)
        time = loop.time
        self.go_off = lambda: setattr(loop, "time", lambda: time() + 3700)

    def ring_and_again(self) -> None:
        self.ring()
        asyncio.get_running_loop().call_soon(self.ring_and_again)


async def timer(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    stage.ring_in_an_hour(loop)
    return "a timer for Stage.ring"


async def timers_for_the_same_time(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    when = loop.time() + 3600
    loop.call_at(when, stage.ring)
    loop.call_at(when, stage.ring)
    stage.ring_in_an_hour(loop)
    return "a timer for Stage.ring"


async def timer_that_is_due(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    loop.call_at(loop.time(), stage.ring)
    return ""


async def soon_and_again(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    loop.call_soon(stage.ring_and_again)
    return ""


async def timer_made_by_a_task(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    async def task() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stage.ring_in_an_hour(loop)

    stage.kept.append(asyncio.create_task(task(), name="sleeps"))
    await asyncio.sleep(0)
    return "asyncio task sleeps, a timer for Stage.ring"


async def reader(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    loop.add_reader(stage.reading, stage.ring)
    stage.go_off = lambda: os.write(stage.writing, b"x") and None
    return "a reader of a file"


async def reader_by_keywords(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    loop.add_writer(fd=stage.writing, callback=stage.ring)
    loop.remove_writer(fd=stage.writing)
    loop.add_reader(fd=stage.reading, callback=stage.ring)
    stage.go_off = lambda: os.write(stage.writing, b"x") and None
    return "a reader of a file"


async def writer(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    loop.add_writer(stage.writing, stage.ring)
    return "a writer of a file"


async def handler(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    if threading.current_thread() is not threading.main_thread():
        return ""
    loop.add_signal_handler(signal.SIGUSR1, stage.ring)
    stage.go_off = lambda: signal.raise_signal(signal.SIGUSR1)
    return "a handler of SIGUSR1"


async def handler_by_keywords(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    if threading.current_thread() is not threading.main_thread():
        return ""
    loop.add_signal_handler(sig=signal.SIGUSR1, callback=stage.ring)
    loop.remove_signal_handler(sig=signal.SIGUSR1)
    return ""


async def handler_beside_a_closed_wakeup_descriptor(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    if threading.current_thread() is not threading.main_thread():
        return ""
    signal.set_wakeup_fd(closed := os.open(os.devnull, os.O_WRONLY | os.O_NONBLOCK))
    os.close(closed)  # as an event loop that ends
    loop.add_signal_handler(signal.SIGUSR1, stage.ring)
    return "a handler of SIGUSR1"


async def call_in_a_thread(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    future = loop.run_in_executor(None, stage.thread.wait)
    future.add_done_callback(lambda future: None if future.cancelled() else stage.ring())
    stage.go_off = stage.thread.set
    return "a call in an executor, which continues there"


async def server(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    made = await asyncio.start_server(stage.ring, "127.0.0.1", 0)
    host = made.sockets[0].getsockname()

    def call() -> None:
        with contextlib.suppress(OSError):
            stage.kept.append(socket.create_connection(host, 1))

    stage.go_off = call
    return "a server"


async def generator_in_an_error(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    async def numbers() -> Any:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            stage.ring()

    async for _ in numbers():
        raise ValueError("its traceback holds the generator")
    return ""


async def exception_handler(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    loop.set_exception_handler(stage.ring)
    stage.go_off = lambda: loop.call_exception_handler({"message": "of another job"})
    return ""


async def loop_without_executor(stage: Stage, loop: asyncio.AbstractEventLoop) -> str:
    await loop.shutdown_default_executor()
    # The later run awaits this call: on a slow machine it would itself leave it behind, and be told of it.
    stage.go_off = lambda: stage.calls.append(asyncio.get_running_loop().run_in_executor(None, int))
    return ""


LEFT = [
    timer, timers_for_the_same_time, timer_that_is_due, soon_and_again, timer_made_by_a_task, reader, reader_by_keywords,
    writer, handler, handler_by_keywords, handler_beside_a_closed_wakeup_descriptor, call_in_a_thread, server,
    generator_in_an_error, exception_handler, loop_without_executor,
]  # fmt: skip


def drain(app: Any, mode: str) -> None:
    worker = Worker(app, "p", Pool(mode=mode, concurrency=1), None, drain=True)
    worker.run()
    assert worker.courier.failure is None


@pytest.fixture
def usr1():
    """USR1 as a worker sets it; the test checks its handler afterwards."""
    before = signal.signal(signal.SIGUSR1, mine := lambda *_: None)
    yield mine
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("mode", ["sync", "threads"])
@pytest.mark.parametrize("leave", LEFT)
def test_tasks_left_in_the_loop_never_run_inside_another_job(app, registry, caplog, usr1, mode, leave):
    stage, told = Stage(), []

    @job(registry=registry, name="leaves", retries=0)
    async def leaves() -> None:
        told.append(await leave(stage, asyncio.get_running_loop()))

    @job(registry=registry, name="after", store_result=True, retries=0)
    async def after() -> int:
        stage.rang.clear()
        stage.calls.clear()
        stage.go_off()
        await asyncio.gather(*stage.calls)
        await asyncio.sleep(0.01)  # some turns of the loop, and a call from another thread
        return len(stage.rang)

    leaves.enqueue()
    handles = [after.enqueue() for _ in range(2)]
    drain(app, mode)
    assert [handle.result(1) for handle in handles] == [0, 0]
    assert signal.getsignal(signal.SIGUSR1) is usr1
    events = [event for record in caplog.records if isinstance(event := getattr(record, "event", None), LeftBehind)]
    assert {event.job for event in events} <= {"leaves"}
    assert not any(told) or [", ".join(event.what) for event in events] == told
    stage.close()


@pytest.mark.parametrize("mode", ["sync", "threads"])
def test_a_connection_that_an_application_keeps_serves_the_next_run(app, registry, mode):
    kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    ours, theirs = socket.socketpair()

    @job(registry=registry, name="asks", store_result=True, retries=0)
    async def asks() -> str:
        if not kept:
            kept.append(await asyncio.open_connection(sock=ours))
            asyncio.get_running_loop().call_later(600, print)  # as pools that close idle connections do
        reader, _ = kept[0]
        theirs.send(b"answer\n")
        return (await asyncio.wait_for(reader.readline(), 10)).decode()

    @job(registry=registry, name="closes", retries=0)
    async def closes() -> None:
        kept.pop()[1].close()

    handles = [asks.enqueue() for _ in range(3)]
    closes.enqueue()
    drain(app, mode)
    assert [handle.result(1) for handle in handles] == ["answer\n"] * 3
    assert theirs.recv(1) == b""
    theirs.close()


def test_leftovers_of_libraries_in_every_run_are_logged_once(app, registry, caplog):
    @job(registry=registry, name="leaves")
    async def leaves() -> None:
        asyncio.get_running_loop().call_later(600, print)

    for _ in range(5):
        leaves.enqueue()
    drain(app, "sync")
    assert caplog.text.count("a timer for builtin_function_or_method") == 1
