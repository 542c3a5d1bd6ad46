"""The inlet takes anything: data that is not an envelope within the limits is carried unchanged and harms no other job."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs_core.app import App
from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement, State
from jobs_core.config import Config
from jobs_core.errors import NotSupported
from jobs_core.ids import new_id, new_token
from jobs_core.message import Signer, UniqueKey, encode, new_message
from jobs_core.registry import Registry
from jobs_core.worker.decoder import Decoder
from jobs_redis import _create

KEYS = ["k1:0123456789abcdef0123456789abcdef"]
SIGNER = Signer(KEYS)
NUMBERS = ["-1", "-0.0", "1e308", "1e400", "1e-400", "1" + "0" * 400, "9" * 5000, "9007199254740993", "NaN", "Infinity"]
NO_NUMBERS = ["true", '""', '"5m"', "[]", "{}", '"\\ud800"', '"' + "x" * 600 + '"']
FIELDS = ["v", "id", "job", "topic", "args", "kwargs", "enqueued_at", "delay", "expires_in", "priority", "retries", "timeout",
          "store_result", "unique", "key", "headers"]  # fmt: skip
ODD = [
    b"",
    b"\x00",
    b"\xff\xfe{}",
    b"jobs1.",
    b"jobs1.k1.00\n{}",
    b"\n" * 100,
    b"null",
    b"[" * 100_000,
    b'{"v":1,"topic":"t","args":' + b"[" * 100_000,
    b'{"v":1,"topic":"t","job":"work","headers":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    b'{"v":1,"topic":"t","id":"\xed\xa0\x80"}',
    b'{"v":1,"topic":"t","id":"a\\u0000b c|d:e"}',
]


def envelope(**fields):
    """Return an envelope whose fields are given as JSON texts."""
    known = {"v": "1", "topic": '"t"', "job": '"work"', **fields}
    return ("{" + ",".join(f'"{name}":{value}' for name, value in known.items()) + "}").encode()


UNIQUE = ["key", "scope", "conflict"]
HOSTILE = [
    *ODD,
    *(envelope(**{field: value}) for field in FIELDS for value in NUMBERS + NO_NUMBERS),
    *(envelope(unique=f'{{"key":"k","{field}":{value}}}') for field in UNIQUE for value in NUMBERS + NO_NUMBERS),
]


@pytest.fixture
def make(redis_url):
    made = []

    def opened(owner="worker", **options):
        backend = _create(redis_url, BackendOptions(**options))
        backend.open(owner)
        made.append(backend)
        return backend

    yield opened
    for backend in made:
        backend.close()


@pytest.fixture
def backend(make):
    return make()


def rpush(backend, *entries, topic="t"):
    backend._connection.call("RPUSH", backend._store.keys.inlet(topic), *entries)


def inlet(backend, topic="t"):
    return backend._connection.call("LRANGE", backend._store.keys.inlet(topic), 0, -1)


def take(backend, topic="t"):
    """Return everything that a worker gets."""
    found = []
    while backend.wait([topic], 0.01):
        found += backend.reserve([topic], 1000, new_token())
    return found


def accept(deliveries, **settings):
    """Return what a worker makes of deliveries: reasons of dead letters, None for runs."""
    registry = Registry()
    app = App(Config(**settings), registry=registry)
    decoder = Decoder(app)
    verdicts = []
    for delivery in deliveries:
        verdict = decoder.accept(delivery)
        verdicts.append(verdict if isinstance(verdict, Settlement) else None)
    app.close()
    return verdicts


def test_the_inlet_accepts_any_data_unchanged_and_a_good_message_behind_it(backend):
    good = envelope(id='"good"')
    rpush(backend, *HOSTILE, good)
    found = take(backend)
    assert inlet(backend) == []
    scheduled = [record.payload for record in backend.browse("t", State.SCHEDULED, 1000)]
    taken = [delivery.payload for delivery in found] + scheduled
    assert set(taken) <= {*HOSTILE, good}
    missing = {*HOSTILE} - {*taken}  # refused only because of a unique key that an earlier one holds
    assert all(b'"unique":{"key":"k"' in payload for payload in missing)
    assert good in taken
    accept(found)  # a worker reports each one's error, and never raises


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
)
ENVELOPES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5).map(lambda fields: {"v": 1, "topic": "t", **fields})
ENTRIES = st.binary(max_size=60) | (VALUES | ENVELOPES).map(lambda value: json.dumps(value).encode())


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ENTRIES, min_size=1, max_size=8))
def test_no_entry_stays_at_the_head_of_an_inlet(backend, entries):
    rpush(backend, *entries)
    take(backend)
    assert inlet(backend) == []


@pytest.mark.parametrize("seconds", [1e9, 1e10, 1e15, 1e30, 1e308, float("inf")])
def test_a_time_beyond_all_bounds_is_31_years(backend, seconds):
    backend.push([Outgoing("a", "t", b"{}", delay=seconds)], new_token())
    backend.push([Outgoing("b", "t", b"{}", unique=UniqueKey("k", min(seconds, 1e308)))], new_token())
    (delivery,) = take(backend)
    retried = Settlement(delivery.id, delivery.token, Outcome.RETRY, after=seconds)
    backend.settle([retried], new_token())
    assert {
        record.id: round((record.due - record.broker_now) / 1e9, 3) for record in backend.browse("t", State.SCHEDULED, 9)
    } == {
        "a": 1.0,
        "b": 1.0,
    }


# -- limits ----------------------------------------------------------------------------------------


def test_an_oversized_entry_becomes_a_dead_letter_unchanged_without_reaching_a_worker(make):
    backend = make(max_message=1000)
    large = [b"x" * size for size in (1201, 50_000, 1_000_000)]
    rpush(backend, large[0], envelope(), large[1], b"y" * 1200, large[2])
    found = take(backend)
    assert [delivery.payload for delivery in found] == [envelope(), b"y" * 1200]
    dead = backend.browse("t", State.DEAD, 10)
    assert sorted((record.payload for record in dead), key=len) == large
    assert {record.reason for record in dead} == {"bad message"}
    assert all(b"max_message is 1,000" in record.errors[0] for record in dead)
    assert inlet(backend) == []
    assert backend.counts(["t"])["t"].dead == 3


def test_entries_too_large_to_be_read_do_not_pass_through_a_process(make):
    backend = make(max_message=1000)
    calls = []
    connection = backend._connection
    run = connection.run
    connection.run = lambda script, *arguments: calls.append(answer := run(script, *arguments)) or answer
    rpush(backend, *[b"x" * 5_000_000] * 4)
    take(backend)
    assert all(len(repr(answer)) < 1000 for answer in calls)
    assert backend.counts(["t"])["t"].dead == 4


def test_a_large_inlet_is_read_in_parts(make):
    backend = make()
    rpush(backend, *[b"%d" % n + b"x" * 900_000 for n in range(12)])
    assert backend._store.admit("t", new_token()) == 4
    assert len(take(backend)) == 12


def test_the_dead_letters_of_an_inlet_are_bounded(make):
    from jobs_core.backends.base import Retention

    backend = make(max_message=10, retention=lambda topic: Retention(dead_max=3))
    rpush(backend, *[b"x" * 300] * 7)
    take(backend)
    assert backend.counts(["t"])["t"].dead == 3


def test_an_inlet_is_emptied_on_request(backend):
    rpush(backend, b"1", b"2")
    rpush(backend, b"3", topic="other")
    assert backend.purge_inlet("t") == 2
    assert backend.purge_inlet("t") == 0
    assert inlet(backend, "other") == [b"3"]


def test_a_backend_without_an_inlet_says_so(tmp_path):
    app = App(Config(backend=f"sqlite:///{tmp_path}/q.db"))
    with pytest.raises(NotSupported, match="does not support inlet"):
        app.operate(lambda backend: backend.purge_inlet("t"))
    app.close()


# -- signatures and unique keys --------------------------------------------------------------------

CONFLICTS = ["drop", "replace", "raise"]
SCOPES = ["queued", "done", 60.0]


def application_job(unique, **fields):
    return encode(new_message("work", "t", [], {}, unique=unique, **fields), signer=SIGNER)


def unsigned(unique, **fields):
    return encode(new_message("work", "t", [], {}, unique=unique, **fields))


def forged(unique, **fields):
    return SIGNER.sign(b"{}").partition(b"\n")[0] + b"\n" + unsigned(unique, **fields)


def misplaced(unique, **fields):
    return encode(new_message("work", "elsewhere", [], {}, unique=unique, **fields), signer=SIGNER)


def signed_by_another(unique, **fields):
    return encode(new_message("work", "t", [], {}, unique=unique, **fields), signer=Signer(["k1:another key altogether"]))


@pytest.mark.parametrize("conflict", CONFLICTS)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("refused", [unsigned, forged, misplaced, signed_by_another])
def test_unsigned_messages_have_no_effect_on_other_jobs(make, refused, scope, conflict):
    backend = make(verify=SIGNER.verify)
    key = UniqueKey("work:1", scope, conflict)
    ours = Outgoing(new_id(), "t", application_job(key), unique=key)
    backend.push([ours], new_token())
    later = new_id()  # of a later job
    rpush(backend, refused(key, id=later, priority=9, delay=60.0), refused(UniqueKey("work:2", scope, conflict)))
    backend._store.admit("t", new_token())
    assert [record.state for record in backend.browse("t", State.SCHEDULED, 9)] == []
    mine = UniqueKey("work:2", scope, "drop")
    assert backend.push([Outgoing(later, "t", application_job(mine), unique=mine)], new_token()) == {}
    found = take(backend)
    assert {ours.id, later} < {delivery.id for delivery in found}
    verdicts = accept([one for one in found if one.id not in (ours.id, later)], signing_keys=KEYS)
    assert [(verdict.outcome, verdict.reason) for verdict in verdicts] == [(Outcome.DEAD, "bad message")] * 2


@pytest.mark.parametrize("keys", [[], KEYS], ids=["unsigned", "signed"])
@pytest.mark.parametrize("conflict", CONFLICTS)
@pytest.mark.parametrize("scope", SCOPES)
def test_a_foreign_producers_unique_keys_have_their_own_namespace(make, scope, conflict, keys):
    signer = Signer(keys) if keys else None
    backend = make(verify=signer.verify if signer else None)
    key = UniqueKey("work:1", scope, conflict)
    ours, theirs = new_id(), new_id()
    backend.push([Outgoing(ours, "t", application_job(key), unique=key)], new_token())
    rpush(backend, encode(new_message("work", "t", [], {}, unique=key, id=theirs), signer=signer))
    backend._store.admit("t", new_token())
    assert {backend.get(ours).state, backend.get(theirs).state} == {State.READY}
    free = UniqueKey("work:2", scope, "drop")
    rpush(backend, encode(new_message("work", "t", [], {}, unique=free), signer=signer))
    backend._store.admit("t", new_token())
    assert backend.push([Outgoing(new_id(), "t", b"{}", unique=free)], new_token()) == {}


def test_among_themselves_foreign_producers_unique_keys_hold(backend):
    key = UniqueKey("k", "done", "drop")
    for number in range(3):
        rpush(backend, encode(new_message("work", "t", [number], {}, unique=key)))
    (delivery,) = take(backend)
    assert b"[0]" in delivery.payload
    backend.settle([Settlement(delivery.id, delivery.token, Outcome.DONE)], new_token())
    rpush(backend, encode(new_message("work", "t", [4], {}, unique=key)))
    assert len(take(backend)) == 1
