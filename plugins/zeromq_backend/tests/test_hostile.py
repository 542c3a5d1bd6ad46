"""The broker answers any input with an error or not at all, and continues."""

from __future__ import annotations

import contextlib
import random
import socket
import struct

import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.errors import BackendError
from jobs_core.ids import new_id, new_token
from jobs_zeromq import protocol as p
from jobs_zeromq.backend import ZeromqBackend

from .raw import Raw

CODES = {"unavailable", "full", "owner_lost", "flow_lost", "refused", "malformed", "hello"}
FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
GOOD = {
    "owner": "fuzz", "request": "r", "topics": ["fuzz"], "topic": "fuzz", "limit": 1, "id": "x", "ids": ["x"], "state": "ready",
    "messages": [{"id": "f", "topic": "fuzz", "payload": b"x"}], "started": [], "report": b"", "timeout": 0.0, "reason": "",
    "settlements": [{"id": "x", "token": 1, "outcome": "done"}], "offset": 0, "lease": 30.0, "retention": {"fuzz": [1.0, 1]},
    "priority": 0, "delay": 0.0, "limits": {"a": {"concurrency": 1}}, "lines": {"fuzz": {"fair": True}}, "name": "a:x",
    "definition": {"interval": 1.0}, "most": 1, "names": ["a"], "startable": 1, "features": ["limits"],
    "kind": "fuzz", "kinds": ["fuzz"], "after": "", "expected": None, "ttl": 1.0, "data": b"{}",
    "guard": {"kind": "fuzz", "name": "a", "version": 0}, "flow": "f", "part": {"flow": "f"}, "finale": True,
    "most_bytes": 1, "max_message": 1,
}  # fmt: skip
"""A value of the right kind for every field."""


@pytest.fixture
def broker(start_in_process):
    return start_in_process()


@pytest.fixture(autouse=True)
def _nothing_unexpected(caplog):
    """Assert that every request was refused by the code that is written to refuse it."""
    yield
    assert " failed: " not in caplog.text


def assert_serves(url):
    """Assert that a well-behaved client is served."""
    backend = ZeromqBackend(url, BackendOptions())
    backend.open(new_token())
    try:
        topic = f"good.{new_token()}"
        job = Outgoing(new_id(), topic, b"payload")
        backend.push([job], new_token())
        (delivery,) = backend.reserve([topic], 10, new_token())
        assert (delivery.id, delivery.payload) == (job.id, job.payload)
        backend.settle([Settlement(delivery.id, delivery.token, Outcome.DONE)], new_token())
    finally:
        backend.close()


def answers_until_status(raw):
    """Return everything before the answer to a status request: the broker is still there, and in order."""
    raw.send(p.VERSION, b"status", b"the-end", b"\x80")
    found = []
    while True:
        version, kind, tag, *bodies = raw.receive()
        assert version == p.VERSION
        assert bodies[1:] in ([], [p.PASSED_OVER])
        if tag == b"the-end":
            assert kind == p.OK
            return found
        if kind == p.ERROR:
            refusal = p.decode_refusal(bodies[0]) if bodies[0][:1] != b"{" else msgspec.json.decode(bodies[0], type=p.Refusal)
            assert refusal.code in CODES
            assert refusal.message
        else:
            assert kind in (p.OK, p.WAKE, p.BEAT)
        found.append(kind)


def test_any_frames_are_answered_with_an_error_or_not_at_all(broker):
    with Raw(broker.url) as raw:

        @FUZZ
        @given(st.lists(st.binary(max_size=200) | st.sampled_from([p.VERSION, *p.VERBS]), min_size=1, max_size=8))
        def fuzz(frames):
            raw.send(*frames)
            assert set(answers_until_status(raw)) <= {p.OK, p.ERROR, p.WAKE}

        fuzz()
    assert_serves(broker.url)


def test_any_body_of_a_request_is_answered_with_an_error_or_not_at_all(broker):
    with Raw(broker.url) as raw:

        @FUZZ
        @given(st.sampled_from(sorted(p.VERBS)), values | st.binary(max_size=100), st.lists(st.binary(max_size=50), max_size=3))
        def fuzz(verb, value, more):
            body = value if isinstance(value, bytes) else msgspec.msgpack.encode(value)
            raw.send(p.VERSION, verb, b"tag", body, *more)
            answers_until_status(raw)

        fuzz()
    assert_serves(broker.url)


def test_a_request_with_one_field_gone_wrong_is_answered_with_an_error_or_done(broker):
    with Raw(broker.url) as raw:

        @FUZZ
        @given(st.sampled_from(sorted(p.VERBS)), st.sampled_from(sorted(GOOD)), values)
        def fuzz(verb, field, value):
            form = msgspec.json if verb == b"put" else msgspec.msgpack
            good = {name: kept for name, kept in GOOD.items() if verb != b"put" or not isinstance(kept, bytes)}
            try:
                body = form.encode({**good, field: value})
            except (TypeError, UnicodeError, OverflowError):
                return  # JSON has no such thing
            raw.send(p.VERSION, verb, b"tag", body, *[b'"payload"'] * (verb == b"put"))
            answers_until_status(raw)

        fuzz()
    assert_serves(broker.url)


def message(**facts):
    return {"messages": [{"id": "f", "topic": "fuzz", "payload": b"x", **facts}]}


def settlement(**facts):
    return {"owner": "fuzz", "settlements": [{"id": "x", "token": 1, "outcome": "retry", **facts}]}


WRONG_LIMITS = [
    *[(b"push", message(limits=limits)) for limits in (["b", "a"], ["a", "a"], ["key/t:x"], [""], ["a:"], list("abcdefghi"))],
    (b"push", message(key="k" * 513)),
    *[(b"settle", settlement(limits=limits)) for limits in (["b", "a"], ["a b"])],
    *[(b"settle", settlement(close_limits=[[limit, 1.0]])) for limit in ("", "key/t:x")],
    (b"settle", settlement(outcome="done", close_limits=[["a", float("nan")]])),
    *[
        (verb, body)
        for wrong in ({"concurrency": -1}, {"interval": 0.0}, {"interval": float("inf")}, {"burst": 0}, {"burst": 2**63})
        for verb, body in (
            (b"define_limits", {"limits": {"a": wrong}}),
            (b"override_limit", {"name": "a", "definition": wrong}),
        )
    ],
    (b"define_limits", {"limits": {"a:x": {"concurrency": 1}}}),
    (b"define_limits", {"limits": {"a/b": {"concurrency": 1}}}),
    (b"define_limits", {"lines": {"fuzz": {"fair": True, "max_per_key": 0}}}),
    (b"override_limit", {"name": "key/t:x"}),
]


def test_wrong_limits_keys_and_definitions_are_malformed(broker):
    with Raw(broker.url) as raw:
        for verb, body in WRONG_LIMITS:
            kind, answer = raw.ask(verb, {"request": new_token(), **body})
            assert (kind, answer.get("code")) == (p.ERROR, "malformed"), (verb, body)
        assert raw.ask(b"limits", {"most": 9}) == (p.OK, [])
    assert_serves(broker.url)


def test_a_header_that_promises_more_than_comes_is_malformed(broker):
    """4,294,967,295 elements, in five bytes."""
    with Raw(broker.url) as raw:
        for body in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 100_000):
            for verb in (b"push", b"settle", b"hello", b"reserve"):
                raw.send(p.VERSION, verb, b"tag", body)
                assert answers_until_status(raw) == [p.ERROR]
    assert_serves(broker.url)


def test_random_bytes_on_the_socket_harm_no_client(broker):
    host, port = broker.url.removeprefix("zmq+tcp://").split(":")
    dice = random.Random(20261124)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31)
    for n in range(300):
        with socket.create_connection((host, int(port))) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            begin = (b"", greeting[: dice.randrange(len(greeting))], greeting)[n % 3]
            with contextlib.suppress(OSError):  # refused meanwhile
                connection.sendall(begin + dice.randbytes(dice.randrange(2000)))
        if n % 50 == 0:
            assert_serves(broker.url)
    assert_serves(broker.url)


def test_a_frame_over_the_limit_closes_the_connection_of_its_sender(broker):
    with Raw(broker.url) as raw, Raw(broker.url) as other:
        monitor = raw.socket.get_monitor_socket(zmq.Event.DISCONNECTED)
        raw.send(p.VERSION, b"push", b"tag", bytes(p.MAX_FRAME + 1))
        assert monitor.poll(30_000), "it was not disconnected"
        assert answers_until_status(other) == []
    assert_serves(broker.url)


def test_a_header_that_announces_256_mb_closes_the_connection(broker):
    host, port = broker.url.removeprefix("zmq+tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31))
        connection.sendall(b"\x04\x26\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00")
        connection.sendall(b"\x02" + (2**28).to_bytes(8, "big") + b"the beginning of it")
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass
    assert_serves(broker.url)


def test_the_library_sends_nothing_over_the_limit(broker):
    backend = ZeromqBackend(broker.url, BackendOptions())
    backend.open(None)
    with pytest.raises(BackendError, match="8,388,608"):
        backend.push([Outgoing(new_id(), "t", bytes(p.MAX_FRAME + 1))], "r")
    backend.push([Outgoing(new_id(), "t", bytes(p.MAX_FRAME // 2)) for _ in range(4)], "r2")  # in several frames
    assert backend.counts(["t"])["t"].ready == 4
    backend.close()


def test_a_client_that_has_not_said_hello_is_asked_to(broker):
    with Raw(broker.url, hello=False) as raw:
        kind, body = raw.ask(b"counts", {"topics": []})
        assert (kind, body["code"]) == (p.ERROR, "hello")


def test_the_broker_keeps_bounded_state_of_clients_and_waits(broker, monkeypatch):
    from jobs_zeromq.broker import peers, server

    monkeypatch.setattr(peers, "MOST", 2)
    monkeypatch.setattr(server, "MOST_RESULTS", 2)
    with Raw(broker.url) as first, Raw(broker.url), Raw(broker.url):
        kind, body = first.ask(b"counts", {"topics": []})
        assert (kind, body["code"]) == (p.ERROR, "hello")  # forgotten: it says hello again
        assert first.ask(b"hello", {})[0] == p.OK
        first.ask(b"push", {"request": "r", "messages": [{"id": "waited", "topic": "t", "payload": b"x"}]})
        for n in range(2):
            first.send(p.VERSION, b"result", b"r%d" % n, msgspec.msgpack.encode({"id": "waited", "timeout": 60.0}))
        kind, body = first.ask(b"result", {"id": "waited", "timeout": 60.0})
        assert (kind, body["code"]) == (p.ERROR, "full")
