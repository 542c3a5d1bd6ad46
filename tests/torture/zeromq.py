"""The rows for the ZeroMQ broker: what may happen to it, the way to it, its workers and its disk."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jobs_core.testing.services.broker import BrokerService

from ..support.project import until
from ..support.proxy import Proxy
from .stage import LEASE, Row, SetUp, Stage
from .troubles import cut, flap, freeze_worker, in_turn, kill_worker, lose_packets, lose_reply_to, slow_down


class BrokerStage(Stage):
    """A broker of its own, reached through a proxy."""

    broker: BrokerService


Trouble = Callable[[BrokerStage], None]


@contextlib.contextmanager
def _broker(directory: Path, trouble: Trouble, failpoints: str = "", toml: str = "") -> Iterator[tuple[Stage, Trouble]]:
    """With `failpoints`, each broker dies of them, and is started again."""
    broker = BrokerService(directory / "broker", toml=toml)
    broker.revive(ever_after=failpoints) if failpoints else broker.start()
    try:
        with Proxy(broker.port) as proxy:
            stage = BrokerStage(directory / "project", f"zmq+tcp://127.0.0.1:{proxy.port}")
            stage.broker, stage.proxy = broker, proxy
            with stage:
                yield stage, trouble
    finally:
        broker.stop()


def _row(act: Trouble, *, times: int = 1) -> Row:
    """A row whose trouble is an act, done so many times while jobs come."""
    return lambda directory, count: _broker(directory, in_turn(*[act] * times))


# -- the broker ------------------------------------------------------------------------------------


def kill_broker(stage: BrokerStage) -> None:
    stage.broker.kill()
    stage.broker.start()


def restart_broker(stage: BrokerStage) -> None:
    assert stage.broker.stop() == 0
    stage.broker.start()


def long_outage(stage: BrokerStage) -> None:
    """Ten leases."""
    stage.broker.kill()
    time.sleep(10 * LEASE)  # the outage itself
    stage.broker.start()


def stall_broker(stage: BrokerStage) -> None:
    """Stopped for two leases: it neither answers nor goes away."""
    stage.broker.signal(signal.SIGSTOP)
    time.sleep(2 * LEASE)  # the silence itself
    stage.broker.signal(signal.SIGCONT)


def endure_deaths(stage: BrokerStage) -> None:
    """Wait: the broker dies by itself, between commit and confirm."""
    before = stage.broker.starts
    until(lambda: stage.broker.starts >= before + 3 or stage.finished(), 60.0)


# -- the way to it ---------------------------------------------------------------------------------


def lose_reply(verb: bytes) -> Trouble:
    """The broker does what it was asked, and nobody is told."""
    return lose_reply_to(b"\x05" + b"jobs1" + b"\x01" + bytes([len(verb)]) + verb)


ROWS: dict[str, Row] = {
    "workers killed": _row(kill_worker, times=8),
    "worker frozen for two leases": _row(freeze_worker(2 * LEASE)),
    "broker killed": _row(kill_broker, times=5),
    "broker killed between commit and confirm, over and over": lambda directory, count: _broker(
        directory, in_turn(*[endure_deaths] * 3), "broker.after_commit=kill@300"
    ),
    "broker restarted": _row(restart_broker, times=5),
    "outage of ten leases": _row(long_outage),
    "broker stalled for two leases": _row(stall_broker),
    "connections cut": _row(cut, times=10),
    "connections flapping": _row(flap),
    "replies to pushes lost": _row(lose_reply(b"push"), times=10),
    "replies to reserves lost": _row(lose_reply(b"reserve"), times=10),
    "replies to settlements lost": _row(lose_reply(b"settle"), times=10),
    "packets lost in silence": _row(lose_packets(3 * LEASE)),
    "100 ms and more each way": _row(slow_down),
}

SHORT: tuple[Trouble, ...] = (
    kill_worker, lose_reply(b"push"), kill_broker, lose_reply(b"reserve"), cut, lose_reply(b"settle"), restart_broker,
    kill_worker, slow_down, kill_broker,
)  # fmt: skip
"""What is over soon: `make test` does it all in one run."""


def everything_in_turn(directory: Path, count: int) -> SetUp:
    return _broker(directory, in_turn(*SHORT))


def broker_only(directory: Path, count: int) -> SetUp:
    """Nothing happens to workers: nothing may run twice."""
    replies = (lose_reply(b"push"), lose_reply(b"reserve"), lose_reply(b"settle"))
    return _broker(directory, in_turn(kill_broker, *replies, restart_broker, cut, kill_broker))
