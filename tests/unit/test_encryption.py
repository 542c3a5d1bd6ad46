"""Encrypted arguments and results: without the keys, no process can read them or move them to another job."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs_core import App, Unique, job
from jobs_core.backends.base import Outcome
from jobs_core.backends.memory import forget
from jobs_core.config import Config, Topic
from jobs_core.config_sources import load
from jobs_core.errors import ConfigError, DuplicateJob, JobDefinitionError, PayloadError, ResultUnreadable
from jobs_core.ids import new_token
from jobs_core.message import decode, encode, new_message
from jobs_core.payloads import Keyring, Payloads
from jobs_core.plugins import Plugins
from jobs_core.runs.outcome import settlement
from jobs_core.testing import JobsQueue
from jobs_core.worker.decoder import Decoder

K1 = "k1:" + "a" * 20 + "0123456789abcdefghijklmnop"
K2 = "k2:" + "b" * 20 + "0123456789abcdefghijklmnop"
OTHER_K1 = "k1:" + "c" * 46
SECRET = "the patient's name is Ada"


def no_codec(name, key):
    raise AssertionError(name)


@pytest.fixture
def app_with(registry):
    made = []

    def app_with(*keys, **settings):
        app = App(
            Config(backend=f"memory://{new_token()}", encryption_keys=list(keys), **settings),
            plugins=Plugins(),
            registry=registry,
        )
        made.append(app)
        return app

    yield app_with
    for app in made:
        app.close()
        forget(app.backend_url)


@pytest.fixture
def treat(registry):
    @job(registry=registry, name="treat", store_result=True)
    def treat(patient: str, dose: float = 1.0, *, notes: list[str] | None = None) -> dict[str, str]:
        return {"treated": patient}

    return treat


def enqueued(app, function, *args, **kwargs):
    """Return the delivery of a call that was enqueued with this application."""
    app.enqueue(function.call(*args, **kwargs))
    backend = app.new_backend()
    backend.open(new_token())
    [delivery] = backend.reserve([function.overrides.topic or "default"], 1, new_token())
    backend.close()
    return delivery


def changed(delivery, **fields):
    """Return a delivery with other fields in its envelope, and in its body."""
    envelope = json.loads(delivery.payload)
    envelope["body"].update(fields.pop("body", {}))
    return type(delivery)(
        delivery.id, delivery.topic, json.dumps(envelope | fields).encode(), delivery.token, 0, 0, 0, 0, 1000.0, 1000.0
    )


# -- what is stored --------------------------------------------------------------------------------


def test_nothing_of_arguments_and_results_is_stored_readable(monkeypatch):
    @job(store_result=True, unique=Unique("{patient}"))
    def cure(patient: str, *, notes: list[str]) -> dict[str, str]:
        return {"cured": patient, "notes": notes[0]}

    with JobsQueue(Config(encryption_keys=[K1])) as queue:
        handle = cure.enqueue(SECRET, notes=[SECRET])
        stored = []
        settle = queue._backend.settle
        monkeypatch.setattr(queue._backend, "settle", lambda batch, request: stored.extend(batch) or settle(batch, request))
        record = queue.app.find(handle.id)
        assert (json.loads(record.payload)["v"], json.loads(record.payload)["job"]) == (2, cure.name)
        assert SECRET.encode() not in record.payload
        assert queue.enqueued(cure, SECRET)[0].kwargs == {"notes": [SECRET]}
        queue.drain()
        [settlement] = stored
        assert settlement.result.startswith(b'{"body":')
        assert SECRET.encode() not in settlement.result
        assert handle.result(1) == {"cured": SECRET, "notes": SECRET}


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


@settings(max_examples=25)
@given(st.lists(JSON), st.dictionaries(TEXT.filter(bool), JSON))
def test_every_call_is_decoded_unchanged(args, kwargs):
    payloads = Payloads(Config(encryption_keys=[K2, K1]), no_codec)
    message = new_message("a.b", "t", args, kwargs, headers={"trace": 1}, priority=3)
    _, payload = payloads.encode(message, True)
    assert payloads.unpacked(decode(payload, topic="t")) == message


def test_two_encryptions_of_one_thing_share_nothing():
    ring = Keyring([K1])
    assert len({ring.encrypt(b"same", b"")[1][start : start + 16] for start in (0, 16, 28) for _ in range(50)}) == 150


@pytest.mark.parametrize(
    ("keys", "topics", "option", "version"),
    [
        ([], {}, None, 1),
        ([], {}, False, 1),
        ([K1], {}, None, 2),
        ([K1], {}, False, 1),
        ([K1], {"default": Topic(encrypt=False)}, None, 1),
        ([K1], {"default": Topic(encrypt=False)}, True, 2),
        ([K1], {"default": Topic(encrypt=True)}, False, 1),
        ([K1], {"other": Topic(encrypt=False)}, None, 2),
        ([K1], {"other": Topic(encrypt=True)}, None, 2),
    ],
)
def test_each_topic_and_each_job_may_choose(app_with, registry, keys, topics, option, version):
    chosen = {} if option is None else {"encrypt": option}

    @job(registry=registry, name="j", store_result=True, **chosen)
    def function(what: str) -> None: ...

    app = app_with(*keys, topics=topics)
    delivery = enqueued(app, function, SECRET)
    assert json.loads(delivery.payload)["v"] == version
    assert (SECRET.encode() in delivery.payload) == (version == 1)
    run = Decoder(app).accept(delivery)
    assert run.args == [SECRET]
    assert (run.policy.pack_result is not None) == (version == 2)


def test_a_job_that_must_be_encrypted_is_never_sent_readable(app_with, registry):
    @job(registry=registry, name="j", encrypt=True)
    def function() -> None: ...

    with pytest.raises(JobDefinitionError, match="there are no encryption_keys"):
        app_with().enqueue(function.call())


@pytest.mark.parametrize("table", ["topics.x", "defaults"])
def test_required_encryption_needs_keys(tmp_path, table):
    (tmp_path / "jobs.toml").write_text(f"[{table}]\nencrypt = true")
    with pytest.raises(ConfigError, match=rf"{table}.encrypt.*encryption_keys"):
        load(cwd=tmp_path, environ={})


def test_envelopes_of_jobs_that_are_not_encrypted_are_as_without_keys():
    message = new_message("a.b", "t", ["x", None, 1.5], {"k": [1]}, headers={"h": "null"}, retries=3)
    assert Payloads(Config(encryption_keys=[K1]), no_codec).encode(message, False)[1] == encode(message)


# -- keys ------------------------------------------------------------------------------------------


def test_keys_are_rotated_by_putting_the_new_one_first(app_with, treat):
    old = enqueued(app_with(K1), treat, SECRET)
    rotated = app_with(K2, K1)
    assert Decoder(rotated).accept(old).args == [SECRET]
    assert json.loads(enqueued(rotated, treat, SECRET).payload)["body"]["key"] == "k2"
    result = app_with(K1).payloads.pack_result("id", b'{"value":1}', encrypts=True)
    assert rotated.stored_result("id", result) == {"value": 1}


@pytest.mark.parametrize(
    "key",
    [
        "",
        "secret",
        "k1:short",
        "k1:" + "s" * 31,
        ":" + "s" * 32,
        "k 1:" + "s" * 32,
        "kä:" + "s" * 32,
        "k" * 65 + ":" + "s" * 32,
    ],
)
def test_bad_keys_are_refused_without_being_shown(key):
    with pytest.raises(ConfigError, match=r"encryption_keys\[1\]") as caught:
        Keyring([K1, key])
    assert "sss" not in str(caught.value)


def test_two_keys_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"encryption_keys\[1\].*same name"):
        Keyring([K1, OTHER_K1])


def test_secrets_are_shown_nowhere(tmp_path):
    config = load(cwd=tmp_path, environ={"JOBS_ENCRYPTION_KEYS": f"{K1},{K2}"})
    assert config.config.encryption_keys == [K1, K2]
    for shown in (repr(Keyring([K1, K2])), str(config.rows())):
        assert "0123456789" not in shown


def test_a_secret_for_signing_as_well_yields_another_key():
    ring = Keyring([K1])
    secret = K1.partition(":")[2].encode()
    assert secret not in ring._keys.values()
    assert secret[:32] not in ring._keys.values()


# -- what cannot be read ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "change", "says"),
    [
        ([], {}, "cannot be decrypted: key k1 is not configured: add it to encryption_keys"),
        ([K2], {}, "cannot be decrypted: key k1 is not configured"),
        ([K2, OTHER_K1], {}, "the secret of key k1 is another here"),
        ([K1], {"id": "another"}, "cannot be decrypted: it was changed, belongs to another job"),
        ([K1], {"job": "pay"}, "cannot be decrypted: it was changed, belongs to another job"),
        ([K1], {"body": {"data": ""}}, "cannot be decrypted: it was changed"),
        ([K1], {"body": {"data": base64.b64encode(b"x" * 43).decode()}}, "cannot be decrypted: it was changed"),
        ([K1], {"body": {"data": base64.b64encode(b"x" * 200).decode()}}, "cannot be decrypted: it was changed"),
        ([K1], {"body": {"key": "k7"}}, "key k7 is not configured"),
        ([K1], {"body": {"key": None, "data": base64.b64encode(b"x").decode()}}, "not a list of args and kwargs"),
        ([K1], {"body": {"key": None, "data": base64.b64encode(b"[[1],{},2]").decode()}}, "not a list of args and kwargs"),
        ([K1], {"body": {"key": None, "data": base64.b64encode(b"[" * 100_000).decode()}}, "not a list of args and kwargs"),
    ],
)
def test_a_body_that_cannot_be_read_is_a_dead_letter_that_says_why(app_with, registry, treat, keys, change, says):
    @job(registry=registry, name="pay")
    def pay(whom: str) -> None: ...

    delivery = changed(enqueued(app_with(K1), treat, SECRET), **change)
    settlement = Decoder(app_with(*keys)).accept(delivery)
    assert (settlement.outcome, settlement.reason, settlement.counts) == (Outcome.DEAD, "bad payload", False)
    told = json.loads(settlement.error)["message"]
    assert says in told
    assert told.startswith("the arguments of ")
    assert SECRET not in told
    assert "0123456789" not in told


@pytest.mark.parametrize("place", [0, 15, 16, 27, 28, 40, -16, -1])
def test_one_changed_bit_is_found_wherever_it_is(app_with, treat, place):
    app = app_with(K1)
    delivery = enqueued(app, treat, SECRET)
    data = bytearray(base64.b64decode(json.loads(delivery.payload)["body"]["data"]))
    data[place] ^= 1
    settlement = Decoder(app).accept(changed(delivery, body={"data": base64.b64encode(data).decode()}))
    assert settlement.reason == "bad payload"


@pytest.mark.parametrize(
    ("body", "reason"),
    [(5, "bad message"), ({}, "bad payload"), ({"data": 1}, "bad message"), ({"data": "?"}, "bad message"),
     ({"data": "", "later": 1}, "bad message")],
)  # fmt: skip
def test_a_malformed_body_is_a_dead_letter(app_with, treat, body, reason):
    app = app_with(K1)
    delivery = enqueued(app, treat, SECRET)
    envelope = json.loads(delivery.payload) | {"body": body}
    bad = type(delivery)(delivery.id, "default", json.dumps(envelope).encode(), 1, 0, 0, 0, 0, 1000.0, 1000.0)
    assert Decoder(app).accept(bad).reason == reason


def test_the_body_of_a_plain_envelope_is_an_unknown_field():
    assert decode(b'{"v":1,"topic":"t","job":"a.b","args":[1],"body":"later"}', topic="t").args == [1]


@pytest.mark.parametrize(("keys", "job_id"), [([], "id"), ([K2], "id"), ([OTHER_K1], "id"), ([K1], "another")])
def test_a_result_that_cannot_be_read_is_an_error_that_says_so(app_with, keys, job_id):
    stored = app_with(K1).payloads.pack_result("id", b'{"value":"the patient"}', encrypts=True)
    assert b"patient" not in stored
    with pytest.raises(ResultUnreadable, match=f"job {job_id} is done, but its result cannot be decrypted: ") as caught:
        app_with(*keys).stored_result(job_id, stored)
    assert "patient" not in str(caught.value)


def test_arguments_are_not_taken_for_a_result(app_with, treat):
    app = app_with(K1)
    delivery = enqueued(app, treat, SECRET)
    body = json.loads(delivery.payload)["body"]
    with pytest.raises(PayloadError):
        app.payloads.unpack_result(delivery.id, json.dumps({"body": body}, separators=(",", ":")).encode())


def test_what_follows_an_end_gets_the_result_and_what_follows_an_unreadable_job_gets_no_arguments(app_with, registry):
    @job(registry=registry, name="after")
    def after(reason: str, result: str | None, args: list[str]) -> None: ...

    @job(registry=registry, name="treat", on_done=after, on_dead=after, store_result=True)
    def treat(patient: str) -> str: ...

    app = app_with(K1)
    delivery = enqueued(app, treat, SECRET)
    run = Decoder(app).accept(delivery)
    run.value = SECRET
    [followup] = settlement(run).followups
    assert SECRET.encode() not in followup.payload
    message = app.payloads.unpacked(decode(followup.payload, topic="default"))
    assert message.kwargs == {"reason": "", "result": SECRET, "args": [SECRET]}
    other = app_with(K2)
    [followup] = Decoder(other).accept(delivery).followups
    message = other.payloads.unpacked(decode(followup.payload, topic="default"))
    assert message.kwargs == {"reason": "bad payload", "result": None, "args": []}


def test_a_message_with_points_in_time_that_is_sent_later_keeps_its_arguments(app_with, treat):
    app = app_with(K1)
    call = treat.using(at=dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=1)).call(SECRET)
    sent = app.outgoing(app.message(call))
    renewed = app.renewed(call.job, sent)
    assert app.payloads.unpacked(decode(renewed.payload, topic="default")).args == [SECRET]


# -- unique keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize("unique", [True, "{patient}", "ward-7", Unique(lambda patient, **_: patient, conflict="raise")])
def test_unique_keys_hold_and_cannot_be_read(app_with, registry, unique):
    made = [job(registry=registry, name=name, unique=unique)(lambda patient, dose=1: None) for name in ("first", "second")]
    app = app_with(K1)
    handles = []
    for function in made:
        handles.append(app.enqueue(function.call(SECRET)))
        raises = isinstance(unique, Unique)
        with pytest.raises(DuplicateJob, match=handles[-1].id) if raises else contextlib.nullcontext() as refused:
            assert app.enqueue(function.call(SECRET)).id == handles[-1].id
        assert SECRET not in str(refused)
    assert handles[0].id != handles[1].id
    for handle, name in zip(handles, ("first", "second"), strict=True):
        message = app.read(app.find(handle.id))
        assert message.unique.key.startswith(f"{name}:")
        assert SECRET not in message.unique.key
        assert "ward" not in message.unique.key
