"""Limits and keys from `@job` and `using` to the backend: the names in a job, the values that an enqueue sends, the errors."""

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, ClassVar

import pytest
from msgspec.structs import replace

from jobs_core import App, Flow, JobDefinitionError, chain, current_job, group, job, set_current_app
from jobs_core.backends.base import BackendOptions
from jobs_core.backends.limits import MOST_LIMITS, Limit, Lines, line_of_foreign
from jobs_core.backends.memory import MemoryBackend, forget
from jobs_core.config import Config, Pool, ScheduleEntry, Topic
from jobs_core.config import Limit as Defined
from jobs_core.errors import MessageError, NotSupported, elsewhere
from jobs_core.limiting import define, defined_limits, defined_lines, uses
from jobs_core.message import decode
from jobs_core.plugins import Plugins
from jobs_core.registry import Registry
from jobs_core.schedule import Ticker
from jobs_core.units import Duration, format_rate, interval
from jobs_core.worker.main import Worker


class WithLines(MemoryBackend):
    features = MemoryBackend.features | {"limits", "fairness"}


class WithoutLines(MemoryBackend):
    features = MemoryBackend.features - {"limits", "fairness"}


def app_with(kind, config=None):
    app = App(config or Config(backend="memory://limiting"), plugins=Plugins(), registry=Registry())
    app._make_backend = lambda clock: kind("memory://limiting", app.backend_options(clock))
    return app


@pytest.fixture
def app():
    return app_with(WithLines)


def pays(account, order: Any = None): ...


def pay(**options):
    return job(name="shop.pay", registry=Registry(), **options)(pays)


@dataclass
class Order:
    tenant: str = "acme"


LIMITS = {
    "a single string": ("stripe", ("stripe",)),
    "several, sorted, without duplicates": (("stripe", "api", "stripe"), ("api", "stripe")),
    "a list": (["stripe"], ("stripe",)),
    "a template that names an argument": ("stripe:{account}", ("stripe:7",)),
    "name and template": (("stripe", "stripe:{account}"), ("stripe", "stripe:7")),
    "an attribute of an argument": ("api:{order.tenant}", ("api:acme",)),
    "a function": (lambda account, order=None: f"stripe:{account}", ("stripe:7",)),
    "a function that returns several": (lambda account, order=None: ["b", "a", f"b:{account}"], ("a", "b", "b:7")),
    "a function that returns none": (lambda account, order=None: None, ()),
    "a function beside a name": (("all", lambda account, order=None: f"stripe:{account}"), ("all", "stripe:7")),
    "None": (None, ()),
    "an empty tuple": ((), ()),
    "braces that stand for themselves": ("stripe:{{x}}", ("stripe:{x}",)),
}


@pytest.mark.parametrize(("given", "expected"), LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("where", ["job", "using"])
def test_an_enqueue_sends_the_limits_that_the_job_names(app, given, expected, where):
    made = pay(limits=given) if where == "job" else pay().using(limits=given)
    sent, _ = app.prepare(made.call(7, order=Order()) if "order" in repr(given) else made.call(7, order=None))
    assert sent.limits == expected


@pytest.mark.parametrize(("given", "expected"), LIMITS.values(), ids=LIMITS)
def test_using_replaces_the_limits_of_the_job(app, given, expected):
    sent, _ = app.prepare(pay(limits="other").using(limits=given).call(7, order=Order() if "order" in repr(given) else None))
    assert sent.limits == expected
    assert decode(sent.payload, topic="default").limits == list(expected)  # so a worker does not add those of the function


KEYS = {
    "text": ("tenant-7", "tenant-7"),
    "a template": ("tenant-{account}", "tenant-7"),
    "a function": (lambda account, order=None: f"t{account}", "t7"),
    "a function without a key for this call": (lambda account, order=None: None, ""),
    "None": (None, ""),
    "braces without a name": ("{} {0} {", "{} {0} {"),
}


@pytest.mark.parametrize(("given", "expected"), KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("where", ["job", "using"])
def test_an_enqueue_sends_the_key(app, given, expected, where):
    made = pay(key=given) if where == "job" else pay(key="other").using(key=given)
    sent, _ = app.prepare(made.call(7))
    assert sent.key == expected
    assert (decode(sent.payload, topic="default").key or "") == expected


@pytest.mark.parametrize("option", ["limits", "key"])
@pytest.mark.parametrize("given", ["a:{missing}", "a:{missing.x}", "a:{account:{width}}"])
def test_a_template_that_names_no_parameter_is_refused_where_it_is_written(option, given):
    for write in (lambda: pay(**{option: given}), lambda: pay().using(**{option: given})):
        with pytest.raises(JobDefinitionError, match=rf"{option}: .* not a parameter of the function: it may name \{{account"):
            write()


@pytest.mark.parametrize(
    "given",
    ["", " ", "a b", "x" * 65, ":v", "a:", "a:" + "v" * 129, "a:\n", "key/a:b", "é", "a:\ud800", 5, b"a", {"a": 1},
     "{account}", "a{account}:b", ("a", 5), ["a", ""], tuple("abcdefghi"), "a:{", "a:{account!x}"],
)  # fmt: skip
def test_invalid_limit_names_are_refused_at_definition(given):
    for write in (lambda: pay(limits=given), lambda: pay().using(limits=given)):
        with pytest.raises(JobDefinitionError, match="limits: "):
            write()


UNFIT = {
    "an empty value": ("stripe:{account}", ""),
    "too long": ("stripe:{account}", "x" * 129),
    "a newline": ("stripe:{account}", "a\nb"),
    "NUL": ("stripe:{account}", "a\0"),
    "a surrogate": ("stripe:{account}", "\udc80"),
    "a function's text": (lambda account: account, "no limit"),
    "a function's number": (lambda account: account, 5),
    "a function's list of numbers": (lambda account: account, [5]),
    "a function's many": (lambda account: account, [f"a:{n}" for n in range(MOST_LIMITS + 1)]),
}


@pytest.mark.parametrize(("given", "account"), UNFIT.values(), ids=UNFIT)
def test_limits_that_cannot_be_stored_are_refused_at_the_enqueue(app, given, account):
    with pytest.raises(MessageError, match=r"shop\.pay: limits: "):
        app.prepare(pay(limits=given).call(account))


@pytest.mark.parametrize(
    ("given", "account"),
    [("{account}", "x" * 513), ("{account}", "a\nb"), ("{account}", "\udc80"), (lambda account: account, 5)],
)
def test_keys_that_cannot_be_stored_are_refused_at_the_enqueue(app, given, account):
    with pytest.raises(MessageError, match=r"shop\.pay: key: "):
        app.prepare(pay(key=given).call(account))


@pytest.mark.parametrize("option", ["limits", "key"])
def test_an_error_of_the_function_reaches_the_caller(app, option):
    with pytest.raises(ZeroDivisionError):
        app.prepare(pay(**{option: lambda account: 1 / 0}).call(7))


def test_a_job_without_limits_sends_none_and_its_message_is_as_before(app):
    sent, _ = app.prepare(pay().call(7))
    assert (sent.key, sent.limits) == ("", ())
    assert b"limits" not in sent.payload
    assert b"key" not in sent.payload


def test_early_acknowledgement_is_refused_with_limits_at_definition_and_enqueue():
    with pytest.raises(JobDefinitionError, match='acks="early"'):
        pay(acks="early", limits="a")
    with pytest.raises(JobDefinitionError, match='acks="early"'):
        pay(acks="early").using(limits="a")
    early = app_with(WithLines, Config(backend="memory://limiting", topics={"default": Topic(acks="early")}))
    with pytest.raises(JobDefinitionError, match='acks="early"'):
        early.prepare(pay(limits="a").call(7))
    assert early.prepare(pay(limits="a", acks="late").call(7))[0].limits == ("a",)
    assert pay(acks="early", limits=None).options.limits == ()


def test_a_backend_without_limits_refuses_them_and_names_the_fix():
    app = app_with(WithoutLines)
    with pytest.raises(NotSupported, match=r"does not support limits: shop\.pay has limits \(a\): leave them out, or choose"):
        app.prepare(pay(limits="a").call(7))
    assert app.prepare(pay(limits=None).call(7))[0].limits == ()


@pytest.mark.parametrize("url", ["amqp://localhost", "redis+cluster://localhost"])
def test_brokers_that_lack_a_feature_refuse_its_enqueue_and_name_backends_that_have_it(url):
    app = App(Config(backend=url, topics={"default": Topic(fair=True, max_per_key=5)}))
    assert elsewhere("limits").startswith("choose a backend that has limits (sqlite://, ")
    with pytest.raises(NotSupported, match=f"does not support limits: .* leave them out, or {re.escape(elsewhere('limits'))}"):
        app.prepare(pay(limits="a").call(7))
    if url.startswith("amqp:"):
        setting = r"topics\.default\.fair = true with max_per_key = 5: remove it"
        fix = re.escape(elsewhere("fairness"))
        with pytest.raises(NotSupported, match=f"^amqp:// does not support fairness: {setting}, or {fix}"):
            app.prepare(pay(key="a").call(7))
    else:
        assert app.prepare(pay(key="a").call(7))[0].key == "a"
    set_current_app(app)
    try:
        for compose in (lambda flow: flow.add(pay().call(7)), lambda flow: flow.add(chain(pay().call(7)))):
            refused = pytest.raises(NotSupported, match=r"does not support flows: .* choose a backend that has flows \(\w+://")
            with refused, Flow() as flow:
                compose(flow)
        for work in (chain(pay().call(7)), group([pay().call(7)])):
            with pytest.raises(NotSupported, match=r"does not support flows"):
                work.enqueue()
    finally:
        set_current_app(None)
        app.close()


def test_a_backend_without_fairness_stores_keys_and_refuses_them_in_fair_topics():
    assert app_with(WithoutLines).prepare(pay(key="a").call(7))[0].key == "a"
    fair = app_with(WithoutLines, Config(backend="memory://limiting", topics={"default": Topic(fair=True)}))
    with pytest.raises(NotSupported, match=r"does not support fairness: topics\.default\.fair"):
        fair.prepare(pay(key="a").call(7))
    assert fair.prepare(pay().call(7))[0].key == ""


def test_a_hook_can_change_limits_and_they_are_checked_again(app):
    message = app.message(pay(limits="a").call(7))
    assert app.outgoing(replace(message, limits=["b", "a", "b"])).limits == ("a", "b")
    with pytest.raises(MessageError, match="limits: "):
        app.outgoing(replace(message, limits=["no limit"]))


# -- definitions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "seconds", "shown"),
    [("100/s", 0.01, "100/s"), ("10/m", 6.0, "10/m"), ("1000/h", 3.6, "1000/h"), ("5/10s", 2.0, "30/m"), ("1/d", 86400, "1/d"),
     ("1/2h30m", 9000, "1/2h30m"), (" 1_000 / s ", 0.001, "1000/s"), ("1/500ms", 0.5, "2/s"), ("1/s", 1, "1/s")],
)  # fmt: skip
def test_a_rate_is_read_and_shown_as_people_write_it(rate, seconds, shown):
    assert interval(rate) == pytest.approx(seconds)
    assert format_rate(interval(rate)) == shown


@pytest.mark.parametrize(
    "rate", ["", "5", "/s", "0/s", "-1/s", "1.5/s", "1/", "1/x", "1/0s", "1/s/s", "s/1", "9999999/s", "1/99999d", 5]
)
def test_anything_else_is_not_a_rate(rate):
    with pytest.raises(ValueError, match="expected a rate such as"):
        interval(rate)


def test_the_configuration_defines_limits_and_how_topics_are_served():
    config = Config(
        limits={
            "stripe": Defined(concurrency=5, rate="10/s", burst=20),
            "closed": Defined(concurrency=0),
            "slow": Defined(rate="50/s"),
            "fast": Defined(rate="500/s"),
            "strict": Defined(rate="500/s", burst=1),
        },
        topics={"mail": Topic(fair=True, max_per_key=5), "slow": Topic(max_per_key=5), "far": Topic(fair=True, serve=False)},
        pools={"default": Pool(topics=["default", "mail", "slow"])},
    )
    assert defined_limits(config) == {
        "stripe": Limit(5, 0.1, 20),
        "closed": Limit(0, None, 1),
        "slow": Limit(None, 0.02, 1),
        "fast": Limit(None, 0.002, 10),
        "strict": Limit(None, 0.002, 1),
    }
    assert defined_lines(config) == {
        "default": Lines(),
        "mail": Lines(fair=True, max_per_key=5),
        "slow": Lines(),  # max_per_key belongs to fair, and `check` says so
        "far": Lines(fair=True),
    }


def test_the_names_that_jobs_use_are_known_without_a_call():
    registry = Registry()
    job(name="a", registry=registry, limits=("x", "x:{account}", "y"))(lambda account: None)
    job(name="b", registry=registry, limits="y")(lambda: None)
    assert uses(registry) == {"x": ["a", "a"], "y": ["a", "b"]}


@pytest.mark.parametrize(
    ("key", "limits", "line"),
    [
        ("acme", ["b", "a", "b"], ("acme", ("a", "b"))),
        (None, None, ("", ())),
        ("x" * 513, ["no limit"], ("", ())),
        ("a", [f"a:{n}" for n in range(MOST_LIMITS + 1)], ("a", ())),
    ],
)
def test_a_foreign_producers_key_and_limits_are_taken_over_if_they_can_be_stored(key, limits, line):
    assert line_of_foreign(key, limits) == line


# -- every way of enqueueing -----------------------------------------------------------------------


class Seen(WithLines):
    """Remembers what was pushed, by itself or with a settlement."""

    sent: ClassVar[list] = []

    def define_limits(self, limits, topics): ...

    def push(self, messages, request):
        self.sent.extend(messages)
        return super().push(messages, request)

    def settle(self, settlements, request):
        self.sent.extend(message for each in settlements for message in each.followups)
        return super().settle(settlements, request)


@pytest.fixture
def seen():
    forget("memory://limiting")
    config = Config(
        backend="memory://limiting",
        schedule={"often": ScheduleEntry(job="shop.charge", every=Duration(1), kwargs={"account": 7})},
    )
    app = app_with(Seen, config)
    Seen.sent = []

    @job(name="shop.charge", registry=app.registry, limits=("stripe", "stripe:{account}"), key="k{account}")
    def charge(account: int = 7) -> None: ...

    @job(name="shop.order", registry=app.registry, on_done="shop.audit")
    def order(way: str) -> None:
        if way == "follow-up":
            current_job().enqueue(charge, 7)
        elif way == "within":
            charge.enqueue(7)

    @job(name="shop.audit", registry=app.registry, limits="stripe:7", key=lambda **facts: "k7")
    def audit(id: str) -> None: ...

    set_current_app(app)
    yield app, charge, order
    set_current_app(None)
    app.close()
    forget("memory://limiting")


def tick(app):
    ticker = Ticker(app, None)
    ticker.due(1000.0)
    backend = app.new_backend()
    ticker.enqueue(ticker.due(1002.0), backend.push)


def worked(app, order, way):
    order.enqueue(way)
    Worker(app, "p", Pool(), None, drain=True).run()


WAYS = {
    "enqueue": lambda app, charge, order: charge.enqueue(7),
    "aenqueue": lambda app, charge, order: asyncio.run(charge.aenqueue(7)),
    "enqueue_many": lambda app, charge, order: charge.enqueue_many([(7,)]),
    "aenqueue_many": lambda app, charge, order: asyncio.run(charge.aenqueue_many([{"account": 7}])),
    "with a delay": lambda app, charge, order: charge.using(delay=60).enqueue(7),
    "at a time": lambda app, charge, order: charge.using(at=datetime.now(timezone.utc)).enqueue(7),
    "the schedule": lambda app, charge, order: tick(app),
    "a follow-up": lambda app, charge, order: worked(app, order, "follow-up"),
    "within a job": lambda app, charge, order: worked(app, order, "within"),
    "on_done": lambda app, charge, order: worked(app, order, "alone"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_enqueueing_gives_limits_and_key(seen, way):
    app, charge, order = seen
    WAYS[way](app, charge, order)
    job_name = "shop.audit" if way == "on_done" else "shop.charge"
    found = {(message.key, message.limits) for message in Seen.sent if decode(message.payload, topic="default").job == job_name}
    assert found == {("k7", ("stripe:7",) if way == "on_done" else ("stripe", "stripe:7"))}


def test_definitions_are_written_to_backends_that_keep_them_and_others_are_named(caplog):
    defined = []

    class Defining(WithLines):
        def define_limits(self, limits, topics):
            defined.append((limits, topics))

    define(Defining("memory://limiting", BackendOptions()), Config(limits={"a": Defined(concurrency=1)}))
    assert defined == [({"a": Limit(1)}, {"default": Lines()})]
    config = Config(limits={"a": Defined(concurrency=1)}, topics={"b": Topic(fair=True)})
    define(WithoutLines("memory://limiting", BackendOptions()), config)
    assert [record.getMessage() for record in caplog.records] == [
        f"topics.b.fair has no effect: memory:// does not support fairness: {elsewhere('fairness')}",
        f"limits.a has no effect: memory:// does not support limits: {elsewhere('limits')}",
    ]
