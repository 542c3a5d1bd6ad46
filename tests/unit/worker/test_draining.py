"""The end of a worker with `--drain`."""

from __future__ import annotations

import logging

import pytest

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.backends.limits import Limit
from jobs_core.backends.memory import MemoryBackend
from jobs_core.worker.draining import Draining


@pytest.fixture
def backend(request):
    made = MemoryBackend(f"memory://{request.node.name}", BackendOptions())
    made.open("w")
    yield made
    made.close()


def push(backend, *jobs):
    backend.push(jobs, "push")


def test_ready_and_delayed_jobs_of_a_paused_topic_keep_no_worker_but_are_told(backend, caplog):
    push(backend, Outgoing("a", "mail", b"{}"), Outgoing("b", "mail", b"{}"), Outgoing("c", "mail", b"{}", delay=60.0))
    backend.pause("mail")
    assert Draining().is_over(backend, ["mail", "other"])
    assert caplog.messages == ["topic mail is paused: 2 ready, 1 scheduled jobs are left in it: `jobsctl resume mail`"]


def test_what_runs_in_a_paused_topic_keeps_the_worker(backend):
    push(backend, Outgoing("a", "mail", b"{}"))
    [delivery] = backend.reserve(["mail"], 1, "reserve")
    backend.pause("mail")
    draining = Draining()
    assert not draining.is_over(backend, ["mail"])
    backend.settle([Settlement(delivery.id, delivery.token, Outcome.DONE)], "settle")
    assert draining.is_over(backend, ["mail"])


def test_what_keeps_a_worker_is_told_once(backend, caplog):
    caplog.set_level(logging.INFO)
    backend.define_limits({"shut": Limit(0)}, {})
    push(backend, Outgoing("a", "mail", b"{}", limits=("shut",)), Outgoing("b", "mail", b"{}", delay=60.0))
    backend.reserve(["mail"], 1, "reserve")
    draining = Draining()
    assert not draining.is_over(backend, ["mail"])
    assert not draining.is_over(backend, ["mail"])
    assert caplog.messages == [
        "topic mail is not drained yet: 1 limited, 1 scheduled jobs are left; `jobsctl list mail` shows them"
    ]
