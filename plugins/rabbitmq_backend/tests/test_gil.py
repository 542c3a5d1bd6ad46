"""Beside a job that holds the interpreter lock, heartbeats leave in time."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from jobs_core.backends.base import Answer, Outcome, Settlement
from jobs_core.ids import new_token
from jobs_rabbitmq.transport.loop import FEW, Loop
from jobs_rabbitmq.transport.own import OwnConnection

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


def test_releasing_prefetched_jobs_over_a_new_connection_costs_no_redelivery(connect, rabbitmq_url, request, monkeypatch):
    connect().push(jobs(AHEAD), new_token())
    worker = connect("w", url=f"{rabbitmq_url}?heartbeat={HEARTBEAT}")
    short = worker.reserve([TOPIC], 300, new_token())
    worker.settle([Settlement(each.id, each.token, Outcome.DONE) for each in short], new_token())
    while ahead(worker) < 200:
        worker.heartbeat()  # it sees the new message
    (long,) = worker.reserve([TOPIC], 1, new_token())
    connection = worker._taking().connection
    gil, sent, send = request.getfixturevalue("held"), [], OwnConnection._send

    def watched(each, data):
        if each is connection:
            sent.append(len(gil))
        return send(each, data)

    monkeypatch.setattr(OwnConnection, "_send", watched)
    while len(gil) < 6 or ahead(worker):
        worker.wait((), 0.5)
    assert connection.failure is None
    assert max(after - before for before, after in pairwise(sent)) <= MOST, (sent, gil)
    answer = worker.settle([Settlement(long.id, long.token, Outcome.DONE)], new_token())
    assert answer == [Answer.SETTLED]


def test_many_are_gone_through_with_heartbeats_between(monkeypatch):
    loop, pulses = Loop(), []
    monkeypatch.setattr(loop, "pulse", lambda: pulses.append(len(done)))
    done = []
    for number in loop.attending(range(3 * FEW)):
        done.append(number)
    assert (done, pulses) == (list(range(3 * FEW)), [0, FEW, 2 * FEW])
