"""What may happen to a Redis server, the way to it and its workers, while jobs run through it.

The same rows with 100,000 jobs each are `make torture`.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter

import pytest

from jobs_core.errors import QueueFull
from jobs_core.testing.services import program
from jobs_core.testing.services.redis import RedisServer

from ..torture import redis as rows


def endure(row, tmp_path, count):
    """Run a row; nothing may be lost, and nothing run that nobody sent. Returns the stage and its tally."""
    with row(tmp_path, count) as (stage, trouble):
        tally = stage.run(trouble, count)
        print(tally)
        assert tally.attempted == count
        assert (tally.lost, tally.unexpected) == (0, 0), str(tally)
        return stage, tally


@pytest.fixture
def server(tmp_path):
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def redis_project(project, server):
    project.configure('lease = "1s"', backend=f'backend = "redis://127.0.0.1:{server.port}"')
    return project


# -- counted ---------------------------------------------------------------------------------------


def test_nothing_is_lost_by_whatever_happens_to_server_connections_and_workers(tmp_path):
    _, tally = endure(rows.everything_in_turn, tmp_path, 5000)
    assert tally.acknowledged == 5000


def test_nothing_is_lost_by_a_server_that_stalls_and_a_network_that_swallows(tmp_path):
    _, tally = endure(rows.silence, tmp_path, 400)
    assert tally.acknowledged == 400


def test_a_full_server_refuses_producers_by_name_while_workers_go_on(tmp_path):
    stage, _ = endure(rows.full, tmp_path, 400)
    assert {type(error) for error in stage.producer.errors} == {QueueFull}
    assert "maxmemory" in str(stage.producer.errors[0])


def test_nothing_is_lost_by_a_failover_of_sentinels(tmp_path):
    endure(rows.failover, tmp_path, 400)


def test_nothing_is_lost_by_nodes_of_a_cluster_that_die_and_come_back(tmp_path):
    endure(rows.cluster_nodes_killed, tmp_path, 400)


# -- one by one ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_outage_of_ten_leases_runs_nothing_twice(redis_project, server, mode):
    project = redis_project
    project.configure('lease = "500ms"', backend=f'backend = "redis://127.0.0.1:{server.port}"')
    nap = "anap" if mode == "async" else "nap"
    workers = [project.worker("--mode", mode, "--concurrency", "3") for _ in range(2)]
    project.push_many([(nap, (2.0, "before0"), {}), (nap, (7.0, "through0"), {})])
    project.until(lambda: sum(line.startswith("start") for line in project.ledger()) == 2)
    server.kill()
    for worker in workers:
        worker.until_said("cannot be reached")
    time.sleep(5.0)  # ten leases: the outage itself
    server.start()
    begin = time.monotonic()
    project.push("note", "after")
    project.until_noted("note after")
    assert time.monotonic() - begin <= 3.0
    project.until_empty()
    starts = Counter(line.split()[1] for line in project.ledger() if line.startswith("start"))
    assert set(starts.values()) == {1}
    for worker in workers:
        worker.until_said("answers again")
        assert "elsewhere" not in worker.output


def test_consumption_goes_on_within_3_s_of_a_flapping_connection(redis_project, server):
    from ..support.proxy import Proxy

    project = redis_project
    with Proxy(server.port) as proxy:
        project.configure(backend=f'backend = "redis://127.0.0.1:{proxy.port}"')
        worker = project.worker()
        project.push("note", "before")
        project.until_noted("note before")
        for _ in range(20):
            proxy.cut()
            time.sleep(0.05)  # the pace of the flapping
        begin = time.monotonic()
        project.push("note", "after")
        project.until_noted("note after")
        assert time.monotonic() - begin <= 3.0
        assert worker.stop() == 0


def test_an_idle_worker_costs_less_than_two_commands_a_second(redis_project, server):
    project = redis_project
    project.configure(backend=f'backend = "redis://127.0.0.1:{server.port}"')  # the lease of everyday use
    project.worker()
    project.push("note", "warm")
    project.until_noted("note warm")
    before, begin = _commands(server), time.monotonic()
    time.sleep(10.0)  # idleness is what is measured
    asked = 2  # our own INFO, twice
    assert (_commands(server) - before - asked) / (time.monotonic() - begin) < 2.0


def _commands(server):
    """Commands of clients: what a script does is not counted by Redis as one of these, but as calls of its own."""
    lines = server.text("INFO", "commandstats").splitlines()
    calls = {line.split(":")[0]: int(line.split("calls=")[1].split(",")[0]) for line in lines if line.startswith("cmdstat_")}
    clients = ("evalsha", "eval", "bzpopmin", "blmove", "client|unblock", "client|id", "smembers", "lrange", "info", "ping")
    return sum(calls.get(f"cmdstat_{name}", 0) for name in clients)


def test_any_language_is_a_producer_by_a_plain_rpush(redis_project, server):
    project = redis_project
    project.configure('[topics.default]\ndefault_job = "tasks.note"', backend=f'backend = "redis://127.0.0.1:{server.port}"')
    worker = project.worker()
    project.push("note", "warm")
    project.until_noted("note warm")

    def rpush(text):
        client = [program("redis-cli", "redis-tools"), "-p", str(server.port), "RPUSH", "{jobs}:in:default", text]
        assert subprocess.run(client, capture_output=True, text=True, check=True).stdout.strip() == "1"

    rpush(json.dumps({"v": 1, "topic": "default", "job": "tasks.note", "args": ["from a shell"]}))
    project.until_noted("note from a shell")
    rpush('"plain"')
    project.until_noted("note plain")
    rpush("{ not JSON")
    project.until(lambda: [record.payload for record in project.dead()] == [b"{ not JSON"])
    rpush(json.dumps({"v": 1, "topic": "default", "job": "tasks.note", "args": ["late"], "delay": 60, "id": "mine"}))
    project.until(lambda: project.app().operate(lambda b: b.get("mine")))
    assert "note late" not in project.ledger()
    assert worker.stop() == 0


def test_a_job_by_rpush_starts_at_once(redis_project, server):
    project = redis_project
    project.worker()
    project.push("note", "warm")
    project.until_noted("note warm")
    time.sleep(0.5)  # idle
    begin = time.monotonic()
    envelope = json.dumps({"v": 1, "topic": "default", "job": "tasks.note", "args": ["now"]})
    server.command("RPUSH", "{jobs}:in:default", envelope)
    project.until_noted("note now")
    assert time.monotonic() - begin < 1.0
