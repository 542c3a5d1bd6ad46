"""Faults of the machines of a ZeroMQ broker and a worker: disk, file, descriptors, clocks."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from pathlib import Path

import pytest

from jobs_core.backends.base import BackendOptions, Outgoing
from jobs_core.errors import BackendUnavailable, QueueFull
from jobs_core.ids import new_id, new_token
from jobs_core.testing.services.broker import BrokerService
from jobs_zeromq.backend import ZeromqBackend

from ..support.clock import Clock
from ..support.project import until
from ..torture import zeromq as rows

# -- the disk --------------------------------------------------------------------------------------


def test_a_full_disk_refuses_pushes_by_name_and_queued_jobs_still_settle(tmp_path, project):
    """The limit is above the free space: to the broker the disk is full."""
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


# -- what a broker lacks ---------------------------------------------------------------------------


def test_a_worker_waits_until_a_full_disk_has_room_and_loses_nothing(tmp_path):
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


def test_a_full_broker_refuses_clients_without_spinning_and_admits_them_once_one_leaves(broker, connect):
    _, most = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (64, most))  # eight of which are reserved for other uses
    inside = [connect(broker.url)]
    with pytest.raises(BackendUnavailable, match="accepts no more clients"):
        while len(inside) < 64:
            inside.append(connect(broker.url))
    assert len(list(Path(f"/proc/{broker.pid}/fd").iterdir())) <= 64 - 8 + 1  # ZeroMQ may not have closed the last one yet
    inside[0].push([Outgoing(new_id(), "t", b"{}")], new_token())
    used = _cpu_seconds(broker.pid)
    for _ in range(20):  # refused clients try again now and then
        with pytest.raises(BackendUnavailable, match="accepts no more clients"):
            connect(broker.url)
        time.sleep(0.05)
    assert _cpu_seconds(broker.pid) - used < 0.5
    inside.pop().close()

    def is_let_in() -> bool:
        try:
            return bool(connect(broker.url).counts(["t"])["t"].ready)
        except BackendUnavailable:
            return False

    until(is_let_in)
    assert broker.log.count("no descriptor is left (the limit is 64)") == 1


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("connected", [True, False])
def test_a_worker_without_descriptors_waits_until_it_has_some(broker_project, broker, connected):
    project = broker_project
    worker = project.worker()
    until(lambda: _has_threads(worker.pid))  # libzmq ends a process whose descriptors run out just while it starts them
    if connected:
        project.push("note", "before")
        project.until_noted("note before")
    _, most = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (4, most))
    broker.kill()
    broker.start()
    worker.until_said("cannot be reached")
    project.push("note", "after")
    used = worker.cpu_seconds()
    time.sleep(1.0)  # while descriptors are short, the broker must not spin
    assert worker.cpu_seconds() - used < 0.5
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (most, most))
    project.until_noted("note after")
    assert worker.stop() == 0


def _has_threads(pid: int) -> bool:
    """Return whether libzmq has started the last of its threads there, and so opened what it opens without a check."""
    for name in Path(f"/proc/{pid}/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            if name.read_text().startswith("ZMQbg/IO"):
                return True
    return False


# -- clocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1, -1])
def test_a_worker_with_a_wrong_clock_behaves_like_the_others(broker_project, tmp_path, hours):
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
    """Leases and delays run on a monotonic clock; and a broker whose clock starts an hour off lets no lease expire."""
    clock = Clock(tmp_path)
    broker = BrokerService(tmp_path / "broker")
    broker.start(**clock.environment)
    try:
        project.configure('lease = "2s"', backend=f'backend = "{broker.url}"')
        workers = [project.worker() for _ in range(3)]
        begin = time.monotonic()
        project.push_many([("nap", (5.0, f"long{n}"), {}) for n in range(2)])
        project.push("note", "late", delay=2.0)
        for hours in (1, -1, 0):
            clock.move(hours * 3600)
            project.push("note", f"at {hours:+}")
            project.until_noted(f"note at {hours:+}")
        project.until_noted("note late")
        assert time.monotonic() - begin >= 2.0
        for hours in (1, -1):  # if the clock starts at another time, leases begin anew
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
