"""`enqueue_timeout` is a bound: whatever a server does, each enqueue ends within it, successful or not."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from msgspec.structs import replace

from jobs_core import App, deadline, job
from jobs_core.config import Config
from jobs_core.errors import BackendUnavailable
from jobs_core.registry import Registry

from ..support.proxy import Proxy

TIMEOUT = 1.0
OVER = 0.5
"""Seconds by which a call may exceed its bound."""
THREADS, TASKS = 8, 12

registry = Registry()


@job(name="note", registry=registry)
def note(text: str) -> None: ...


class Metronome(threading.Thread):
    """The total time by which the machine lets a thread oversleep: that time is not charged to the call that is measured."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.overslept = 0.0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            begin = time.monotonic()
            time.sleep(0.01)
            self.overslept += time.monotonic() - begin - 0.01

    def __enter__(self) -> Metronome:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


@pytest.fixture(params=["redis", "rabbitmq", "zeromq"])
def service(request) -> tuple[Any, str]:
    """A server, and its URL with a placeholder for the port."""
    if request.param == "redis":
        server = request.getfixturevalue("server")
        return server, "redis://127.0.0.1:{port}"
    if request.param == "rabbitmq":
        node = request.getfixturevalue("node")
        return node, request.getfixturevalue("rabbitmq_url").replace(f":{node.port}", ":{port}")
    broker = request.getfixturevalue("broker")
    return broker, "zmq+tcp://127.0.0.1:{port}"


@pytest.fixture
def make_app(service, tmp_path) -> Iterator[Callable[..., App]]:
    with contextlib.ExitStack() as stack:

        def make(port: int = 0, *, connected: bool = True, timeout: float = TIMEOUT) -> App:
            url = service[1].format(port=port or service[0].port)
            app = App(Config(backend=url, run_dir=str(tmp_path), enqueue_timeout=20.0), registry=registry)
            stack.callback(app.close)
            if connected:
                enqueue(app)
            app.config = replace(app.config, enqueue_timeout=timeout)
            return app

        yield make


def measured(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the duration of a call, and its outcome."""
    begin = time.monotonic()
    try:
        outcome: Any = call()
    except BackendUnavailable as error:
        outcome = error
    return time.monotonic() - begin, outcome


def enqueue(app: App) -> Any:
    return app.enqueue(note.call("text"))


def everywhere(alone: App, threaded: App, looped: App) -> list[tuple[float, Any]]:
    """Return the outcomes of one thread's call, of several threads' and of an event loop's, all at once."""
    calls: list[tuple[float, Any]] = []

    async def gather() -> None:
        async def one() -> None:
            begin = time.monotonic()
            outcome = (await asyncio.gather(looped.aenqueue(note.call("text")), return_exceptions=True))[0]
            calls.append((time.monotonic() - begin, outcome))

        await asyncio.gather(*(one() for _ in range(TASKS)))

    threads = [threading.Thread(target=lambda app=app: calls.append(measured(lambda: enqueue(app)))) for app in [threaded] * 8]
    threads.append(threading.Thread(target=lambda: calls.append(measured(lambda: enqueue(alone)))))
    threads.append(threading.Thread(target=lambda: asyncio.run(gather())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 + THREADS + TASKS
    return calls


@contextlib.contextmanager
def frozen(server: Any, proxy: Proxy) -> Iterator[None]:
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


@contextlib.contextmanager
def swallowing(server: Any, proxy: Proxy) -> Iterator[None]:
    proxy.black_hole()
    try:
        yield
    finally:
        proxy.heal()


@pytest.mark.parametrize("connected", [True, False], ids=["connected before", "never connected"])
@pytest.mark.parametrize("trouble", [frozen, swallowing])
def test_every_call_ends_within_the_timeout_while_a_server_hangs(
    service, make_app, trouble: Callable[..., AbstractContextManager[None]], connected
):
    server, _ = service
    with Proxy(server.port) as proxy:
        apps = [make_app(proxy.port, connected=connected) for _ in range(3)]
        with trouble(server, proxy), Metronome() as metronome:
            calls = everywhere(*apps)
        assert all(isinstance(outcome, BackendUnavailable) for _, outcome in calls)
        assert max(took for took, _ in calls) <= TIMEOUT + OVER + metronome.overslept
        until = time.monotonic() + 30
        while isinstance(measured(lambda: enqueue(apps[0]))[1], BackendUnavailable):
            assert time.monotonic() < until


def test_a_call_that_is_longer_than_a_freeze_succeeds(service, make_app):
    server, _ = service
    app = make_app(timeout=20.0)
    thaw = threading.Timer(0.5, server.signal, [signal.SIGCONT])
    server.signal(signal.SIGSTOP)
    thaw.start()
    try:
        assert enqueue(app).created
    finally:
        thaw.join()


def test_a_large_push_that_a_frozen_server_takes_in_part_ends_in_time_too(service, make_app):
    server, _ = service
    app = make_app()
    calls = [note.call("x" * 900_000) for _ in range(24)]  # 20 MB: more than the buffers between two sockets hold
    server.signal(signal.SIGSTOP)
    try:
        with Metronome() as metronome:
            took, outcome = measured(lambda: app.enqueue_many(calls))
    finally:
        server.signal(signal.SIGCONT)
    assert isinstance(outcome, BackendUnavailable)
    assert took <= TIMEOUT + OVER + metronome.overslept


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_name_server_that_is_silent_is_given_up(scheme, tmp_path, monkeypatch):
    silence = threading.Event()

    def resolve(host: str, *args: Any, flags: int = 0, **more: Any) -> Any:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "it is a name")
        silence.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(deadline.socket, "getaddrinfo", resolve)
    app = App(Config(backend=f"{scheme}://a.name", run_dir=str(tmp_path), enqueue_timeout=TIMEOUT), registry=registry)
    with Metronome() as metronome:
        took, outcome = measured(lambda: enqueue(app))
    silence.set()
    assert "was not enqueued" in str(outcome)
    assert took <= TIMEOUT + OVER + metronome.overslept
