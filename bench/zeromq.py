"""Scenarios of the ZeroMQ broker: beside the SQLite engine called directly, with the same batches, in turn."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jobs_core.backends.base import Backend, BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.backends.sqlite import SqliteBackend
from jobs_core.ids import new_id, new_token
from jobs_core.testing.services.broker import BrokerService

from .support import ROOT, application, percentile, workers

Rows = dict[str, float]

TOPIC = "bench"
PAYLOAD = (
    b'{"v":1,"id":"01920000-0000-7000-8000-000000000000","job":"shop.send_email","topic":"email","args":["a@b.c","hello"]}'
)
SIZES = {10: (20_000, 16), 100: (80_000, 8), 500: (120_000, 4)}
"""Jobs in a batch: jobs in all, and clients that push, reserve and settle such batches at the same time."""

CLIENT = """
import sys
from pathlib import Path
from bench.zeromq import batches, through
from jobs_core.backends.base import BackendOptions
from jobs_core.ids import new_token
from jobs_zeromq.backend import ZeromqBackend
url, batch, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jobs = batches(batch, count)
backend = ZeromqBackend(url, BackendOptions())
backend.open(new_token())
print("ready", flush=True)
sys.stdin.readline()
through(backend, jobs)
print("done", flush=True)
sys.stdin.readline()
backend.close()
"""


def batches(batch: int, count: int) -> list[list[Outgoing]]:
    """Jobs, made before the clock runs."""
    return [[Outgoing(new_id(), TOPIC, PAYLOAD) for _ in range(batch)] for _ in range(count // batch)]


def through(backend: Backend, jobs: list[list[Outgoing]]) -> None:
    """Push, reserve and settle, a batch a round."""
    for batch in jobs:
        backend.push(batch, new_token())
        deliveries = backend.reserve([TOPIC], len(batch), new_token())
        backend.settle([Settlement(one.id, one.token, Outcome.DONE) for one in deliveries], new_token())


def throughput() -> Rows:
    """Jobs pushed (durably), handed out and settled: the engine in this process, then clients through one broker."""
    rows: Rows = {}
    for batch, (count, clients) in SIZES.items():
        direct, broker = _direct(batch, count), _through_a_broker(batch, count, clients)
        rows[f"sqlite engine, {batch} at a time: jobs/s"] = direct
        rows[f"zeromq, {clients} clients, {batch} at a time: jobs/s"] = broker
        rows[f"zeromq to engine, {batch} at a time: ratio"] = broker / direct
    return rows


def _direct(batch: int, count: int) -> float:
    with tempfile.TemporaryDirectory(prefix="jobs-bench-") as directory:
        backend = SqliteBackend("sqlite:///queue.db", BackendOptions(base_dir=Path(directory)))
        backend.open(new_token())
        jobs = batches(batch, count)
        begin = time.perf_counter()
        through(backend, jobs)
        seconds = time.perf_counter() - begin
        backend.close()
    return count / seconds


def _through_a_broker(batch: int, count: int, clients: int) -> float:
    with tempfile.TemporaryDirectory(prefix="jobs-bench-") as directory:
        service = BrokerService(Path(directory))
        service.start()
        command = [sys.executable, "-c", CLIENT, service.url, str(batch), str(count // clients)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        started = [subprocess.Popen(command, **pipes) for _ in range(clients)]
        _hear(started)
        begin = time.perf_counter()
        _tell(started)
        _hear(started)
        seconds = time.perf_counter() - begin
        _tell(started)
        for client in started:
            client.communicate()
        service.stop()
    return count / seconds


def _hear(clients: list[subprocess.Popen[str]]) -> None:
    for client in clients:
        assert client.stdout
        assert client.stdout.readline(), "a client failed"


def _tell(clients: list[subprocess.Popen[str]]) -> None:
    for client in clients:
        assert client.stdin
        client.stdin.write("\n")
        client.stdin.flush()


def latency() -> Rows:
    """From enqueue to start, with one idle worker."""
    from . import jobs_to_run

    with tempfile.TemporaryDirectory(prefix="jobs-bench-") as directory:
        service = BrokerService(Path(directory))
        service.start()
        with application(service.url) as app, workers(app, 1):
            ledger = app.config.base_dir / "ledger"
            count = 300
            for _ in range(count):
                jobs_to_run.stamp.enqueue(time.time())
                time.sleep(0.005)
            while len(delays := ledger.read_text().split()) < count:
                time.sleep(0.01)
        service.stop()
    milliseconds = [float(delay) * 1e3 for delay in delays]
    return {
        "zeromq: enqueue to start, p50, ms": percentile(milliseconds, 0.50),
        "zeromq: enqueue to start, p99, ms": percentile(milliseconds, 0.99),
    }


SCENARIOS = {"zeromq": throughput, "zeromq-latency": latency}

GOALS: dict[str, tuple[str, float]] = {
    **{f"zeromq, {clients} clients, {batch} at a time: jobs/s": ("≥", 50_000) for batch, (_, clients) in SIZES.items()},
    **{f"zeromq to engine, {batch} at a time: ratio": ("≥", 0.6) for batch in SIZES},
    "zeromq: enqueue to start, p50, ms": ("≤", 1),
    "zeromq: enqueue to start, p99, ms": ("≤", 5),
}
