"""Scenarios of jobs-redis: two workers on a server of their own, beside bare loops of the same Lua calls."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jobs_core import App
from jobs_core.backends.base import State
from jobs_core.testing.services.redis import RedisServer, cluster, urls

from .scenes import Rows, enqueue, latency, race, seconds
from .sharing import Sharing
from .support import application, supervised

JOBS = 100_000
ONE_BY_ONE = 4_000

BARE_DRAIN = """
import sys
from jobs_core.backends.base import BackendOptions, Outcome, Settlement
from jobs_core.ids import new_token
from jobs_redis.backend import RedisBackend
from jobs_redis.url import parse
backend = RedisBackend(parse(sys.argv[1]), BackendOptions())
backend.open(new_token())
print("ready", flush=True)
sys.stdin.readline()
while True:
    deliveries = backend.reserve(["default"], 500, new_token())
    if not deliveries:
        break
    backend.settle([Settlement(d.id, d.token, Outcome.DONE) for d in deliveries], new_token())
backend.close()
"""


@contextlib.contextmanager
def redis_application() -> Iterator[tuple[App, RedisServer]]:
    """Yield an application on a server whose append-only file is synced every second."""
    with (
        tempfile.TemporaryDirectory(prefix="jobs-bench-") as directory,
        RedisServer(Path(directory), "--appendfsync", "everysec") as server,
        application(f"redis://127.0.0.1:{server.port}/0") as app,
    ):
        yield app, server


def drain() -> Rows:
    """Measure no-op jobs through two workers, and through two bare loops of the same calls with the same payloads."""
    from . import jobs_to_run

    with redis_application() as (app, server):
        pushed = enqueue(jobs_to_run.noop, JOBS)
        app.operate(lambda backend: backend.pause("default"))
        with supervised(app, 2):
            begin = time.perf_counter()
            app.operate(lambda backend: backend.resume("default"))
            drained = _until_empty(server) - begin
        enqueue(jobs_to_run.noop, JOBS)
        bare = race(BARE_DRAIN, [app.backend_url], lambda: _until_empty(server))
        return {
            "redis: bulk push, jobs/s": JOBS / pushed,
            "redis, 2 workers: no-op jobs/s": JOBS / drained,
            "redis, 2 bare loops: jobs/s": JOBS / bare,
            "redis: workers to bare loops, ratio": bare / drained,
        }


def _until_empty(server: RedisServer) -> float:
    """Return the time at which no job is left."""
    while server.command("EXISTS", "{jobs}:job") != b":0":
        time.sleep(0.002)
    return time.perf_counter()


def _on_eight_threads(work: Callable[[], None]) -> float:
    """Return the seconds that eight threads take, each for all of `work`."""
    threads = [threading.Thread(target=work) for _ in range(8)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


def one_by_one() -> Rows:
    """Measure enqueueing one job at a time, beside bare loops of EVALSHA with the same script and the same payload.

    The bare loops use redis-py as its users do, and its bare connection, on which eight threads share round trips, too.
    """
    import redis

    from jobs_redis import scripts
    from jobs_redis.transport.connection import ServerConnection, connector
    from jobs_redis.url import parse

    from . import jobs_to_run

    with redis_application() as (app, _):
        connection, client = ServerConnection(connector(parse(app.backend_url)), "bare"), redis.Redis.from_url(app.backend_url)
        jobs_to_run.noop.enqueue()
        (waiting,) = app.operate(lambda backend: backend.browse("default", State.READY, 1))
        digest, payload = scripts.PUSH_ONE.digest.decode(), waiting.payload
        number = map(str, itertools.count())  # a repeated request would store nothing

        def bare() -> None:
            for _ in range(ONE_BY_ONE):
                client.evalsha(digest, 1, "{bare}", "", next(number), 60_000, "default", 0, next(number), payload)

        def naked() -> None:
            for _ in range(ONE_BY_ONE):
                connection.run(scripts.PUSH_ONE, "{bare}", "", next(number), 60_000, "default", 0, next(number), payload)

        def ours() -> None:
            for _ in range(ONE_BY_ONE):
                jobs_to_run.noop.enqueue()

        def together(count: int) -> None:
            messages = [value for _ in range(count) for value in (next(number), payload)]
            connection.run(scripts.PUSH_PLAIN, "{bare}", "", next(number), 60_000, "default", 0, count, *messages)

        sharing = Sharing(together)

        def shared_naked() -> None:
            for _ in range(ONE_BY_ONE):
                sharing.push()

        rates: dict[str, list[float]] = {name: [] for name in ("naked", "bare", "ours", "threads", "naked threads")}
        naked()
        for _ in range(3):
            rates["naked"].append(ONE_BY_ONE / seconds(naked))
            rates["bare"].append(ONE_BY_ONE / seconds(bare))
            rates["ours"].append(ONE_BY_ONE / seconds(ours))
            rates["threads"].append(8 * ONE_BY_ONE / _on_eight_threads(ours))
            rates["naked threads"].append(8 * ONE_BY_ONE / _on_eight_threads(shared_naked))
        connection.disconnect()
        client.close()
        naked_rate, bare_rate, rate, shared, shared_naked_rate = (sorted(values)[1] for values in rates.values())
        return {
            "redis: enqueue one by one, jobs/s": rate,
            "redis: bare EVALSHA loop, jobs/s": bare_rate,
            "redis: EVALSHA loop on a naked connection, jobs/s": naked_rate,
            "redis: enqueue to bare loop, ratio": rate / bare_rate,
            "redis: 8 threads on one producer, jobs/s": shared,
            "redis: 8 threads to one, ratio": shared / rate,
            "redis: 8 threads on a naked connection, jobs/s": shared_naked_rate,
            "redis: 8 threads to one on a naked connection, ratio": shared_naked_rate / naked_rate,
        }


def from_enqueue_to_start() -> Rows:
    """Measure the time from enqueue to start with two idle workers."""
    with redis_application() as (app, _), supervised(app, 2):
        return latency(app, "redis", 0.01)


def from_enqueue_to_start_on_a_cluster() -> Rows:
    """Measure the same on three masters, where a wait and its reserve are two round trips."""
    with tempfile.TemporaryDirectory(prefix="jobs-bench-") as directory:
        nodes = cluster(Path(directory))
        try:
            with application(f"redis+cluster://{urls(nodes)}") as app, supervised(app, 2):
                return latency(app, "redis cluster", 0.01)
        finally:
            for node in nodes:
                node.kill()


SCENARIOS: dict[str, Callable[[], Rows]] = {
    "redis-drain": drain,
    "redis-enqueue": one_by_one,
    "redis-latency": from_enqueue_to_start,
    "redis-cluster-latency": from_enqueue_to_start_on_a_cluster,
}

GOALS: dict[str, tuple[str, float]] = {
    "redis: workers to bare loops, ratio": ("≥", 0.5),
    "redis: enqueue to bare loop, ratio": ("≥", 0.9),
    "redis: 8 threads to one, ratio": ("≥", 3.0),
    "redis: enqueue to start, p50, ms": ("≤", 1.2),
    "redis: enqueue to start, p99, ms": ("≤", 2.9),
}
