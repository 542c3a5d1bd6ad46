"""Scenarios of the ZeroMQ broker, in turn with the SQLite engine called directly, with the same batches."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jobs_core.backends.base import Backend, BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.backends.sqlite import SqliteBackend
from jobs_core.ids import new_id, new_token
from jobs_core.testing.services.broker import BrokerService
from jobs_zeromq.backend import ZeromqBackend

from .scenes import Rows, latency
from .support import ROOT, application, supervised
from .zeromq_clients import PAYLOAD, TOPIC

CLIENTS = "zeromq, 2 producers and 2 workers"
SIZES = {10: (100_000, 64), 100: (200_000, 8), 500: (200_000, 2)}
"""Jobs in a batch, jobs in all, and requests that each client has in flight."""

ENGINE, LOCK_STEP = 20_000, 5_000
"""Jobs for the engine called directly, and for one client that waits for every answer."""


def batches(batch: int, count: int) -> list[list[Outgoing]]:
    """Return batches of jobs, created before the clock runs."""
    return [[Outgoing(new_id(), TOPIC, PAYLOAD) for _ in range(batch)] for _ in range(count // batch)]


def through(backend: Backend, batch: int, count: int) -> float:
    """Push, reserve and settle, one batch a round; return jobs a second."""
    jobs = batches(batch, count)
    backend.open(new_token())
    begin = time.perf_counter()
    for some in jobs:
        backend.push(some, new_id())
        deliveries = backend.reserve([TOPIC], batch, new_token())
        backend.settle([Settlement(one.id, one.token, Outcome.DONE) for one in deliveries], new_token())
    seconds = time.perf_counter() - begin
    backend.close()
    return count / seconds


def throughput() -> Rows:
    """Measure durable push, reserve and settle: by the engine in this process, then by clients of one broker."""
    rows: Rows = {}
    for batch, (count, window) in SIZES.items():
        with tempfile.TemporaryDirectory(prefix="jobs-bench-") as directory:
            options = BackendOptions(base_dir=Path(directory))
            direct = through(SqliteBackend("sqlite:///queue.db", options), batch, max(ENGINE, count // 4))
        broker = _through_a_broker(batch, count, window)
        rows[f"sqlite engine, {batch} at a time: jobs/s"] = direct
        rows[f"{CLIENTS}, {batch} at a time: jobs/s"] = broker
        rows[f"zeromq to engine, {batch} at a time: ratio"] = broker / direct
    with _broker() as service:
        alone = through(ZeromqBackend(service.url, BackendOptions()), 10, LOCK_STEP)
    rows["zeromq, one client that waits for each answer, 10 at a time: jobs/s"] = alone
    return rows


def _through_a_broker(batch: int, count: int, window: int) -> float:
    """Run two producers and two workers with several requests in flight; return jobs a second until all are settled."""
    roles = ["producer", "producer", "workers", "workers"]
    with _broker() as service, contextlib.ExitStack() as stack:
        endpoint = service.url.removeprefix("zmq+")
        command = [sys.executable, "-m", "bench.zeromq_clients"]
        clients = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, role, endpoint, str(batch), str(window), str(count // 2)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                )
            )
            for role in roles
        ]
        for client in clients:
            assert client.stdout
            assert client.stdout.readline(), "a client failed"
        watch = ZeromqBackend(service.url, BackendOptions())
        watch.open(None)
        begin = time.perf_counter()
        for client in clients:
            assert client.stdin
            client.stdin.write("\n")
            client.stdin.flush()
        while watch.status().settled < count:
            assert not any(client.poll() for client in clients), "a client failed"
            time.sleep(0.01)
        seconds = time.perf_counter() - begin
        watch.close()
        for client in clients:
            client.communicate("\n")
    return count / seconds


@contextlib.contextmanager
def _broker() -> Iterator[BrokerService]:
    with tempfile.TemporaryDirectory(prefix="jobs-bench-") as directory:
        service = BrokerService(Path(directory))
        service.start()
        yield service
        service.stop()


def from_enqueue_to_start() -> Rows:
    """Measure the time from enqueue to start with one idle worker, which collects settlements for 10 ms."""
    with _broker() as service, application(service.url) as app, supervised(app, 1):
        return latency(app, "zeromq", 0.02)


SCENARIOS = {"zeromq": throughput, "zeromq-latency": from_enqueue_to_start}

GOALS: dict[str, tuple[str, float]] = {
    **{f"{CLIENTS}, {batch} at a time: jobs/s": ("≥", 50_000) for batch in SIZES},
    **{f"zeromq to engine, {batch} at a time: ratio": ("≥", 0.6) for batch in SIZES},
    "zeromq: enqueue to start, p50, ms": ("≤", 1),
    "zeromq: enqueue to start, p99, ms": ("≤", 5),
}
