"""Limits over the wire: releases that do not know them, and workers that wait for a limit to open."""

from __future__ import annotations

import time

import msgspec
import pytest

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.backends.limits import Limit, Lines
from jobs_core.errors import BackendError
from jobs_core.ids import new_id, new_token
from jobs_zeromq import protocol as p
from jobs_zeromq.backend import ZeromqBackend
from jobs_zeromq.broker.decoding import Asked
from jobs_zeromq.broker.waiting import Waiting

from .raw import Raw


@pytest.fixture
def open_(start_in_process):
    url, opened = start_in_process().url, []

    def open_(owner=None):
        opened.append(ZeromqBackend(url, BackendOptions()))
        opened[-1].open(owner)
        return opened[-1]

    yield open_
    for backend in opened:
        backend.close()


def push(backend, **facts):
    backend.push([Outgoing(new_id(), "t", b"", **facts)], new_token())


# -- releases beside one another ---------------------------------------------------------------------


def held(backend):
    push(backend)
    (delivery,) = backend.reserve(["t"], 1, new_token())
    return delivery


def settle(**facts):
    def call(backend):
        delivery = held(backend)
        settlement = Settlement(delivery.id, delivery.token, **facts)
        return backend.settle([settlement], new_token())

    return call


NEEDS_LIMITS = {
    "a job with limits": lambda backend: push(backend, limits=("a",)),
    "a job with a key": lambda backend: push(backend, key="k"),
    "a definition": lambda backend: backend.define_limits({"a": Limit(1)}, {}),
    "a fair topic": lambda backend: backend.define_limits({}, {"t": Lines(fair=True)}),
    "an override": lambda backend: backend.override_limit("a", Limit(1)),
    "a closure": settle(outcome=Outcome.RETRY, close_limits=(("a", 1.0),)),
    "new limits": settle(outcome=Outcome.RETRY, limits=("a",)),
    "a follow-up with limits": settle(outcome=Outcome.DONE, followups=(Outgoing("f", "t", b"", limits=("a",)),)),
}


@pytest.mark.parametrize("use", NEEDS_LIMITS)
def test_a_broker_without_limits_is_never_asked_for_them(open_, monkeypatch, use):
    monkeypatch.setattr(p, "FEATURES", ())
    backend = open_("worker")
    with pytest.raises(BackendError, match="release without limits.*upgrade jobs-zeromq there"):
        NEEDS_LIMITS[use](backend)
    backend.define_limits({}, {"t": Lines()})
    assert (backend.limits(9), backend.lines("t", 9)) == ([], [])
    assert settle(outcome=Outcome.DONE)(backend)


def test_a_client_without_limits_works_until_they_are_used_and_is_then_told_the_fix(open_):
    backend = open_()
    asked = {"owner": "old", "topics": ["t"], "limit": 9}
    with Raw(backend._address.endpoint) as raw:
        raw.ask(b"open", {"owner": "old"})
        push(backend)
        kind, (delivery,) = raw.ask(b"reserve", {**asked, "request": "1"})
        push(backend, limits=("a",))
        kind, answer = raw.ask(b"reserve", {**asked, "request": "2"})
        assert (kind, answer["code"]) == (p.ERROR, "refused")
        assert "upgrade jobs-zeromq on the worker's machine" in answer["message"]
        settled = {"id": delivery["id"], "token": delivery["token"], "outcome": "done"}
        assert raw.ask(b"settle", {"owner": "old", "request": "3", "settlements": [settled]}) == (p.OK, ["settled"])
        assert raw.ask(b"next", {**asked, "request": "4", "timeout": 5.0})[1]["code"] == "refused"
        assert [each.limits for each in open_("new").reserve(["t"], 9, new_token())] == [("a",)]


# -- waiting -----------------------------------------------------------------------------------------


def test_a_worker_that_passes_jobs_over_is_told_at_once(open_):
    backend = open_("worker")
    backend.define_limits({"a": Limit(1)}, {})
    push(backend, limits=("a",))
    backend.startable = 0
    assert backend.reserve_next(["t"], 9, new_token(), 3600.0) == []
    assert backend.passed_over
    backend.startable = 1
    assert len(backend.reserve_next(["t"], 9, new_token(), 3600.0)) == 1
    assert not backend.passed_over


def test_a_rate_that_opens_is_a_due_time_of_those_who_wait_already():
    woken = []
    waiting = Waiting(lambda waiter: woken.append(waiter.peer) or True)
    asked = Asked(None, b"", b"", p.NEXT, p.Next(owner="o", request="r", topics=["t"], limit=1))
    waiting.add(b"first", b"", ["t"], 3600.0, 3600.0, asked)
    waiting.add(b"second", b"", ["t"], 3600.0, 3600.0)
    for due in (60.0, 30.0, 40.0):
        waiting.remind("t", due)
        assert waiting.next_moment() <= time.monotonic() + due
    assert len(waiting._timers) == 4
    waiting.remind("t", 0.0)
    waiting.pass_time()
    assert woken == [b"first"]
    waiting.remind("another", 0.0)


def test_the_definitions_of_the_wire_are_those_of_the_interface(open_):
    backend = open_()
    definition = Limit(3, 0.25, 7)
    backend.define_limits({"a": definition}, {"t": Lines(fair=True, max_per_key=2)})
    backend.override_limit("a:ü", Limit(0))
    states = {state.limit: state for state in backend.limits(9)}
    assert (states["a"].definition, states["a:ü"].definition, states["a:ü"].overridden) == (definition, Limit(0), True)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(states["a"]), type=type(states["a"])) == states["a"]
    push(backend, key="k")
    push(backend, key="k")
    assert backend.lines("t", 9) == [("k", 2)]
