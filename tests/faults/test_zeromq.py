"""What may happen to a ZeroMQ broker, the way to it, its disk and its workers, while jobs run through it.

The same rows with 100,000 jobs each are `make torture`; the contract with brokers that are killed is `make contract-zeromq`.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections import Counter

import pytest

from jobs_core.backends.base import BackendOptions, Outgoing
from jobs_core.errors import BackendUnavailable, QueueFull
from jobs_core.ids import new_id, new_token
from jobs_core.testing.services.broker import BrokerService
from jobs_zeromq.backend import ZeromqBackend
from jobs_zeromq.protocol import HEARTBEAT

from ..support.clock import Clock
from ..support.project import until
from ..support.proxy import Proxy
from ..torture import zeromq as rows
from ..torture.stage import endure

TWO_HEARTBEATS = 2 * HEARTBEAT
SLACK = 1.0
"""What a busy machine may add to a time that is measured, seconds."""


@pytest.fixture
def broker(tmp_path):
    service = BrokerService(tmp_path / "broker")
    service.start()
    yield service
    service.stop()


@pytest.fixture
def broker_project(project, broker):
    project.configure('lease = "1s"', backend=f'backend = "{broker.url}"')
    return project


@pytest.fixture
def connect():
    opened = []

    def connected(url, owner=None):
        backend = ZeromqBackend(url, BackendOptions())
        backend.open(owner)
        opened.append(backend)
        return backend

    yield connected
    for backend in opened:
        backend.close()


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
    """What was under way runs again, and nothing else does: a kill finds 250 async jobs or more, of at most 1,000."""
    _, tally = endure(rows.many_at_once_killed, tmp_path, 1000)
    assert 0 < tally.duplicated <= 2 * 1000


# -- one by one ------------------------------------------------------------------------------------


def test_an_outage_of_ten_leases_runs_nothing_twice(broker_project, broker):
    project = broker_project
    project.configure('lease = "500ms"', backend=f'backend = "{broker.url}"')
    workers = [project.worker() for _ in range(2)]
    project.push_many([("nap", (2.0, "before0"), {}), ("nap", (7.0, "through0"), {})])
    project.until(lambda: sum(line.startswith("start") for line in project.ledger()) == 2)
    broker.kill()
    for worker in workers:
        worker.until_said("cannot be reached")
    time.sleep(5.0)  # ten leases: the outage itself
    broker.start()
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


def test_consumption_goes_on_within_3_s_of_a_flapping_connection(project, broker):
    with Proxy(broker.port) as proxy:
        project.configure(backend=f'backend = "zmq+tcp://127.0.0.1:{proxy.port}"')
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
    """And then tries for a moment to reach a successor, before it says so."""
    from jobs_zeromq.link import RECONNECT

    waiting, asking = connect(broker.url, new_token()), connect(broker.url)
    broker.signal(signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(BackendUnavailable):
        waiting.wait(["default"], 60.0)
    assert time.monotonic() - begin <= TWO_HEARTBEATS + RECONNECT + SLACK
    with pytest.raises(BackendUnavailable):
        asking.counts(["default"])
    assert time.monotonic() - begin <= TWO_HEARTBEATS + 2 * RECONNECT + SLACK
    broker.signal(signal.SIGCONT)
    assert waiting.reserve(["default"], 1, new_token()) == []


def test_a_broker_sees_a_dead_worker_within_two_heartbeats(broker_project, broker, connect):
    project = broker_project
    project.configure('lease = "30s"', backend=f'backend = "{broker.url}"')
    worker = project.worker()
    operator = connect(broker.url)
    project.until(lambda: operator.status().waiting == 1)
    worker.signal(signal.SIGSTOP)
    begin = time.monotonic()
    project.until(lambda: operator.status().waiting == 0)
    assert time.monotonic() - begin <= TWO_HEARTBEATS + SLACK
    worker.signal(signal.SIGCONT)
    project.push("note", "woken")
    project.until_noted("note woken")


def test_a_worker_that_is_frozen_while_it_waits_holds_one_job_for_a_lease_and_no_other(broker_project, broker, connect):
    project = broker_project
    project.configure('lease = "3s"', backend=f'backend = "{broker.url}"')
    operator = connect(broker.url)
    frozen = project.worker()
    project.until(lambda: operator.status().waiting == 1)  # it has waited longest: it is handed the first job
    other = project.worker()
    project.until(lambda: operator.status().waiting == 2)
    frozen.signal(signal.SIGSTOP)
    project.push("note", "first")
    begin = time.monotonic()
    project.push("note", "second")
    project.until_noted("note second")
    assert time.monotonic() - begin <= SLACK
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
    frozen.until_said("elsewhere")
    project.until_empty()
    assert other.stop() == 0


def test_a_full_disk_refuses_pushes_by_name_and_settles_what_is_queued(tmp_path, project):
    """The limit stands above what is free: to the broker the disk is full."""
    broker = BrokerService(tmp_path / "broker")
    broker.start()
    try:
        project.configure(backend=f'backend = "{broker.url}"')
        project.push_many([("note", (str(n),), {}) for n in range(50)])
        assert broker.stop() == 0
        free = os.statvfs(tmp_path)
        broker.start(JOBS_BROKER__MIN_FREE=f"{free.f_blocks * free.f_frsize // 10**9 + 1}GB")
        backend = ZeromqBackend(broker.url, BackendOptions())
        backend.open(None)
        with pytest.raises(QueueFull, match="make room"):
            backend.push([Outgoing(new_id(), "default", b"{}")], new_token())
        backend.close()
        worker = project.worker()
        project.until_noted(*[f"note {n}" for n in range(50)])
        project.until_empty()
        assert worker.stop() == 0
    finally:
        broker.stop()


def test_a_queue_file_that_is_removed_ends_the_broker_and_keeps_the_next_from_starting(broker, connect):
    backend = connect(broker.url)
    backend.push([Outgoing(new_id(), "t", b"{}")], new_token())
    for path in (broker.directory / ".jobs").glob("broker.db*"):
        if path.suffix in (".db", ".db-wal", ".db-shm"):
            path.unlink()
    with pytest.raises(BackendUnavailable):
        backend.push([Outgoing(new_id(), "t", b"{}")], new_token())
    assert broker.wait() == 1
    assert "was removed" in broker.log
    with pytest.raises(AssertionError, match="put it back"):
        broker.start()


def test_corrupt_payloads_go_to_the_dead_letters_as_they_came(broker_project):
    project = broker_project
    worker = project.worker()
    for payload in (b"\x00\xff", b'{"v":1,', b'{"v":1,"topic":"default","job":"no.such"', b""):
        project.push_raw(payload)
    project.push("note", "fine")
    project.until_noted("note fine")
    project.until(lambda: len(project.dead()) == 4)
    assert worker.stop() == 0


# -- clocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1, -1])
def test_a_worker_whose_clock_is_wrong_does_what_the_others_do(broker_project, tmp_path, hours):
    """Its jobs are neither late nor early, expired nor lost, and it keeps its lease."""
    project = broker_project
    worker = project.worker(**Clock(tmp_path, hours * 3600).environment)
    begin = time.monotonic()
    project.push("note", "late", delay=2.0)
    project.push("note", "in time", expires_in=60.0)
    project.push("nap", 2.5, "long")
    project.push("fail_twice")
    project.until_noted("note late", "note in time", "end long", "attempt 3")
    assert time.monotonic() - begin >= 2.0
    project.until_empty()
    assert [line.split()[0] for line in project.ledger()].count("start") == 1
    assert project.dead() == []
    assert worker.stop() == 0


def test_the_wall_clock_of_the_broker_s_machine_may_jump(project, tmp_path):
    """Leases and delays run on a clock that nobody sets; and one that starts an hour off takes nobody's lease."""
    clock = Clock(tmp_path)
    broker = BrokerService(tmp_path / "broker")
    broker.start(**clock.environment)
    try:
        project.configure('lease = "1s"', backend=f'backend = "{broker.url}"')
        workers = [project.worker() for _ in range(3)]
        begin = time.monotonic()
        project.push_many([("nap", (4.0, f"long{n}"), {}) for n in range(2)])
        project.push("note", "late", delay=2.0)
        for hours in (1, -1, 0):
            clock.move(hours * 3600)
            project.push("note", f"at {hours:+}")
            project.until_noted(f"note at {hours:+}")
        project.until_noted("note late")
        assert time.monotonic() - begin >= 2.0
        for hours in (1, -1):  # and where it starts with another time, leases begin anew
            clock.move(hours * 3600)
            assert broker.stop() == 0
            broker.start(**clock.environment)
            project.push("note", f"started at {hours:+}")
            project.until_noted(f"note started at {hours:+}")
        project.until_noted("end long0", "end long1")
        project.until_empty()
        assert sum(line.startswith("start") for line in project.ledger()) == 2
        assert [worker.stop() for worker in workers] == [0, 0, 0]
    finally:
        broker.stop()


# -- what a broker lacks ---------------------------------------------------------------------------


def test_a_disk_that_takes_no_more_is_waited_out_and_nothing_is_lost(tmp_path):
    with rows.ROWS["disk full"](tmp_path, 1000) as (stage, trouble):
        told = []

        def watched(stage):
            trouble(stage)
            told.extend(line for worker in stage.workers for line in worker.lines if "disk I/O error" in line)

        tally = stage.run(watched, 1000)
    assert (tally.acknowledged, tally.lost, tally.unexpected) == (1000, 0, 0), str(tally)
    assert told


def test_a_broker_without_descriptors_serves_whom_it_has_and_lets_others_in_later(broker, connect):
    inside, leaving = connect(broker.url, new_token()), connect(broker.url)
    _, most = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (8, most))  # it has more open already
    with pytest.raises(BackendUnavailable):
        connect(broker.url)
    inside.push([Outgoing(new_id(), "t", b"{}")], new_token())
    assert len(inside.reserve(["t"], 1, new_token())) == 1
    leaving.close()
    until(lambda: "no descriptor is left (the limit is 8)" in broker.log)
    resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (most, most))
    assert connect(broker.url).counts(["t"])["t"].reserved == 1


def test_a_worker_without_descriptors_waits_until_it_has_some(broker_project, broker):
    project = broker_project
    worker = project.worker()
    _, most = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (4, most))
    broker.kill()
    broker.start()
    worker.until_said("cannot be reached")
    project.push("note", "after")
    used = worker.cpu_seconds()
    time.sleep(1.0)  # the want itself: it is not to spin
    assert worker.cpu_seconds() - used < 0.5
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (most, most))
    project.until_noted("note after")
    assert worker.stop() == 0


def test_an_idle_worker_that_keeps_house_asks_its_broker_three_things_every_three_seconds(broker_project, broker, connect):
    project = broker_project
    project.configure('lease = "30s"', backend=f'backend = "{broker.url}"')
    project.worker()
    project.push("note", "warm")
    project.until_noted("note warm")
    operator = connect(broker.url)
    before = operator.status().requests
    time.sleep(7.5)  # idleness is what is measured: two or three times three seconds end in it
    assert operator.status().requests - before - 1 <= 3 * 3
