"""Beside a job that holds the interpreter lock, heartbeats leave in time, and system calls do not wait for it."""

from __future__ import annotations

import socket
import sys
import threading
import time
from itertools import pairwise

import pytest

from jobs_core.backends.base import Answer, Outcome, Settlement
from jobs_core.ids import new_token
from jobs_rabbitmq.transport import calls
from jobs_rabbitmq.transport.gil import CALM, LONG, SHARE, LongHolds
from jobs_rabbitmq.transport.loop import FEW, Loop

from .helpers import TOPIC, jobs

HEARTBEAT = 1
STRETCH = 0.6
MOST = 2
"""Number of long stretches that may pass between two frames to the broker."""

AHEAD = 1500
"""Number of jobs that are delivered ahead, and released when the long one begins."""


@pytest.fixture
def held():
    """Hold the interpreter lock for more than half a second at a time."""
    over, gil = threading.Event(), []

    def hold():
        number = 1_000_000
        while not over.is_set():
            begin = time.monotonic()
            sum(range(number))
            gil.append(time.monotonic() - begin)
            number = int(number * STRETCH / max(0.01, gil[-1]))

    thread = threading.Thread(target=hold)
    thread.start()
    yield gil
    over.set()
    thread.join()


def ahead(worker):
    return sum(map(len, worker._taking().buffers.values()))


def test_giving_back_what_was_delivered_ahead_over_a_new_connection_costs_none(connect, rabbitmq_url, request, monkeypatch):
    connect().push(jobs(AHEAD), new_token())
    worker = connect("w", url=f"{rabbitmq_url}?heartbeat={HEARTBEAT}")
    short = worker.reserve([TOPIC], 300, new_token())
    worker.settle([Settlement(each.id, each.token, Outcome.DONE) for each in short], new_token())
    while ahead(worker) < 200:
        worker.heartbeat()  # it sees the new message
    (long,) = worker.reserve([TOPIC], 1, new_token())
    connection = worker._taking().connection
    gil, sent, send = request.getfixturevalue("held"), [], calls.send

    def watched(descriptor, data):
        if descriptor == connection.fileno():
            sent.append(len(gil))
        return send(descriptor, data)

    monkeypatch.setattr(calls, "send", watched)
    while len(gil) < 6 or ahead(worker):
        worker.wait((), 0.5)
    assert connection.failure is None
    assert max(after - before for before, after in pairwise(sent)) <= MOST, (sent, gil)
    answer = worker.settle([Settlement(long.id, long.token, Outcome.DONE)], new_token())
    assert answer == [Answer.SETTLED]


def test_a_thread_that_waits_for_the_interpreter_keeps_it_for_longer_while_stretches_are_long():
    before, gil = sys.getswitchinterval(), LongHolds()
    gil.waited(until=100.0, now=100.0 + LONG / 2)
    assert sys.getswitchinterval() == before
    gil.waited(until=100.0, now=100.0 + LONG * 2)
    assert sys.getswitchinterval() == pytest.approx(SHARE)
    gil.waited(until=100.0 + CALM, now=100.0 + CALM)
    assert sys.getswitchinterval() == pytest.approx(SHARE)
    gil.waited(until=101.0 + CALM, now=101.0 + CALM)
    assert sys.getswitchinterval() == before


def test_only_workers_look_for_long_stretches(connect, monkeypatch):
    """Between two pushes, no loop runs in a producer that could restore the interval of its process."""
    waits = []
    monkeypatch.setattr(LongHolds, "waited", lambda *_, **__: waits.append(1))
    connect().push(jobs(), new_token())
    assert not waits
    assert connect("w").wait([TOPIC], 20.0)
    assert waits


def test_who_rests_changes_the_interval_back(held):
    before, loop = sys.getswitchinterval(), Loop()
    loop.beside_jobs = True
    while sys.getswitchinterval() == before:
        loop.until(lambda: False, 0.1)
    loop.rest()
    assert sys.getswitchinterval() == before


def test_many_are_gone_through_with_heartbeats_between(monkeypatch):
    loop, pulses = Loop(), []
    monkeypatch.setattr(loop, "pulse", lambda: pulses.append(len(done)))
    done = []
    for number in loop.attending(range(3 * FEW)):
        done.append(number)
    assert (done, pulses) == (list(range(3 * FEW)), [0, FEW, 2 * FEW])


def test_calls_say_what_the_sockets_own_would_say():
    here, there = socket.socketpair()
    with here, there:
        with pytest.raises(BlockingIOError):
            calls.receive(here.fileno(), 10)
        assert calls.send(there.fileno(), b"a\0b" * 5) == 15
        assert calls.receive(here.fileno(), 10) == b"a\0ba\0ba\0ba"
        assert calls.receive(here.fileno(), 10) == b"\0ba\0b"
        with pytest.raises(BlockingIOError):
            while True:
                calls.send(there.fileno(), b"x" * 65536)
        there.close()
        while data := calls.receive(here.fileno(), 1 << 20):
            assert set(data) == {ord("x")}
        with pytest.raises(BrokenPipeError):
            calls.send(here.fileno(), b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        calls.receive(1 << 20, 1)
