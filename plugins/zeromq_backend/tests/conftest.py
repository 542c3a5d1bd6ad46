"""Fixtures: brokers of every kind, for the contract."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs_zeromq.broker.server import Server, Settings


class InProcess:
    """A broker on a thread of the test's process, whose clock the test may set."""

    def __init__(self, directory: Path, endpoint: str, clock: Any = None) -> None:
        self.server = Server(
            Settings(store="sqlite:///broker.db", listen=[endpoint], base_dir=directory, clock=clock, min_free=0)
        )
        self.server.open()
        self.url = "zmq+" + self.server.endpoints[0]
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()

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
    broker = InProcess(tmp_path, "tcp://127.0.0.1:*", borrowed_clock)
    yield broker
    broker.close()
