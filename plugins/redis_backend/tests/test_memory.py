"""The keys that jobs leave in a Redis once they are gone, and the cost of jobs while they exist."""

from __future__ import annotations

import os
import time

import pytest

from jobs_core.backends.base import BackendOptions, Delivery, Outcome, Outgoing, Retention, Settlement, State
from jobs_core.ids import new_id, new_token
from jobs_core.message import UniqueKey
from jobs_core.testing.services.redis import RedisServer
from jobs_redis.backend import RedisBackend
from jobs_redis.transport.connection import ServerConnection, connector
from jobs_redis.url import parse

pytestmark = pytest.mark.timeout(300)

JOBS = int(os.environ.get("JOBS_MEMORY_JOBS", "20000"))  # `make torture` passes 100,000
BATCH = 1000
PAYLOAD = b'{"v":1,"topic":"email","job":"shop.send_email","args":["a@example.com"],"kwargs":{"subject":"hello"}}' * 2
MOMENT = 0.2
"""Seconds for which Redis remembers what it remembers for a time."""


@pytest.fixture
def server(tmp_path):
    with RedisServer(tmp_path / "redis", "--appendfsync", "no") as server:
        yield server


@pytest.fixture
def backend(server):
    options = BackendOptions(dedup_window=MOMENT, cancelled_ttl=MOMENT, retention=lambda topic: Retention(dead_keep=MOMENT))
    made = RedisBackend(parse(f"redis://127.0.0.1:{server.port}"), options)
    made.open("worker")
    yield made
    made.close()


def sent(number: int) -> Outgoing:
    """Push jobs of every kind that stores something besides itself, and many that do not."""
    unique = {
        3: UniqueKey(f"key-{number}", "done", "drop"),
        4: UniqueKey(f"key-{number}", "queued", "drop"),
        5: UniqueKey(f"key-{number}", MOMENT, "drop"),
        6: UniqueKey(f"key-{number // 100}", "done", "replace"),
    }.get(number % 10)
    return Outgoing(new_id(), f"topic-{number % 3}", PAYLOAD, number % 10, MOMENT if number % 10 == 7 else 0.0, unique)


def ended(number: int, delivery: Delivery) -> Settlement:
    """End jobs in every way."""
    outcomes = {
        0: {"outcome": Outcome.DEAD, "reason": "failed", "error": b'{"type":"ValueError"}'},
        1: {"outcome": Outcome.RETRY, "error": b'{"type":"ValueError"}'} if delivery.attempt < 2 else {"outcome": Outcome.DONE},
        2: {"outcome": Outcome.DONE, "result": b"1", "result_ttl": MOMENT},
        3: {"outcome": Outcome.EXPIRED},
        4: {"outcome": Outcome.CANCELLED, "result_ttl": MOMENT},
        5: {"outcome": Outcome.DEFER} if not delivery.deferrals else {"outcome": Outcome.DONE},
        6: {"outcome": Outcome.DONE, "followups": (sent(0),)} if delivery.attempt < 1 else {"outcome": Outcome.DONE},
    }
    return Settlement(delivery.id, delivery.token, **outcomes.get(number % 40, {"outcome": Outcome.DONE}))


def used(server: RedisServer) -> int:
    """Return the used bytes, except for those that wait to be written to the append-only file."""
    facts = dict(line.split(":", 1) for line in server.text("INFO", "memory").splitlines() if ":" in line)
    return int(facts["used_memory"]) - int(facts.get("mem_aof_buffer", 0))


def keys(server: RedisServer) -> dict[str, int]:
    """Return every key, and the seconds after which it expires; -1 for never."""
    connection = ServerConnection(connector(parse(f"redis://127.0.0.1:{server.port}")), "here")
    try:
        return {key.decode(): connection.call("TTL", key) for key in connection.call("KEYS", "*")}
    finally:
        connection.disconnect()


def lasting(server: RedisServer) -> set[str]:
    return {key for key, seconds in keys(server).items() if seconds == -1}


def test_nothing_is_left_of_jobs_that_came_and_went(server, backend):
    topics = [f"topic-{n}" for n in range(3)]
    before = used(server)
    number = 0
    for first in range(0, JOBS, BATCH):
        jobs = [sent(n) for n in range(first, first + BATCH)]
        backend.push(jobs, new_token())
        backend.cancel(jobs[10].id)
        backend.fetch_result(jobs[0].id, 0.0)  # a client follows it, and disconnects
        for delivery in (deliveries := backend.reserve(topics, BATCH, new_token())):
            number += 1
            if delivery.id == jobs[20].id:
                backend.cancel(delivery.id)  # while it runs
        backend.settle([ended(number + n, delivery) for n, delivery in enumerate(deliveries)], new_token())
    deadline = time.monotonic() + 60.0
    while any(counts.ready + counts.scheduled + counts.dead for counts in backend.counts(topics).values()):
        backend.housekeep(10_000)
        rest = backend.reserve(topics, BATCH, new_token())
        backend.settle([Settlement(one.id, one.token, Outcome.DONE) for one in rest], new_token())
        assert time.monotonic() < deadline, backend.counts(topics)
    assert number > JOBS / 2
    counters = {"{jobs}:pushed", "{jobs}:refused"}  # a number a topic
    while (left := lasting(server)) - {"{jobs}:meta", "{jobs}:owners", "{jobs}:owner:worker", *counters}:
        backend.housekeep(10_000)
        assert time.monotonic() < deadline, left
    backend.close()
    assert lasting(server) - counters == {"{jobs}:meta"}
    assert max(keys(server).values()) <= 60
    assert used(server) - before < 2_000_000


def test_a_queued_job_costs_the_memory_that_the_page_on_backends_states(server, backend):
    before = used(server)
    count = 20_000
    for _ in range(0, count, BATCH):
        backend.push([Outgoing(new_id(), "email", PAYLOAD) for _ in range(BATCH)], new_token())
    deadline = time.monotonic() + 60.0
    while any(key.startswith("{jobs}:request:") for key in keys(server)):
        assert time.monotonic() < deadline
    assert 100 < (used(server) - before) / count - len(PAYLOAD) < 400
    assert backend.purge("email", State.READY) == count
