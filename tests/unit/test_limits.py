"""One definition of limits: whatever `@job`, `using` and `enqueue` accept, a worker can read; the rest is refused by name."""

import collections
import enum
import sys
from datetime import timedelta

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace

from jobs_core import App, Backoff, JobDefinitionError, Unique, job
from jobs_core.backends.base import State
from jobs_core.backends.memory import forget
from jobs_core.config import Config
from jobs_core.conversion import json_encoder
from jobs_core.errors import JobsError, MessageError
from jobs_core.message import MAX_NESTING, Message, decode, encode, nesting
from jobs_core.plugins import Implementation, PluginInfo
from jobs_core.registry import Registry
from jobs_core.units import MAX_SECONDS, seconds, shown, shown_time


@pytest.fixture
def app():
    forget("memory://limits")
    made = App(Config(backend="memory://limits"), registry=Registry())
    yield made
    made.close()


def anything(x=None, *args, **kwargs): ...


def defined(**options):
    return job(registry=Registry(), name="shop.anything", **options)(anything)


def arrives(app, call):
    """Enqueue a call, and read what the backend holds as a worker does."""
    handle = app.enqueue(call)
    record = app.find(handle.id)
    message = decode(record.payload, topic=record.topic)
    assert (message.id, message.topic) == (handle.id, record.topic) == (record.id, handle.topic)
    return message


class Text(str):
    """A string like Django's SafeString: its own string is of its own type."""

    def __str__(self):
        return self


class Whole(int): ...


class Real(float): ...


class Level(enum.IntEnum):
    HIGH = 9


NO_TIMES = [
    -1, -0.1, 1e300, 1e308, MAX_SECONDS * 1.01, 10**10, 10**400, 10**5000, float("nan"), float("inf"), True, b"5", [], 5j,
    object(), timedelta.max, timedelta(seconds=-1), timedelta(days=20_000), "", "soon", "5", "1e300s", "-5s",
    "9" * 400 + "s", "20000d", "\ud800s",
]  # fmt: skip
TIMES = [
    0, 0.0, 1, 0.25, MAX_SECONDS, int(MAX_SECONDS), timedelta(0), timedelta(days=10_000), "1h30m", "0s", Whole(5), Real(0.5),
    Text("5m"), Level.HIGH,
]  # fmt: skip


def ids(values):
    return [ascii(shown(value, 20)) for value in values]


@pytest.mark.parametrize("value", NO_TIMES, ids=ids(NO_TIMES))
@pytest.mark.parametrize("option", ["delay", "timeout", "expires", "backoff", "unique", "first", "longest"])
def test_invalid_times_are_refused_by_the_options_name(option, value):
    if option == "unique":
        options = {"unique": Unique(scope=value)}
    elif option in ("first", "longest"):
        option, options = "backoff", {"backoff": Backoff(**{option: value})}
    else:
        options = {option: value}
    define = defined().using if option == "delay" else defined
    with pytest.raises(JobDefinitionError, match=rf"^shop\.anything(\.using)?: {option}: expected a duration") as caught:
        define(**options)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", TIMES, ids=ids(TIMES))
@pytest.mark.parametrize("option", ["delay", "timeout", "expires", "unique"])
def test_every_time_that_is_taken_arrives(app, option, value):
    options = {option: Unique(scope=value) if option == "unique" else value}
    message = arrives(app, defined().using(**options).call(1))
    field = {"expires": "expires_in"}.get(option, option)
    found = getattr(message, field)
    assert (found.scope if option == "unique" else found) == float(seconds(value))


BAD_OPTIONS = {
    "priority": [-1, 10, 1.0, True, "5", None, 10**400, [5]],
    "retries": [-1, 2**31, 10**400, 10**5000, True, 1.5, "3", None],
    "topic": ["", "a b", ".a", "x" * 129, "é", "\ud800", "a/b", "a\n", 5, b"a", None],
    "key": ["", "\ud800", "x" * 513, 5, b"a"],
    "id": ["", "\ud800", "x" * 129, "€" * 43, "a\nb", "a\0", 5, b"a", None],
    "headers": [None, 5, "text", [1], {1: 2}, {b"a": 1}, {"a": object()}, {"\ud800": 1}, {"a": "\ud800"}, {"a": float("nan")}],
    "unique": [5, b"a", "", "\ud800", "x" * 513, Unique(key=5), Unique(key=""), Unique(conflict=5), Unique(scope=[])],
    "store_result": [1, "yes", None],
    "on_commit": [1, "yes"],
}


ONE_BY_ONE = [(name, value) for name, values in BAD_OPTIONS.items() for value in values]


@pytest.mark.parametrize(("option", "value"), ONE_BY_ONE, ids=ids(ONE_BY_ONE))
def test_an_option_out_of_its_limits_is_refused_by_its_name(option, value):
    with pytest.raises(JobDefinitionError, match=rf"^shop\.anything\.using: {option}: ") as caught:
        defined().using(**{option: value})
    assert len(str(caught.value)) < 400


texts = st.text(st.characters(codec="utf-8"), min_size=1)
options = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.integers(0, 9) | st.just(Level.HIGH),
        "retries": st.integers(0, 2**31 - 1),
        "timeout": st.none() | st.floats(0, MAX_SECONDS),
        "delay": st.floats(0, MAX_SECONDS),
        "expires": st.floats(0, MAX_SECONDS),
        "key": texts.filter(lambda text: len(text) <= 512),
        "id": texts.filter(lambda text: text.isprintable() and len(text.encode()) <= 128),
        "topic": st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}", fullmatch=True),
        "headers": st.dictionaries(texts, st.none() | st.booleans() | st.integers() | texts, max_size=3),
        "unique": st.tuples(
            texts.filter(lambda text: "{" not in text and len(text) < 490),
            st.sampled_from(["queued", "done"]) | st.floats(0, MAX_SECONDS),
        ).map(lambda both: Unique(*both)),
    },
)
any_text = st.text(st.characters(codec="utf-8"))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3), max_leaves=8
)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(options=options, value=json_values)
def test_a_worker_can_read_everything_that_enqueue_accepts(options, value):
    forget("memory://limits-any")
    app = App(Config(backend="memory://limits-any"), registry=Registry())
    message = arrives(app, defined().using(**options).call(value))
    assert message.args == [value]
    assert message.kwargs == {}
    for name in {"priority", "retries", "timeout", "delay", "key", "id", "topic", "headers"} & set(options):
        expected = None if name == "delay" and not options["delay"] else options[name]
        assert getattr(message, name) in (expected, options[name])
    app.close()


@pytest.mark.parametrize(("length", "fits"), [(497, True), (498, True), (499, False), (5000, False)])
def test_a_unique_key_is_measured_as_it_is_stored(app, length, fits):
    call = defined(unique="{x}").call("x" * length)
    if fits:
        assert len(arrives(app, call).unique.key) == len("shop.anything:") + length <= 512
    else:
        with pytest.raises(MessageError, match=r"shop.anything: the unique key of this call.*limit is 512.*unique=True"):
            app.enqueue(call)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("{missing}", r"names \{missing\}"),
        ("{x.y}", "cannot be filled in"),
        ("{x[9]}", "cannot be filled in"),
        ("{", "is not a template"),
        ("{}", r"names \{\}"),
        ("{x:d}", "cannot be filled in"),
        ("{x!q}", "is not a template"),
    ],
)
def test_an_unfillable_unique_key_is_reported_by_the_key(app, key, reason):
    with pytest.raises(JobDefinitionError, match=f"shop.anything: unique: the key .* {reason}"):
        app.enqueue(defined(unique=key).call("text"))


@pytest.mark.parametrize("value", ["\ud800", 10**5000, "deep"], ids=["surrogate", "int", "deep"])
@pytest.mark.parametrize("unique", [True, "{x}", None])
def test_an_unserializable_value_is_reported_by_the_job(app, unique, value):
    with pytest.raises(JobsError, match=r"shop\.anything"):
        app.enqueue(defined(unique=unique).call(nested(5000) if value == "deep" else value))


def nested(depth, kind=list):
    value = None
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


def circle():
    value = []
    value.append(value)
    return value


UNWRITABLE = {
    "nested too deep": nested(MAX_NESTING + 1),
    "700 lists": nested(700),
    "700 dicts": nested(700, dict),
    "endless lists": nested(100_000),
    "itself": circle(),
    "brackets in texts beside": ["]" * 500, nested(MAX_NESTING)],
    "a surrogate": "\ud800",
    "a surrogate in a key": {"\ud800": 1},
    "an int of many digits": 10**5000,
    "not a number": float("nan"),
    "not a number of a subclass": Real("nan"),
    "infinity as a key": {float("inf"): 1},
    "an object": object(),
    "a tuple as a key": {(1, 2): 3},
    "None as a key": {None: 1},
    "a range": range(3),
}


@pytest.mark.parametrize("value", UNWRITABLE.values(), ids=UNWRITABLE)
@pytest.mark.parametrize("form", ["positional", "named", "rest", "header"])
def test_values_beyond_json_are_refused_by_the_arguments_name(app, form, value):
    told = {"positional": "argument", "named": "'y'", "rest": "argument", "header": "headers"}
    with pytest.raises(JobsError, match=told[form]):
        if form == "header":
            defined().using(headers={"y": value})
        elif form == "named":
            app.enqueue(defined().call(y=value))
        else:
            app.enqueue(defined().call(*[value] if form == "positional" else [1, value]))


Pair = collections.namedtuple("Pair", "a b")
CARRIED = {
    "nested as deep as may be": (nested(MAX_NESTING), nested(MAX_NESTING)),
    "dicts as deep as may be": (nested(MAX_NESTING, dict), nested(MAX_NESTING, dict)),
    "wide, not deep": ([[n] for n in range(3000)], [[n] for n in range(3000)]),
    "brackets in texts": (["[" * 500, '"[{\\"' * 200], ["[" * 500, '"[{\\"' * 200]),
    "a str of a kind": (Text("<b>"), "<b>"),
    "an int of a kind": (Whole(5), 5),
    "a float of a kind": (Real(-0.5), -0.5),
    "numbers as keys": ({Level.HIGH: 2, 0.5: 3}, {"9": 2, "0.5": 3}),
    "an enum": ([Level.HIGH], [9]),
    "a dict of a kind": (collections.OrderedDict(a=1), {"a": 1}),
    "a list of a kind": (type("L", (list,), {})([1]), [1]),
    "a tuple of a kind": (Pair(1, 2), [1, 2]),
    "a large int": (10**400, 10**400),
    "a set": ({1}, [1]),
    "bytes": (b"x", "eA=="),
    "ints as keys": ({1: 2}, {"1": 2}),
}


@pytest.mark.parametrize(("value", "comes"), CARRIED.values(), ids=CARRIED)
def test_json_values_arrive_unchanged(app, value, comes):
    assert arrives(app, defined().call(value)).args == [comes]
    assert arrives(app, defined().using(headers={"h": 1}).call(y=value)).kwargs == {"y": comes}


@pytest.mark.parametrize(
    ("kind", "value"), [(str, Text("<b>")), (int, Whole(5)), (float, Real(0.5)), (int, Level.HIGH), (bytes, b"x")]
)
def test_subclasses_of_plain_types_fit_their_annotations_and_are_results(app, kind, value):
    def f(x): ...

    f.__annotations__["x"] = kind
    made = job(registry=Registry(), name="f")(f)
    made.arguments.check((value,), {})
    assert json_encoder.encode({"value": value}) == json_encoder.encode({"value": kind(value)})


@given(json_values)
def test_nesting_is_counted_as_it_is(value):
    def depth(value):
        if isinstance(value, dict):
            return 1 + max(map(depth, value.values()), default=0)
        return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

    assert nesting(msgspec.json.encode(value)) == depth(value)


def test_every_encoded_message_decodes_on_another_stack():
    """A worker may stand deeper, or less deep, in its stack than the producer."""
    payload = encode(Message(v=1, job="a", topic="t", args=[nested(MAX_NESTING)]))

    def deeper(levels):
        return deeper(levels - 1) if levels else decode(payload, topic="t")

    assert deeper(sys.getrecursionlimit() // 2).args == [nested(MAX_NESTING)]


def test_a_hook_that_breaks_a_limit_is_reported_at_enqueue(app, monkeypatch):
    for change in (
        {"priority": 10},
        {"id": "x" * 129},
        {"topic": ""},
        {"delay": 1e300},
        {"job": "x" * 201},
        {"kwargs": {"a": nested(700)}},
    ):
        app._envelopes.before_enqueue = [
            Implementation(
                "jobs_before_enqueue",
                PluginInfo("changes", "tests", "1"),
                lambda message, change=change: replace(message, **change),
                ("message",),
            )
        ]
        with pytest.raises(MessageError, match="no worker|too deep|deeper"):
            app.enqueue(defined().call(1))


def test_far_off_times_are_shown(app):
    for at in (1e300, -1e300, float("inf"), float("nan"), 10**400):
        assert shown_time(at) == "beyond the calendar"
    assert shown_time(1.8e9 + MAX_SECONDS).startswith("20")
    handle = app.enqueue(defined().using(delay=MAX_SECONDS).call(1))
    assert handle.status() is State.SCHEDULED
