"""Eight threads and an event loop share a producer that loses its connection and replies, and whose server fills up.

Each caller learns the fate of its own jobs, and what it was told is what the queue holds.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobs_core import App, job
from jobs_core.backends.base import State
from jobs_core.config import Config
from jobs_core.errors import MessageTooLarge, QueueFull
from jobs_core.registry import Registry
from jobs_core.testing.services.redis import RedisServer

from ..support.proxy import Proxy

THREADS, EACH = 8, 100
PATIENCE = 60.0

registry = Registry()


@job(name="note", registry=registry)
def note(text: str) -> None: ...


@job(name="single", unique="{number}", registry=registry)
def single(number: int) -> None: ...


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def app(server: RedisServer, tmp_path) -> Iterator[App]:
    server.command("FLUSHALL")
    server.command("CONFIG", "SET", "maxmemory", "0")
    yield from _app(server.port, tmp_path)


@pytest.fixture
def proxied(server: RedisServer, tmp_path) -> Iterator[tuple[App, Proxy]]:
    server.command("FLUSHALL")
    with Proxy(server.port) as proxy:
        for app in _app(proxy.port, tmp_path):
            yield app, proxy


def _app(port: int, directory) -> Iterator[App]:
    app = App(Config(backend=f"redis://127.0.0.1:{port}", run_dir=str(directory), max_message=5_000_000), registry=registry)
    yield app
    app.close()


def in_threads(call: Callable[[int, int], Any]) -> list[list[Any]]:
    """Return the outcomes of `call(thread, n)`, from all threads at once: handles or exceptions."""
    outcomes: list[list[Any]] = [[] for _ in range(THREADS)]
    together = threading.Barrier(THREADS)

    def run(number: int) -> None:
        together.wait(PATIENCE)
        for n in range(EACH):
            try:
                outcomes[number].append(call(number, n))
            except Exception as error:
                outcomes[number].append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    return outcomes


def queued(app: App) -> list[str]:
    return [record.id for record in app.operate(lambda backend: backend.browse("default", State.READY, 100_000))]


def ids(outcomes: list[list[Any]]) -> list[str]:
    return [handle.id for mine in outcomes for handle in mine]


def test_threads_share_pushes_and_each_has_its_own_jobs(app: App, server: RedisServer) -> None:
    app.enqueue(note.call("opens"))
    before = int(server.fact("total_commands_processed", "INFO", "stats"))
    outcomes = in_threads(lambda number, n: app.enqueue(note.call(f"{number} {n}")))
    commands = int(server.fact("total_commands_processed", "INFO", "stats")) - before
    assert sorted(queued(app)[1:]) == sorted(ids(outcomes))
    assert commands < 8 * THREADS * EACH  # a separate push for each is eight commands, including its script's


def test_a_connection_that_breaks_repeatedly_loses_and_duplicates_nothing(proxied: tuple[App, Proxy]) -> None:
    app, proxy = proxied
    app.enqueue(note.call("opens"))

    def enqueue(number: int, n: int) -> Any:
        if number == 0 and n % 20 == 10:
            proxy.drop_reply(b"EVALSHA") if n % 40 == 10 else proxy.cut()
        return app.enqueue(note.call(f"{number} {n}"))

    outcomes = in_threads(enqueue)
    assert sorted(queued(app)[1:]) == sorted(ids(outcomes))


def test_a_conflict_concerns_its_own_caller(app: App) -> None:
    outcomes = in_threads(lambda number, n: app.enqueue(single.call(n)))
    for n in range(EACH):
        handles = [mine[n] for mine in outcomes]
        assert [handle.created for handle in handles].count(True) == 1
        assert len({handle.id for handle in handles}) == 1
    assert len(queued(app)) == EACH


def test_a_full_server_and_a_message_that_is_too_large_refuse_their_own_callers(app: App, server: RedisServer) -> None:
    app.enqueue(note.call("opens"))
    used = int(server.fact("used_memory", "INFO", "memory"))
    server.command("CONFIG", "SET", "maxmemory", str(used + 3_000_000))

    def enqueue(number: int, n: int) -> Any:
        if number == 0:
            return app.enqueue(note.call("x" * 6_000_000 if n % 2 else "x" * 200_000))
        return app.enqueue(note.call("small"))

    outcomes = in_threads(enqueue)
    told = [outcome.id for mine in outcomes for outcome in mine if not isinstance(outcome, Exception)]
    assert sorted(queued(app)[1:]) == sorted(told)
    assert {type(outcome) for outcome in outcomes[0] if isinstance(outcome, Exception)} == {MessageTooLarge, QueueFull}
    others = {type(outcome) for mine in outcomes[1:] for outcome in mine if isinstance(outcome, Exception)}
    assert others <= {QueueFull}


def test_event_loops_share_the_producer_too(app: App) -> None:
    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(app.aenqueue(note.call(str(n))) for n in range(200)))

    handles = asyncio.run(all_at_once())
    assert sorted(queued(app)) == sorted(handle.id for handle in handles)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_children_forked_among_enqueuing_threads_have_connections_of_their_own(app: App) -> None:
    children = []

    def enqueue(number: int, n: int) -> Any:
        if number == 0 and n % 25 == 0:
            child = os.fork()
            if not child:
                try:
                    os._exit(0 if app.enqueue(note.call("child")).created else 1)
                finally:
                    os._exit(2)
            children.append(child)
        return app.enqueue(note.call(f"{number} {n}"))

    outcomes = in_threads(enqueue)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert set(ids(outcomes)) < set(queued(app))
    assert len(queued(app)) == THREADS * EACH + 4


def test_a_program_may_end_while_its_threads_enqueue(server: RedisServer, tmp_path) -> None:
    server.command("FLUSHALL")
    code = """
import sys, threading
from jobs_core import App, job
from jobs_core.config import Config
app = App(Config(backend=sys.argv[1], run_dir=sys.argv[2]))
@job(name="note")
def note(text: str) -> None: ...
begun = threading.Event()
def run():
    while True:
        app.enqueue(note.call("x"))
        begun.set()
for _ in range(8):
    threading.Thread(target=run, daemon=True).start()
begun.wait(30)
print(app.enqueue(note.call("last")).id)
"""
    url = f"redis://127.0.0.1:{server.port}"
    done = subprocess.run(
        [sys.executable, "-c", code, url, str(tmp_path)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for app in _app(server.port, tmp_path):
        assert done.stdout.strip() in queued(app)
