"""Fixtures: brokers of every kind."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs_core.backends.sqlite import owners
from jobs_core.errors import BackendError
from jobs_core.testing.services import PATIENCE, free_port
from jobs_core.testing.services.broker import BrokerService
from jobs_zeromq import connection
from jobs_zeromq.broker import transactions
from jobs_zeromq.broker.server import Server, Settings


class Died(BaseException):
    """Raised where a broker inside the test's process "dies"."""


class InProcess:
    """A broker on a thread of the test's process, with a clock that the test may set. Where it dies, another takes over."""

    def __init__(self, directory: Path, clock: Any = None, **settings: Any) -> None:
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        self._settings = Settings(
            store="sqlite:///broker.db?durability=process",  # only the broker dies here: syncing proves nothing
            listen=[endpoint],
            base_dir=directory,
            clock=clock,
            min_free=0,
            **settings,
        )
        self.url = "zmq+" + endpoint
        self.deaths = 0
        self.server = self._opened()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _opened(self) -> Server:
        deadline = time.monotonic() + 30
        while True:
            server = Server(self._settings)
            try:
                server.open()
                return server
            except BackendError as error:
                if "in use" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.002)  # ZeroMQ frees the port of the dead one on a thread of its own

    def _run(self) -> None:
        while True:
            try:
                self.server.run()
                return
            except Died:
                self.deaths += 1
                self.server.close()
                self.server = self._opened()

    def close(self) -> None:
        self.server.stop()
        self._thread.join(30)
        self.server.close()


class BorrowedClock:
    """The time of whichever clock the test's backends are given."""

    def __init__(self) -> None:
        self.clock: Any = None

    def __call__(self) -> float:
        return self.clock() if self.clock else 1_800_000_000.0


@pytest.fixture
def borrowed_clock() -> BorrowedClock:
    return BorrowedClock()


@pytest.fixture
def in_process(tmp_path: Path, borrowed_clock: BorrowedClock) -> Iterator[InProcess]:
    broker = InProcess(tmp_path, borrowed_clock)
    yield broker
    broker.close()


@pytest.fixture
def dies_often(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let in-process brokers die after every tenth commit, before they confirm it; every 500th where there are 10,000.

    Two things are left out: the grace that a restart gives to leases, because the model knows of no restart; and the pauses
    with which clients spare a new broker, because 430 deaths would spend half of the test's time in them.
    """
    commits, often = itertools.count(1), 500 if "bounded_number" in request.node.name else 10

    def visit(name: str) -> None:
        if name == "broker.after_commit" and next(commits) % often == 0:
            raise Died

    monkeypatch.setattr(transactions, "failpoint", visit)
    monkeypatch.setattr(owners, "begin_grace", lambda tx: None)
    monkeypatch.setattr(connection, "AGAIN", 2)
    monkeypatch.setattr(connection, "STAGGER", 0.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients wait for the next broker as long as a busy machine takes to start it. In production the core retries."""
    monkeypatch.setattr(connection, "RECONNECT", PATIENCE)
    monkeypatch.setitem(connection.BrokerConnection.call.__kwdefaults__, "reconnect", PATIENCE)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[BrokerService]:
    """A broker as a process, not yet started."""
    made = BrokerService(tmp_path / "broker")
    yield made
    made.stop()


@pytest.fixture
def start_in_process(tmp_path: Path) -> Iterator[Callable[..., InProcess]]:
    """Return a function that starts brokers in this process with given settings."""
    started: list[InProcess] = []

    def start(**settings: Any) -> InProcess:
        started.append(InProcess(tmp_path, **settings))
        return started[-1]

    yield start
    for broker in started:
        broker.close()
