"""Flows over the wire: releases that do not know them, clients that wait for an end, and results that fill a frame."""

from __future__ import annotations

import threading
import time

import msgspec
import pytest
from tests.support.project import PATIENCE

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement, State
from jobs_core.backends.flows import After, Member, Part
from jobs_core.errors import BackendError
from jobs_core.ids import new_id, new_token
from jobs_zeromq import protocol as p
from jobs_zeromq.backend import ZeromqBackend
from jobs_zeromq.broker import results

from .raw import Raw


@pytest.fixture
def open_(start_in_process):
    url, opened = start_in_process().url, []

    def open_(owner=None, **options):
        opened.append(ZeromqBackend(url, BackendOptions(**options)))
        opened[-1].open(owner)
        return opened[-1]

    yield open_
    for backend in opened:
        backend.close()


def member(flow, *after, inputs=(), payload=b""):
    targets = tuple(After(job_id) for job_id in after)
    return Outgoing(new_id(), "t", payload, member=Member(flow, after=targets, inputs=inputs))


def push_chain(backend, flow="f"):
    """Push a flow of two members, one after the other; return their ids."""
    first = member(flow)
    second = member(flow, first.id)
    backend.push_part(Part(flow), [first, second], new_token())
    return first.id, second.id


def run(backend, limit=1, **fields):
    deliveries = backend.reserve(["t"], limit, new_token())
    settlements = [Settlement(one.id, one.token, Outcome.DONE, **fields) for one in deliveries]
    assert backend.settle(settlements, new_token())
    return [one.id for one in deliveries]


# -- releases beside one another ---------------------------------------------------------------------


def settle_with_a_member(backend):
    backend.push([Outgoing(new_id(), "t", b"")], new_token())
    run(backend, followups=(member("f"),))


@pytest.mark.parametrize(
    "use", [push_chain, settle_with_a_member, lambda backend: backend.push([member("f")], new_token())],
    ids=["a part", "a follow-up in a flow", "a member"],
)  # fmt: skip
def test_a_broker_without_flows_is_never_asked_for_them(open_, monkeypatch, use):
    monkeypatch.setattr(p, "FEATURES", (p.LIMITS, p.DOCUMENTS))
    backend = open_("worker")
    with pytest.raises(BackendError, match="release without flows: upgrade jobs-zeromq there, and restart the broker"):
        use(backend)
    assert (backend.flows(9), backend.flow("f"), backend.flow_members("f", 9), backend.flow_results("f", ["x"])) == (
        [], None, [], [],
    )  # fmt: skip
    assert (backend.cancel_flow("f"), backend.retry_flow("f"), backend.wait_flow("f", 60.0)) == (False, 0, None)
    assert (backend.browse("t", State.WAITING, 9), backend.purge("t", State.WAITING)) == ([], 0)


def test_a_client_without_flows_works_until_there_is_one_and_is_then_told_the_fix(open_):
    backend = open_()
    asked = {"owner": "old", "topics": ["t"], "limit": 9}
    with Raw(backend._address.endpoint) as raw:
        assert raw.ask(b"hello", {"features": ["limits", "documents"]})[0] == p.OK
        raw.ask(b"open", {"owner": "old"})
        backend.push([Outgoing(new_id(), "t", b"")], new_token())
        _, (delivery,) = raw.ask(b"reserve", {**asked, "request": "1"})
        _, waiting = push_chain(backend)
        kind, answer = raw.ask(b"reserve", {**asked, "request": "2"})
        assert (kind, answer["code"]) == (p.ERROR, "refused")
        assert "does not know flows" in answer["message"]
        assert "upgrade jobs-zeromq on the worker's machine" in answer["message"]
        settled = {"id": delivery["id"], "token": delivery["token"], "outcome": "done"}
        assert raw.ask(b"settle", {"owner": "old", "request": "3", "settlements": [settled]}) == (p.OK, ["settled"])
        for verb, body in ((b"get", {"id": waiting}), (b"browse", {"topic": "t", "state": "waiting", "limit": 9})):
            kind, answer = raw.ask(verb, body)
            assert (kind, answer["code"]) == (p.ERROR, "refused")
            assert "upgrade jobs-zeromq" in answer["message"]
        assert len(open_("new").reserve(["t"], 9, new_token())) == 1


# -- waiting -----------------------------------------------------------------------------------------


def test_a_wait_for_a_flow_ends_with_the_settlement_that_ends_it_and_asks_once(open_, monkeypatch):
    monkeypatch.setattr(results, "LOOK_AGAIN", 3600.0)
    worker, waiter = open_("worker"), open_()
    push_chain(worker)
    assert waiter.wait_flow("unknown", 3600.0) is None
    found = []
    thread = threading.Thread(target=lambda: found.append(waiter.wait_flow("f", 9.0)))
    before = worker.status().requests
    thread.start()
    while worker.status().requests - before < 2:
        time.sleep(0.01)  # until the broker has the wait
    assert run(worker)
    assert thread.is_alive()
    assert run(worker)
    thread.join(PATIENCE)
    assert [status.state for status in found] == ["done"]


def test_a_wait_for_a_flow_that_goes_on_is_answered_when_its_time_is_over(open_):
    backend = open_()
    push_chain(backend)
    begin = time.monotonic()
    assert backend.wait_flow("f", 0.3) is None
    assert time.monotonic() - begin >= 0.3


# -- results -----------------------------------------------------------------------------------------


def test_deliveries_with_large_results_fill_a_frame_and_the_others_come_next(open_):
    size = p.MAX_FRAME // 4
    backend = open_("worker", max_message=p.MAX_FRAME)
    first = member("f")
    others = [member("f", first.id, inputs=(first.id,)) for _ in range(9)]
    backend.push_part(Part("f"), [first, *others], new_token())
    run(backend, result=b"r" * size, result_ttl=60.0)
    seen = []
    while len(seen) < len(others):
        deliveries = backend.reserve(["t"], 9, new_token())
        assert 0 < len(deliveries) <= 4
        assert all(one.inputs == ((first.id, b"r" * size),) for one in deliveries)
        backend.settle([Settlement(one.id, one.token, Outcome.DONE) for one in deliveries], new_token())
        seen += [one.id for one in deliveries]
    assert sorted(seen) == sorted(one.id for one in others)
    status = backend.flow("f")
    assert (status.state, status.done) == ("done", 10)


def test_results_are_bounded_by_the_message_size_of_the_client(open_):
    backend = open_("worker", max_message=1000)
    firsts = [member("f"), member("f")]
    ids = tuple(one.id for one in firsts)
    backend.push_part(Part("f"), [*firsts, member("f", *ids, inputs=ids)], new_token())
    run(backend, 2, result=b"r" * 600, result_ttl=60.0)
    (delivery,) = backend.reserve(["t"], 1, new_token())
    assert len(delivery.inputs) == 1
    assert len(backend.flow_results("f", ids)) == 1
    assert len(backend.flow_results("f", ids[1:])) == 1


# -- hostile parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"flow": ""}, "1 to 200 characters"),
        ({"flow": "f", "number": -1}, "numbered from 0"),
        ({"flow": "f", "number": 2**63}, "numbered from 0"),
        ({"flow": "f", "ttl": float("nan")}, "numbers of seconds"),
    ],
    ids=["no id", "negative", "huge", "not a number"],
)  # fmt: skip
def test_a_malformed_part_is_refused(open_, part, says):
    message = msgspec.to_builtins(member("f"), builtin_types=(bytes,))
    with Raw(open_()._address.endpoint) as raw:
        kind, answer = raw.ask(b"push_part", {"request": "r", "part": part, "messages": [message]})
        assert (kind, answer["code"]) == (p.ERROR, "malformed")
        assert says in answer["message"]


def test_a_broker_without_statistics_is_never_asked_for_them(open_, monkeypatch):
    monkeypatch.setattr(p, "FEATURES", (p.LIMITS, p.DOCUMENTS, p.FLOWS))
    backend = open_()
    for call in (lambda: backend.add_statistics([], new_token()), lambda: backend.statistics(60, 0, 1)):
        with pytest.raises(BackendError, match="release without statistics: upgrade jobs-zeromq there, and restart the broker"):
            call()
