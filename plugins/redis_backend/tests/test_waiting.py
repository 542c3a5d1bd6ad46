"""Waiting and reserving in one exchange: its cost, and the fate of jobs when it breaks in between."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.project import until
from tests.support.proxy import Proxy

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement, State
from jobs_core.errors import BackendUnavailable, OwnerLost
from jobs_core.plugins import Plugins
from jobs_core.testing.services import PATIENCE
from jobs_core.testing.services.redis import RedisServer

T = "t"


@pytest.fixture
def server(tmp_path):
    """A private server: its clients are counted."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def opened(server):
    made = []

    def opened(owner, port=server.port):
        url = f"redis://127.0.0.1:{port}"
        backend = Plugins.discover().choose("jobs_queue_backends", "redis", "backend")(url, BackendOptions())
        backend.open(owner)
        made.append(backend)
        return backend

    yield opened
    for backend in made:
        backend.close()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def push(producer, topic, *ids):
    producer.push([Outgoing(job_id, topic, b"{}") for job_id in ids], f"push {ids}")


def waiting(pool, server, worker, request, *, topics=(T,), limit=5):
    """Start a worker that waits to reserve; return once the server knows it."""
    before = blocked(server)
    future = pool.submit(worker.reserve_next, topics, limit, request, PATIENCE)
    until(lambda: blocked(server) > before)
    return future


def blocked(server):
    return int(server.fact("blocked_clients", "INFO", "clients"))


def calls(server):
    """Return how often clients and scripts have called each command so far."""
    lines = [line.partition(":calls=") for line in server.text("INFO", "commandstats").splitlines()]
    return {name.removeprefix("cmdstat_"): int(rest.split(",")[0]) for name, _, rest in lines if rest}


def test_a_job_costs_an_idle_worker_one_wait_and_two_scripts(pool, server, opened):
    producer, worker = opened(None), opened("worker")
    for n in range(3):  # the last one does no work for the first time
        before = calls(server)
        future = waiting(pool, server, worker, f"request {n}")
        push(producer, T, f"job {n}")
        (delivery,) = future.result(PATIENCE)
        worker.settle([Settlement(delivery.id, delivery.token, Outcome.DONE)], f"settle {n}")
        after = calls(server)
    assert after["bzpopmin"] - before["bzpopmin"] == 1
    assert after["evalsha"] - before["evalsha"] == 3  # the producer's is the third


def test_a_job_lost_on_the_way_to_a_waiting_worker_is_returned_to_a_repeated_request(pool, server, opened):
    with Proxy(server.port) as proxy:
        producer, worker = opened(None), opened("worker", proxy.port)
        worker.reserve([T], 5, "so that the server knows the script")
        future = waiting(pool, server, worker, "the-request")
        proxy.black_hole()  # the server answers, and no client hears it
        push(producer, T, "a", "b")
        until(lambda: producer.counts([T])[T].reserved == 2)
        proxy.heal()
        with pytest.raises(BackendUnavailable):
            future.result(PATIENCE)

        def again():
            with contextlib.suppress(BackendUnavailable):  # its other connection was reset, too
                return worker.reserve([T], 5, "the-request")

        assert [delivery.id for delivery in until(again)] == ["a", "b"]


def test_nothing_is_reserved_for_a_worker_whose_connection_is_gone(pool, server, opened):
    with Proxy(server.port) as proxy:
        producer, worker = opened(None), opened("worker", proxy.port)
        future = waiting(pool, server, worker, "the-request")
        proxy.refuse()
        with pytest.raises(BackendUnavailable):
            future.result(PATIENCE)
        until(lambda: blocked(server) == 0)
        push(producer, T, "a")
        assert producer.counts([T])[T].ready == 1
        assert [delivery.id for delivery in opened("another").reserve_next([T], 5, "request", PATIENCE)] == ["a"]


def test_a_server_that_has_forgotten_the_script_meanwhile_is_taught_it(pool, server, opened):
    producer, worker = opened(None), opened("worker")
    future = waiting(pool, server, worker, "the-request")
    server.command("SCRIPT", "FLUSH")
    push(producer, T, "a")
    assert [delivery.id for delivery in future.result(PATIENCE)] == ["a"]


def test_an_owner_that_was_released_while_it_waited_is_notified(pool, server, opened):
    producer, worker = opened(None), opened("worker")
    future = waiting(pool, server, worker, "the-request")
    producer.release_owner("worker", (), b"")
    push(producer, T, "a")
    with pytest.raises(OwnerLost):
        future.result(PATIENCE)
    assert producer.counts([T])[T].ready == 1


def test_a_wake_token_for_a_topic_that_it_had_no_room_for_is_handed_on(pool, server, opened):
    producer, full, idle = opened(None), opened("full"), opened("idle")
    future = waiting(pool, server, full, "one", topics=("first", "second"), limit=1)
    other = waiting(pool, server, idle, "two", topics=("second",))
    server.command("ZADD", "{jobs}:ready:first", "0", "a")  # without a token: as if its receiver had died with it
    server.command("HSET", "{jobs}:job", "a", "1 0 5 0 n|first{}")
    push(producer, "second", "b")
    assert [delivery.id for delivery in future.result(PATIENCE)] == ["a"]
    full.wait((), 0.01)
    assert [delivery.id for delivery in other.result(PATIENCE)] == ["b"]


def test_single_pushes_equal_one_push_of_all(opened):
    producer = opened(None)
    one, other = (Outgoing(f"job {n}", "tøpic", b'{"v":1}', priority=7) for n in range(2))
    producer.push([one], "one")
    producer.push([other, Outgoing("job 2", "another", b"{}")], "two")
    first, second = producer.browse("tøpic", State.READY, 5)
    assert (first.id, first.topic, first.priority, first.payload) == ("job 0", "tøpic", 7, b'{"v":1}')
    assert (second.id, second.topic, second.priority, second.payload) == ("job 1", "tøpic", 7, b'{"v":1}')
    assert 0 < first.pushed_at <= second.pushed_at


@pytest.mark.parametrize("together", [1, 2])
def test_a_topic_is_known_from_its_first_push_on_and_from_the_first_after_it_was_forgotten(server, opened, together):
    producer, worker = opened(None), opened("worker")
    producer.resume(T)  # leaves a wake token
    for name in "ab":
        push(producer, T, *(f"{name}{n}" for n in range(together)))
        assert worker.topics() == [T]
        for delivery in worker.reserve([T], together, name):  # no token is left, but that is not noticed: the token stays
            worker.settle([Settlement(delivery.id, delivery.token, Outcome.DONE)], delivery.id)
        worker.housekeep(10)
        worker.housekeep(10)
        assert worker.topics() == []
        assert server.command("EXISTS", f"{{jobs}}:wake:{T}") == b":0"


@pytest.mark.parametrize("together", [1, 2])
def test_a_paused_topic_has_no_wake_token(server, opened, together):
    producer = opened(None)
    producer.pause(T)
    push(producer, T, *map(str, range(together)))
    assert server.command("EXISTS", f"{{jobs}}:wake:{T}") == b":0"
    assert T in producer.topics()
    producer.resume(T)
    assert server.command("EXISTS", f"{{jobs}}:wake:{T}") == b":1"
