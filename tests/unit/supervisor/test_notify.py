"""The messages to a service manager, on real datagram sockets."""

from __future__ import annotations

import os
import socket
import time

import pytest

from jobs_core.supervisor.notify import Notifier, address_of, watchdog_of


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A service manager's socket, and the environment that it gives to a service."""
    name = str(tmp_path / "notify") if request.param == "path" else f"\0jobs-test-{os.getpid()}"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(name)
    listening.settimeout(10)
    environ = {
        "NOTIFY_SOCKET": name.replace("\0", "@"),
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
        "A": "b",
    }
    yield listening, environ
    listening.close()


def test_a_service_manager_is_notified_of_each_stage(manager):
    listening, environ = manager
    notifier = Notifier.from_environment(environ)
    assert environ == {"A": "b"}, "jobs inherit the environment"

    def told():
        return listening.recv(4096).decode().split("\n")

    notifier.ready("4 workers serve")
    assert told() == ["READY=1", "STATUS=4 workers serve"]
    notifier.status("busy\nREADY=1")
    assert told() == ["STATUS=busy\\nREADY=1"]
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    first, second = told()
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    notifier.ready()
    assert told() == ["READY=1"]
    notifier.beat()
    notifier.beat()
    assert told() == ["WATCHDOG=1"]
    notifier.extend(2.5)
    assert told() == ["EXTEND_TIMEOUT_USEC=2500000"], "the second beat was not yet due"
    notifier.stopping("3 jobs run", 40.0)
    assert told() == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=40000000", "STATUS=3 jobs run"]
    notifier.close()
    notifier.stopping()


def test_the_watchdog_is_notified_three_times_per_timeout(manager, monkeypatch):
    listening, environ = manager
    notifier = Notifier.from_environment(environ)
    now = 1000.0
    monkeypatch.setattr("jobs_core.supervisor.notify.time.monotonic", lambda: now)
    for _ in range(60):
        notifier.beat()
        now += 1.0
    monkeypatch.undo()
    listening.setblocking(False)
    beats = 0
    with pytest.raises(BlockingIOError):
        while listening.recv(100) == b"WATCHDOG=1":
            beats += 1
    assert beats == 6
    notifier.close()


def test_a_service_manager_that_does_not_read_blocks_no_process(manager):
    listening, environ = manager
    notifier = Notifier.from_environment(environ)
    for _ in range(10_000):  # its queue has been full for long
        notifier.status("x" * 1000)
    listening.close()
    notifier.ready()
    notifier.close()


def test_without_a_service_manager_nothing_is_sent():
    notifier = Notifier.from_environment({})
    assert notifier.watchdog is None
    notifier.ready("yes")
    notifier.beat()
    notifier.close()


def test_addresses():
    assert address_of({}) is None
    assert address_of({"NOTIFY_SOCKET": ""}) is None
    assert address_of({"NOTIFY_SOCKET": "/run/systemd/notify"}) == "/run/systemd/notify"
    assert address_of({"NOTIFY_SOCKET": "@/org/notify"}) == "\0/org/notify"
    assert address_of({"NOTIFY_SOCKET": "vsock-stream:2:1234"}) is None


def test_a_watchdog_is_obeyed_only_by_the_process_that_it_means():
    assert watchdog_of({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 7) == 30.0
    assert watchdog_of({"WATCHDOG_USEC": "500000"}, 7) == 0.5
    assert watchdog_of({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 7) is None
    for nonsense in ("", "0", "-1", "abc", "1.5", "²"):
        assert watchdog_of({"WATCHDOG_USEC": nonsense}, 7) is None
