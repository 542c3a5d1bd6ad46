"""The envelope."""

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_core.errors import ConfigError, MessageError, MessageTooLarge, SignatureError, UnknownVersion
from jobs_core.message import Message, Signer, decode, encode, new_message

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "envelope.schema.json").read_text())
KEY = "k1:" + "s" * 32
OTHER = "k2:" + "t" * 32

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(plain, max_size=3))
def test_encoded_messages_match_the_schema(args):
    message = new_message("shop.pay", "money", args, {}, retries=2, timeout=1.0)
    jsonschema.validate(json.loads(encode(message)), SCHEMA)


options = st.fixed_dictionaries(
    {},
    optional={
        "delay": st.floats(0.001, 1e6),
        "expires_in": st.floats(0.001, 1e6),
        "priority": st.integers(0, 9),
        "retries": st.integers(0, 9),
        "timeout": st.floats(0.001, 1e6),
        "store_result": st.booleans(),
        "key": st.text(),
    },
)


@given(
    options, st.text(max_size=40), st.lists(plain, max_size=3), st.dictionaries(st.text(), plain, max_size=3), st.floats(1, 2e9)
)
def test_encoded_messages_are_decoded(options, job_id, args, kwargs, at):
    message = Message(
        v=1, id=job_id or "x", job="shop.pay", topic="money", args=args, kwargs=kwargs, enqueued_at=at, headers={"trace": "1"},
        **options,
    )  # fmt: skip
    assert decode(encode(message), topic="money") == message


def test_unserializable_arguments_are_refused_by_name():
    def encoded(args, kwargs, **options):
        return encode(Message(v=1, id="x", job="shop.pay", topic="money", args=args, kwargs=kwargs, enqueued_at=1.0), **options)

    signer = Signer([KEY])
    assert decode(encoded([1], {}, signer=signer), signer=signer, topic="money").args == [1]
    with pytest.raises(MessageTooLarge, match="shop.pay"):
        encoded(["long" * 10], {}, limit=100)
    for args, kwargs in (([float("nan")], {}), ([], {"a": [float("inf")]}), ([{float("nan"): 1}], {})):
        with pytest.raises(MessageError, match=r"shop.pay: .*argument .* contains NaN or infinity"):
            encoded(args, kwargs)
    with pytest.raises(MessageError, match=r"shop.pay: positional argument 1 cannot be written as JSON"):
        encoded([object()], {})


def test_a_minimal_envelope_of_a_foreign_producer_is_enough():
    message = decode(b'{"v":1,"topic":"email","job":"a.b"}', topic="email")
    assert (message.job, message.args, message.kwargs, message.priority, message.retries) == ("a.b", [], {}, 0, None)


def test_nulls_mean_absent_values():
    text = b'{"v":1,"id":"x","job":"a.b","topic":"t","args":[],"kwargs":{},"enqueued_at":1,"delay":null,"expires_in":null,'
    text += b'"priority":0,"retries":null,"timeout":null,"unique":null,"key":null,"headers":{}}'
    assert decode(text, topic="t").timeout is None


def test_unknown_fields_are_not_an_error():
    assert decode(b'{"v":1,"topic":"t","job":"a.b","later":{"x":1}}', topic="t").job == "a.b"


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"{", "not JSON"),
        (b'{"v":1,"topic":"t","job":"a","args":' + b"[" * 100_000, "not JSON"),
        (b"[1]", "not an envelope"),
        (b'{"v":1,"job":"a.b"}', "topic"),
        (b'{"topic":"t","job":"a.b"}', "`v`"),
        (b'{"v":1,"topic":"t"}', "names no job"),
        (b'{"v":1,"topic":"t","job":"a","args":{}}', "args"),
        (b'{"v":1,"topic":"t","job":"a","priority":10}', "priority"),
        (b'{"v":1,"topic":"t","job":"a","delay":-1}', "delay"),
        (b'{"v":1,"topic":"t","job":7}', "job"),
    ],
)
def test_bad_bytes_are_distinguished(payload, says):
    with pytest.raises(MessageError, match=says):
        decode(payload, topic="t")


@pytest.mark.parametrize("payload", [b'{"v":2,"topic":"t","job":"a"}', b'{"v":2,"shape":"new"}'])
def test_a_later_version_is_for_newer_workers(payload):
    with pytest.raises(UnknownVersion, match="version 2"):
        decode(payload, topic="t", default_job="x.y")


@pytest.mark.parametrize("value", [{"customer": 5}, [1, 2], "text", 7, None, {"v": 1}, {"topic": "t"}])
def test_json_that_is_not_an_envelope_is_the_default_jobs_argument(value):
    message = decode(json.dumps(value).encode(), topic="t", default_job="shop.pay")
    assert (message.job, message.args) == ("shop.pay", [value])


def test_an_envelope_without_job_is_the_default_jobs():
    message = decode(b'{"v":1,"topic":"t","args":[1]}', topic="t", default_job="shop.pay")
    assert (message.job, message.args) == ("shop.pay", [1])


def test_a_broken_envelope_is_not_taken_for_an_argument():
    with pytest.raises(MessageError, match="args"):
        decode(b'{"v":1,"topic":"t","args":5}', topic="t", default_job="shop.pay")


def test_values_that_are_not_json_are_not_arguments_either():
    with pytest.raises(MessageError, match="not JSON"):
        decode(b"hello", topic="t", default_job="shop.pay")


@pytest.mark.parametrize("value", [float("nan"), [1.0, float("inf")], {"x": {"y": float("-inf")}}, {float("nan"): 1}])
def test_nan_and_infinity_are_refused(value):
    with pytest.raises(MessageError, match="NaN or infinity"):
        encode(new_message("a.b", "t", [value], {}))


def test_none_is_not_taken_for_nan():
    assert b"null" in encode(new_message("a.b", "t", [None, {"x": None}], {}))


def test_values_that_json_cannot_hold_are_refused():
    with pytest.raises(MessageError, match="object"):
        encode(new_message("a.b", "t", [object()], {}))


def test_the_size_limit_is_kept_when_encoding():
    with pytest.raises(MessageTooLarge, match="1,0.. bytes, the limit is 1,000.*max_message"):
        encode(new_message("a.b", "t", ["x" * 980], {}), limit=1000)


# -- signatures ------------------------------------------------------------------------------------


def signed(*keys, topic="t"):
    return encode(Message(v=1, topic=topic, job="a.b"), signer=Signer(keys))


def test_a_signed_message_is_read_with_its_key():
    assert decode(signed(KEY), signer=Signer([KEY]), topic="t").job == "a.b"


def test_keys_are_rotated_by_putting_the_new_one_first():
    rotated = Signer([OTHER, KEY])
    assert decode(signed(KEY), signer=rotated, topic="t").job == "a.b"
    assert signed(OTHER, KEY).startswith(b"jobs1.k2.")


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b'{"v":1,"topic":"t","job":"a.b"}', "not signed"),
        (signed(OTHER), "unknown key 'k2'"),
        (signed(KEY)[:-1] + b" ", "does not match"),
        (signed(KEY).replace(b".b", b".c"), "does not match"),
        (signed("k1:" + "u" * 32), "does not match"),
        (b"jobs1.k1.\n{}", "does not match"),
        (b"jobs1.", "not signed"),
        (b"jobs1..\n", "unknown key"),
    ],
)
def test_wrongly_signed_messages_are_refused(payload, says):
    with pytest.raises(SignatureError, match=says):
        decode(payload, signer=Signer([KEY]), topic="t")


def test_a_signed_message_cannot_be_moved_to_another_topic():
    with pytest.raises(SignatureError, match="signed for topic 'money'"):
        decode(signed(KEY, topic="money"), signer=Signer([KEY]), topic="mail")


def test_without_keys_a_signed_message_is_read_unverified():
    assert decode(signed(KEY), signer=Signer([]), topic="t").job == "a.b"


@pytest.mark.parametrize("key", ["", "secret", "k1:short", ":" + "s" * 32, "k 1:" + "s" * 32])
def test_bad_keys_are_refused_without_being_shown(key):
    with pytest.raises(ConfigError, match=r"signing_keys\[0\]") as caught:
        Signer([key])
    assert "s" * 32 not in str(caught.value)


def test_a_signer_does_not_show_its_keys():
    assert "s" * 32 not in repr(Signer([KEY]))


@pytest.mark.parametrize("version", [0, -1, -(10**30)])
def test_a_version_that_never_existed_is_not_a_later_one(version):
    for rest in ('"job":"a.b"', '"job":5'):
        with pytest.raises(MessageError) as failed:
            decode(f'{{"v":{version},"topic":"t",{rest}}}'.encode(), topic="t")
        assert not isinstance(failed.value, UnknownVersion)
    for later in (2, 10**30):
        with pytest.raises(UnknownVersion):
            decode(f'{{"v":{later},"topic":"t","job":"a.b"}}'.encode(), topic="t")
