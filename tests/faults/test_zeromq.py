"""Faults of a ZeroMQ broker, the network and the workers, while jobs run; faults of its machine are in the file beside.

The same rows with 100,000 jobs each are `make torture`; the contract with killed brokers is `make contract-zeromq`.
"""

from __future__ import annotations

import signal
import time

import pytest

from jobs_core.backends.base import Outgoing
from jobs_core.errors import BackendUnavailable
from jobs_core.ids import new_id, new_token
from jobs_zeromq.protocol import HEARTBEAT

from ..support.outages import assert_nothing_ran_twice, assert_work_continues, assert_work_continues_after_flapping
from ..support.proxy import Proxy
from ..support.stopwatch import Stopwatch
from ..torture import zeromq as rows
from ..torture.stage import endure

TWO_HEARTBEATS = 2 * HEARTBEAT
SLACK = 1.0
"""Seconds that a busy machine may add to a measured time."""


# -- counted ---------------------------------------------------------------------------------------


def test_nothing_is_lost_by_whatever_happens_to_broker_connections_and_workers(tmp_path):
    _, tally = endure(rows.everything_in_turn, tmp_path, 2000)
    assert tally.acknowledged == 2000


def test_a_broker_that_is_killed_or_restarted_and_replies_that_are_lost_run_nothing_twice(tmp_path):
    _, tally = endure(rows.broker_only, tmp_path, 1000)
    assert tally.acknowledged == 1000
    assert tally.duplicated == 0


def test_nothing_is_lost_by_a_broker_killed_between_commit_and_confirm_over_and_over(tmp_path):
    _, tally = endure(rows.ROWS["broker killed between commit and confirm, over and over"], tmp_path, 1500)
    assert tally.acknowledged == 1500
    assert tally.duplicated == 0


def test_nothing_is_lost_by_workers_killed_with_many_jobs_under_way(tmp_path):
    """Jobs under way run again, and no others do: a kill finds 250 async jobs or more, of at most 1,000."""
    _, tally = endure(rows.many_at_once_killed, tmp_path, 1000)
    assert 0 < tally.duplicated <= 2 * 1000


def test_nothing_is_lost_nor_run_twice_over_connections_that_break_again_and_again(tmp_path):
    _, tally = endure(rows.ROWS["connections flapping"], tmp_path, 2000)
    assert tally.duplicated == 0


# -- one by one ------------------------------------------------------------------------------------


def test_an_outage_of_ten_leases_runs_nothing_twice(broker_project, broker):
    project = broker_project
    project.configure('lease = "2s"', backend=f'backend = "{broker.url}"')
    workers = [project.worker() for _ in range(2)]
    project.push_many([("nap", (4.0, "before0"), {}), ("nap", (22.0, "through0"), {})])
    project.until(lambda: sum(line.startswith("start") for line in project.ledger()) == 2)
    broker.kill()
    for worker in workers:
        worker.until_said("cannot be reached")
    time.sleep(20.0)  # the outage lasts for ten leases
    broker.start()
    assert_work_continues(project)
    assert_nothing_ran_twice(project, workers)


def test_consumption_continues_within_3_s_of_a_flapping_connection(project, broker):
    with Proxy(broker.port) as proxy:
        assert_work_continues_after_flapping(project, proxy, f"zmq+tcp://127.0.0.1:{proxy.port}")


def test_a_wake_up_that_is_slower_than_a_wait_is_not_lost(broker, connect):
    with Proxy(broker.port) as proxy:
        worker = connect(f"zmq+tcp://127.0.0.1:{proxy.port}", new_token())
        connect(broker.url).push([Outgoing(new_id(), "t", b"{}")], new_token())
        proxy.delay(0.2)
        assert not worker.wait(["t"], 0.05)
        worker.heartbeat()
        assert worker.wait(["t"], 0.05)
        assert len(worker.reserve(["t"], 1, new_token())) == 1


def test_a_client_sees_a_dead_broker_within_two_heartbeats(broker, connect):
    """It then tries for a moment to reach a new broker before it reports the loss."""
    from jobs_zeromq.connection import RECONNECT

    waiting, asking = connect(broker.url, new_token()), connect(broker.url)
    broker.signal(signal.SIGSTOP)
    watch = Stopwatch()
    with pytest.raises(BackendUnavailable):
        waiting.wait(["default"], 60.0)
    assert watch.seconds <= TWO_HEARTBEATS + RECONNECT + SLACK
    with pytest.raises(BackendUnavailable):
        asking.counts(["default"])
    assert watch.stop() <= TWO_HEARTBEATS + 2 * RECONNECT + SLACK
    broker.signal(signal.SIGCONT)
    assert waiting.reserve(["default"], 1, new_token()) == []


def test_a_broker_sees_a_dead_worker_within_two_heartbeats(broker_project, broker, connect):
    project = broker_project
    project.configure('lease = "30s"', backend=f'backend = "{broker.url}"')
    worker = project.worker()
    operator = connect(broker.url)
    project.until(lambda: operator.status().waiting == 1)
    worker.signal(signal.SIGSTOP)
    watch = Stopwatch()
    project.until(lambda: operator.status().waiting == 0)
    assert watch.stop() <= TWO_HEARTBEATS + SLACK
    worker.signal(signal.SIGCONT)
    project.push("note", "woken")
    project.until_noted("note woken")


def test_a_worker_that_is_frozen_while_it_waits_holds_one_job_for_a_lease_and_no_other(broker_project, broker, connect):
    project = broker_project
    project.configure('lease = "3s"', backend=f'backend = "{broker.url}"')
    operator = connect(broker.url)
    frozen = project.worker()
    project.until(lambda: operator.status().waiting == 1)  # it has waited longest: it gets the first job
    other = project.worker()
    project.until(lambda: operator.status().waiting == 2)
    frozen.signal(signal.SIGSTOP)
    project.push("note", "first")
    watch = Stopwatch()
    project.push("note", "second")
    project.until_noted("note second")
    assert watch.stop() <= SLACK
    project.until_noted("note first")
    frozen.signal(signal.SIGCONT)
    assert [other.stop(), frozen.stop()] == [0, 0]


def test_a_frozen_worker_s_jobs_run_elsewhere_and_it_can_settle_none_of_them(broker_project):
    project = broker_project
    frozen, other = project.worker(), None
    project.push("nap", 0.3, "slept")
    project.until(lambda: project.ledger())
    frozen.signal(signal.SIGSTOP)
    other = project.worker()
    project.until_noted("end slept")
    frozen.signal(signal.SIGCONT)
    frozen.until_said("as well")
    project.until_empty()
    assert other.stop() == 0


def test_corrupt_payloads_go_to_the_dead_letters_as_they_came(broker_project):
    project = broker_project
    worker = project.worker()
    for payload in (b"\x00\xff", b'{"v":1,', b'{"v":1,"topic":"default","job":"no.such"', b""):
        project.push_raw(payload)
    project.push("note", "fine")
    project.until_noted("note fine")
    project.until(lambda: len(project.dead()) == 4)
    assert worker.stop() == 0


def test_an_idle_worker_that_keeps_house_asks_its_broker_three_things_every_three_seconds(broker_project, broker, connect):
    project = broker_project
    project.configure('lease = "30s"', backend=f'backend = "{broker.url}"')
    project.worker()
    project.push("note", "warm")
    project.until_noted("note warm")
    operator = connect(broker.url)
    project.until(lambda: not operator.counts(["default"])["default"].reserved and operator.status().waiting == 1)
    before = operator.status().requests
    time.sleep(7.5)  # the test measures idleness: two or three times three seconds end in it
    assert operator.status().requests - before - 1 <= 3 * 3
