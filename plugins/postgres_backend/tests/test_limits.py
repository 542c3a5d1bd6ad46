"""Jobs with limits at the same time: who waits for whom, and what a kill between two statements leaves."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from jobs_core.backends.base import Answer, BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.backends.limits import Limit, Lines
from jobs_core.ids import new_id, new_token
from jobs_postgres.backend import PostgresBackend
from jobs_postgres.rows import facts, token
from jobs_postgres.url import parse

T = "topic"


@pytest.fixture
def opened(postgres_url):
    backends = []

    def open_(owner=None):
        backend = PostgresBackend(parse(postgres_url, "jobs"), BackendOptions())
        backend.open(owner)
        backends.append(backend)
        return backend

    yield open_
    for backend in backends:
        backend.close()


def job(**fields):
    return Outgoing(new_id(), fields.pop("topic", T), b"{}", **fields)


def settle(worker, deliveries):
    return worker.settle([Settlement(each.id, each.token, Outcome.DONE) for each in deliveries], new_token())


def test_a_transaction_that_stays_open_holds_nobody_up(opened, postgres_server, schema):
    producer, worker = opened(), opened(new_token())
    producer.define_limits({"a": Limit(concurrency=1)}, {"fair": Lines(fair=True, max_per_key=1)})
    jobs = [job(limits=("a",)), job(topic="fair", key="k")]
    with psycopg.connect(postgres_server.url) as connection:
        push = f'SELECT "{schema}".push(NULL, %s, %s, %s, %s, false, 60)'.encode()
        connection.execute(push, facts(jobs))
        for topic, fields in ((T, {"limits": ("a",)}), ("fair", {"key": "k"})):
            producer.push([job(topic=topic, **fields)], new_token())
            held = worker.reserve([topic], 9, new_token())
            assert len(held) == 1
            assert settle(worker, held) == [Answer.SETTLED]
    assert {each.id for each in worker.reserve([T, "fair"], 9, new_token())} == {each.id for each in jobs}


def test_other_jobs_do_not_wait_for_the_lock_of_lines(opened, postgres_server, schema):
    producer, worker = opened(), opened(new_token())
    producer.push([job(limits=("a",))], new_token())
    with psycopg.connect(postgres_server.url) as connection:
        connection.execute(f'SELECT "{schema}".lock_lines()'.encode())
        plain = [job(topic="plain"), job(topic="plain", key="k")]
        producer.push(plain, new_token())
        held = worker.reserve(["plain"], 9, new_token())
        assert {each.id for each in held} == {each.id for each in plain}
        assert settle(worker, held) == [Answer.SETTLED] * 2


def test_a_slot_is_free_although_the_worker_was_killed_before_it_could_say_so(opened):
    producer, worker, other = opened(), opened(new_token()), opened(new_token())
    producer.define_limits({"a": Limit(concurrency=1)}, {})
    producer.push([job(limits=("a",)), job(limits=("a",))], new_token())
    (held,) = worker.reserve([T], 9, new_token())
    assert other.reserve([T], 9, new_token()) == []
    seq, request = token(held.token)
    answers = worker._connection.function("settle_holding", worker._owner, new_token(), "", False, [seq], [request], [True])
    assert answers == "s"
    assert other.wait([T], 60)
    assert len(other.reserve([T], 9, new_token())) == 1


def test_steps_at_the_same_time_lose_no_job_and_exceed_no_limit(opened):
    """Of jobs with two limits each, in any order, in two topics, of which one is fair."""
    producer = opened()
    producer.define_limits({"a": Limit(concurrency=2), "b": Limit(concurrency=3)}, {"fair": Lines(fair=True, max_per_key=2)})
    producers = [opened() for _ in range(2)]
    workers = [opened(new_token()) for _ in range(4)]
    left, lock = 240, threading.Lock()
    running, most = Counter(), Counter()

    def push(backend, number):
        for n in range(60):
            limits = (f"a:{n % 3}", f"b:{n % 2}") if n % 4 else ()
            topic, key = ("fair", f"k{n % 5}") if n % 2 else (T, "")
            backend.push([job(topic=topic, key=key, limits=limits), job(topic=topic)], new_token())

    def work(worker):
        nonlocal left
        deadline = time.monotonic() + 240
        while left > 0 and time.monotonic() < deadline:
            taken = worker.reserve([T, "fair"], 5, new_token())
            with lock:
                for each in taken:
                    counted = [*each.limits, *([f"key:{each.key}"] if each.topic == "fair" else [])]
                    running.update(counted)
                    most.update({name: running[name] - most[name] for name in counted if running[name] > most[name]})
            time.sleep(0.001)  # the work itself
            with lock:
                for each in taken:
                    running.subtract([*each.limits, *([f"key:{each.key}"] if each.topic == "fair" else [])])
            assert Answer.STALE not in settle(worker, taken)
            with lock:
                left -= len(taken)
            if not taken:
                worker.wait([T, "fair"], 0.2)

    with ThreadPoolExecutor(6) as threads:
        futures = [threads.submit(push, *each) for each in zip(producers, range(2), strict=True)]
        futures += [threads.submit(work, worker) for worker in workers]
        for future in futures:
            future.result()
    assert left == 0
    assert all(count <= (3 if name.startswith("b") else 2) for name, count in most.items()), most
    producer.housekeep(100)
    assert not [state for state in producer.limits(100) if state.used or state.waiting]
