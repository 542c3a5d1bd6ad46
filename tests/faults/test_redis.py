"""Faults of a Redis server, the network and the workers, while jobs run.

The same rows with 100,000 jobs each are `make torture`.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs_core.errors import QueueFull
from jobs_core.testing.services import free_port, program

from ..support.outages import assert_nothing_ran_twice, assert_work_continues, assert_work_continues_after_flapping
from ..support.proxy import Proxy
from ..support.stopwatch import Stopwatch
from ..support.supervised import Supervised
from ..torture import redis as rows
from ..torture.stage import endure

pytestmark = pytest.mark.timeout(300)  # thousands of jobs through faults: slow on a busy machine

JOBS = 5000
DOCS = Path(__file__).parents[2] / "docs"


SLACK = 2.0
"""Seconds that a busy machine may add to a measured time."""


@pytest.fixture
def redis_project(project, server):
    project.configure('lease = "1s"', backend=f'backend = "redis://127.0.0.1:{server.port}"')
    return project


# -- counted ---------------------------------------------------------------------------------------


def test_nothing_is_lost_by_whatever_happens_to_server_connections_and_workers(tmp_path):
    _, tally = endure(rows.everything_in_turn, tmp_path, JOBS)
    assert tally.acknowledged == JOBS


def test_a_full_server_refuses_producers_by_name_while_workers_continue(tmp_path):
    stage, _ = endure(rows.full, tmp_path, JOBS)
    assert {type(error) for error in stage.producer.errors} == {QueueFull}
    assert "maxmemory" in str(stage.producer.errors[0])


def test_nothing_is_lost_when_master_and_replica_change_places(tmp_path):
    endure(rows.handed_over, tmp_path, JOBS)


def test_nothing_is_lost_by_a_failover_of_sentinels(tmp_path):
    endure(rows.failover, tmp_path, JOBS)


def test_nothing_is_lost_when_slots_of_a_cluster_move_and_a_node_crashes_and_restarts(tmp_path):
    endure(rows.cluster_in_trouble, tmp_path, JOBS)


# -- one by one ------------------------------------------------------------------------------------


def test_an_outage_of_ten_leases_runs_nothing_twice(redis_project, server):
    project = redis_project
    project.configure('lease = "2s"', backend=f'backend = "redis://127.0.0.1:{server.port}"')
    workers = [project.worker("--mode", mode, "--concurrency", "3") for mode in ("async", "sync")]
    naps = [(nap, (seconds, f"{nap}{seconds}"), {}) for nap in ("nap", "anap") for seconds in (4.0, 22.0)]
    project.push_many(naps)
    project.until(lambda: sum(line.startswith("start") for line in project.ledger()) == len(naps))
    server.kill()
    for worker in workers:
        worker.until_said("cannot be reached")
    time.sleep(20.0)  # the outage lasts for ten leases
    server.start()
    assert_work_continues(project)
    assert_nothing_ran_twice(project, workers)
    for worker in workers:
        assert "continuing as" not in worker.output


def test_a_connection_that_fell_silent_is_noticed_within_10_s(project, server):
    with Proxy(server.port) as proxy:
        project.configure(backend=f'backend = "redis://127.0.0.1:{proxy.port}"')  # the usual lease
        worker = project.worker()
        project.push("note", "before")
        project.until_noted("note before")
        project.until_empty()
        proxy.black_hole()
        watch = Stopwatch()
        worker.until_said("does not answer in time")
        assert watch.stop() <= 10.0 + SLACK
        proxy.heal()
        project.push("note", "after")
        project.until_noted("note after")


def test_consumption_continues_within_3_s_of_a_flapping_connection(redis_project, server):
    project = redis_project
    with Proxy(server.port) as proxy:
        assert_work_continues_after_flapping(project, proxy, f"redis://127.0.0.1:{proxy.port}")


def test_an_idle_worker_costs_less_than_two_commands_a_second(redis_project, server):
    project = redis_project
    project.configure(backend=f'backend = "redis://127.0.0.1:{server.port}"')  # the usual lease
    project.worker()
    project.push("note", "warm")
    project.until_noted("note warm")
    project.until_empty()
    seconds = 6.0  # the test measures idleness
    commands = server.monitor(seconds)
    assert len(commands) / seconds < 2.0, commands


def test_a_hanging_script_of_others_and_a_master_that_is_lost_are_waited_out(redis_project, server):
    project = redis_project
    worker = project.worker()
    server.command("CONFIG", "SET", "lua-time-limit", "50")
    with ThreadPoolExecutor() as other:
        hangs = other.submit(server.command, "EVAL", "while true do end", "0")
        worker.until_said("(BUSY)")
        assert server.command("SCRIPT", "KILL") == b"+OK"
        assert b"killed" in hangs.result()
    project.push("note", "after a script")
    project.until_noted("note after a script")
    server.command("CONFIG", "SET", "replica-serve-stale-data", "no")
    server.command("REPLICAOF", "127.0.0.1", str(free_port()))
    worker.until_said("(MASTERDOWN)")
    server.command("REPLICAOF", "NO", "ONE")
    project.push("note", "after a failover")
    project.until_noted("note after a failover")
    assert worker.stop() == 0


def test_a_worker_continues_after_all_its_data_was_deleted(redis_project, server):
    project = redis_project
    worker = project.worker()
    project.push("note", "before")
    project.until_noted("note before")
    server.command("FLUSHALL")
    worker.until_said("continuing as")
    project.push("note", "after")
    project.until_noted("note after")


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
    large = json.dumps({"v": 1, "topic": "default", "job": "tasks.note", "args": ["x" * 2_000_000]})
    server.command("RPUSH", "{jobs}:in:default", large)
    project.until(lambda: any(b"max_message is" in error for record in project.dead() for error in record.errors))
    rpush(json.dumps({"v": 1, "topic": "default", "job": "tasks.note", "args": ["late"], "delay": 60, "id": "mine"}))
    project.until(lambda: project.app().operate(lambda b: b.get("mine")))
    assert "note late" not in project.ledger()
    assert worker.stop() == 0


def test_a_job_overwritten_by_another_program_becomes_a_dead_letter_and_harms_no_other(redis_project, server):
    project = redis_project
    jobs = [project.push("note", f"{n}") for n in range(5)]
    for number, record in ((1, "garbage"), (2, "17 0 7 0 n|default{"), (3, "")):
        server.command("HSET", "{jobs}:job", jobs[number], record)
    worker = project.worker()
    project.until_noted("note 0", "note 4")
    project.until_empty()
    dead = {record.id: record.payload for record in project.dead()}
    assert dead == {jobs[1]: b"garbage", jobs[2]: b"{", jobs[3]: b""}
    assert worker.stop() == 0


def test_a_job_by_rpush_starts_at_once(redis_project, server):
    project = redis_project
    project.worker()
    project.push("note", "warm")
    project.until_noted("note warm")
    project.until_empty()
    watch = Stopwatch()
    envelope = json.dumps({"v": 1, "topic": "default", "job": "tasks.note", "args": ["now"]})
    server.command("RPUSH", "{jobs}:in:default", envelope)
    project.until_noted("note now")
    assert watch.stop() < 1.0


def test_a_password_appears_in_no_log_process_list_or_file_of_ours(project, server):
    secret = shown = "ge/h#e?i@m:!"  # unquoted: users need not know what a URL wants quoted

    def let_in():  # as the user that the page on backends proposes
        for line in re.findall(r"^ACL SETUSER jobs .*$", (DOCS / "backends.md").read_text(), re.MULTILINE):
            assert server.command(*line.replace("PASSWORD", secret).split()) == b"+OK"

    let_in()
    url = f"redis://jobs:{shown}@127.0.0.1:{server.port}"
    project.configure('lease = "1s"\nenqueue_timeout = "0.1s"', backend=f'backend = "{url}"')
    supervised = Supervised(project)
    project.push("note", "before")
    project.until_noted("note before")
    seen = [Path(f"/proc/{pid}/cmdline").read_text() for pid in (supervised.pid, *supervised.children())]
    server.kill()
    supervised.process.until_said("cannot be reached")
    for words in ("check", "check --show", "check --show --json", "status", "status --json", "topics", "push tasks.note"):
        said = project.run(*words.split())
        seen += [said.stdout, said.stderr]
    server.start()  # which has forgotten the user
    supervised.process.until_said("wrong user or password")
    let_in()
    project.push("note", "after")
    project.until_noted("note after")
    assert supervised.stop() == 0
    seen += [file.read_bytes().decode(errors="replace") for file in supervised.run_dir.rglob("*") if file.is_file()]
    seen.append(supervised.process.output)
    assert "127.0.0.1" in "".join(seen)
    assert [text for text in seen if secret in text or shown in text] == []
