"""Take parts of jobs-rabbitmq's transport away: BENCH_WITHOUT=codec,calls,switch. Imported by the jobs under test."""

from __future__ import annotations

import os

from jobs_rabbitmq.transport import calls, loop, own
from jobs_rabbitmq.transport.connection import OpenChannel


def _codec() -> None:
    """Let pika write and read every frame."""

    def feed(self: own.Reader, data: bytes) -> int:
        self._others(data)
        return 0

    def create(connection: own.OwnConnection, number: int, opened: object) -> OpenChannel:
        return OpenChannel(connection, number, opened)

    own.Reader.feed = feed  # type: ignore[method-assign]
    own.OwnConnection._create_channel = create  # type: ignore[assignment,method-assign]


def _calls() -> None:
    """Let Python's own calls release the interpreter."""
    calls.send, calls.receive, calls.read = os.write, os.read, os.read


def _switch() -> None:
    """Leave the switch interval alone."""
    loop.LongHolds.waited = lambda *_: None  # type: ignore[assignment,method-assign]


PARTS = {"codec": _codec, "calls": _calls, "switch": _switch}

for part in filter(None, os.environ.get("BENCH_WITHOUT", "").split(",")):
    PARTS[part]()
