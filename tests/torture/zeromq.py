"""The rows for the ZeroMQ broker: faults of the broker, the network, its workers and its disk."""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jobs_core.testing.services.broker import BrokerService

from ..support.project import until
from ..support.proxy import Proxy
from . import flows, limits
from .stage import LEASE, Row, SetUp, Stage
from .supervised import Supervision
from .troubles import (
    cut,
    flap,
    freeze_worker,
    in_turn,
    kill_busy_workers,
    kill_worker,
    lose_packets,
    lose_reply_to,
    slow_down,
)

AT_ONCE_IN_A_WORKER = 5000


class BrokerStage(Stage):
    """A private broker, reached through a proxy."""

    broker: BrokerService


Trouble = Callable[[BrokerStage], None]


@contextlib.contextmanager
def _broker(directory: Path, trouble: Trouble, failpoints: str = "", toml: str = "") -> Iterator[tuple[Stage, Trouble]]:
    """Yield a broker; with `failpoints`, each broker dies at them, and the next is started."""
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


@contextlib.contextmanager
def many_at_once_killed(directory: Path, count: int) -> Iterator[tuple[Stage, Trouble]]:
    """Kill workers with thousands of async jobs under way."""
    some = min(AT_ONCE_IN_A_WORKER, count // 4)
    options = ("--mode", "async", "--concurrency", str(AT_ONCE_IN_A_WORKER))
    broker = BrokerService(directory / "broker")
    broker.start()
    try:
        with Stage(directory / "project", broker.url, options=options, job="awork", seconds=3.0) as stage:
            yield stage, kill_busy_workers(some)
    finally:
        broker.stop()


def _row(act: Trouble, *, times: int = 1) -> Row:
    """Return a row with an act as its fault, done this many times while jobs arrive."""
    return lambda directory, count: _broker(directory, in_turn(*[act] * times))


# -- the broker ------------------------------------------------------------------------------------


def kill_broker(stage: BrokerStage) -> None:
    stage.broker.kill()
    stage.broker.start()


def restart_broker(stage: BrokerStage) -> None:
    assert stage.broker.stop() == 0
    stage.broker.start()


def long_outage(stage: BrokerStage) -> None:
    """Refuse all connections for ten leases."""
    stage.broker.kill()
    time.sleep(10 * LEASE)  # the outage itself
    stage.broker.start()


def stall_broker(stage: BrokerStage) -> None:
    """Stop the broker for two leases: it neither answers nor disappears."""
    stage.broker.signal(signal.SIGSTOP)
    time.sleep(2 * LEASE)  # the silence itself
    stage.broker.signal(signal.SIGCONT)


def endure_deaths(stage: BrokerStage) -> None:
    """Wait: the broker dies by itself, between commit and confirm."""
    before = stage.broker.starts
    until(lambda: stage.broker.starts >= before + 3 or stage.finished(), 60.0)


def fill_disk(stage: BrokerStage) -> None:
    """Let no file of the broker grow: its writes fail; then let them grow again."""
    told = stage.told()
    resource.prlimit(stage.broker.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    stage.until_told("disk I/O error", told)
    resource.prlimit(stage.broker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def exhaust_descriptors(stage: BrokerStage) -> None:
    """Exhaust its descriptors for two leases: clients lose their connections, and no new one is accepted."""
    _, most = resource.prlimit(stage.broker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(stage.broker.pid, resource.RLIMIT_NOFILE, (8, most))  # it has more open already
    stage.proxy.cut()
    time.sleep(2 * LEASE)  # the shortage itself
    resource.prlimit(stage.broker.pid, resource.RLIMIT_NOFILE, (most, most))


# -- the way to it ---------------------------------------------------------------------------------


def lose_reply(verb: bytes) -> Trouble:
    """Lose a reply: the broker has done what it was asked."""
    return lose_reply_to(b"\x05" + b"jobs1" + b"\x01" + bytes([len(verb)]) + verb)


DEATHS = ",".join(f"broker.{request}.after_commit=kill@1500" for request in ("reserve", "settle", "push", "push_part"))
"""Fail points at which each broker under supervisors dies by itself: the change is committed, and not confirmed."""


@contextlib.contextmanager
def supervised(kind: type[Supervision], directory: Path, toml: str) -> Iterator[Supervision]:
    """Yield machines that share a broker, which is started again whenever it dies."""
    broker = BrokerService(directory / "broker")
    broker.revive(ever_after=DEATHS)

    def kill() -> None:
        before = broker.starts
        broker.signal(signal.SIGKILL)
        until(lambda: broker.starts > before)

    try:
        with kind(directory / "machines", broker.url, toml=toml, kill_broker=kill) as stage:
            yield stage
    finally:
        broker.stop()


ROWS: dict[str, Row] = {
    "workers killed": _row(kill_worker, times=8),
    "workers killed, each with 5,000 jobs": many_at_once_killed,
    "worker frozen for two leases": _row(freeze_worker(2 * LEASE)),
    "broker killed": _row(kill_broker, times=5),
    "broker killed between commit and confirm, over and over": lambda directory, count: _broker(
        directory, in_turn(*[endure_deaths] * 3), "broker.after_commit=kill@300"
    ),
    "broker restarted": _row(restart_broker, times=5),
    "outage of ten leases": _row(long_outage),
    "broker stalled for two leases": _row(stall_broker),
    "disk full": _row(fill_disk, times=3),
    "broker out of descriptors": _row(exhaust_descriptors),
    "connections cut": _row(cut, times=10),
    "connections flapping": _row(flap),
    "replies to pushes lost": _row(lose_reply(b"push"), times=10),
    "replies to reserves lost": _row(lose_reply(b"reserve"), times=10),
    "replies to settlements lost": _row(lose_reply(b"settle"), times=10),
    "packets lost in silence": _row(lose_packets(3 * LEASE)),
    "100 ms and more each way": _row(slow_down),
    "1,000 limits, every process killed": limits.row(supervised),
    "10,000 flows, every process killed": flows.row(supervised),
}

SHORT: tuple[Trouble, ...] = (
    kill_worker, lose_reply(b"push"), kill_broker, lose_reply(b"reserve"), cut, lose_reply(b"settle"), restart_broker,
    kill_worker, slow_down, kill_broker,
)  # fmt: skip
"""Short rows: `make test` runs them all in one go."""


def everything_in_turn(directory: Path, count: int) -> SetUp:
    return _broker(directory, in_turn(*SHORT))


def broker_only(directory: Path, count: int) -> SetUp:
    """Cause a fault of the broker alone: no worker is affected, so no job may run twice."""
    replies = (lose_reply(b"push"), lose_reply(b"reserve"), lose_reply(b"settle"))
    return _broker(directory, in_turn(kill_broker, *replies, restart_broker, cut, kill_broker))
