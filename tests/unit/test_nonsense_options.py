"""Options that nobody can mean: each is refused where it is written, in an error of ours that says how to fix it."""

import math
import re
from datetime import timedelta

import pytest

from jobs_core import (
    App,
    Backoff,
    Config,
    Discard,
    Injected,
    JobDefinitionError,
    Retry,
    RetryRule,
    Snooze,
    Unique,
    injected,
    job,
)
from jobs_core.config import Defaults, Topic
from jobs_core.errors import LoadError, UnknownOption
from jobs_core.registry import Registry
from jobs_core.retry_rules import rules_of
from jobs_core.worker.main import prepare


def define(function=None, **options):
    def send(to: str = "") -> None: ...

    return job(name="send", registry=Registry(), **options)(function or send)


NO_DURATION = (
    -1,
    -0.001,
    math.nan,
    math.inf,
    -math.inf,
    1e300,
    10**400,
    "-1s",
    "1",
    "soon",
    "",
    True,
    [],
    b"1s",
    timedelta(-1),
)
NO_PERIOD = (*NO_DURATION, 0, 0.0, "0s", timedelta(0))
NO_CLASSES = (
    5,
    "ValueError",
    int,
    (int,),
    (ValueError, "KeyError"),
    ValueError("an instance"),
    (ValueError, ValueError),
    (None,),
)

NONSENSE = [
    *[({option: value}, option) for option in ("timeout", "min_time", "expires", "backoff") for value in NO_DURATION],
    *[({"step_timeout": value, "resumable": True}, "step_timeout") for value in NO_DURATION],
    *[({"retries": value}, "retries") for value in (-2, -1, 1.5, math.nan, "3", None, True, 10**400)],
    *[({"priority": value}, "priority") for value in (-1, 10, 1.5, math.nan, "high", None, True)],
    *[({"unique": lambda v=value: Unique.throttle(v)}, "(unique|Unique.throttle: every)") for value in NO_PERIOD],
    *[({"unique": lambda v=value: Unique.debounce(v)}, "unique") for value in NO_PERIOD],
    ({"unique": Unique(scope="queued", conflict="replace", wait=0)}, "unique"),
    *[({"unique": lambda v=value: Unique.debounce(5, longest=v)}, "unique") for value in (-1, math.nan, "x", 0, 4.9)],
    *[
        ({"unique": value}, "unique")
        for value in (5, "", Unique(key=""), Unique(key=5), Unique(conflict="ask"), Unique(wait=5))
    ],
    *[({"backoff": Backoff(5, longest=value)}, "backoff") for value in ("1s", 0, -1, math.nan, math.inf, "x")],
    *[({"backoff": Backoff(value)}, "backoff") for value in (-1, math.nan, math.inf, "x")],
    *[({"backoff": Backoff(factor=value)}, "backoff") for value in (0, -1, 0.99, 101, math.nan, math.inf, "2", True)],
    *[({option: value}, option) for option in ("retry_on", "discard_on") for value in NO_CLASSES],
    *[
        ({"retry_on": {ValueError: value}}, "retry_on: ValueError")
        for value in (
            -1,
            math.nan,
            "x",
            Backoff(factor=0),
            RetryRule(retries=-2),
            RetryRule(retries=1.5),
            RetryRule(backoff="x"),
        )
    ],
    *[({option: value}, option) for option in ("on_done", "on_dead") for value in (5, "", ValueError, print, "send", [])],
    *[({"aliases": value}, "aliases") for value in (5, "other", None)],
    *[({"acks": value}, "acks") for value in ("never", None, [], True)],
    *[({option: value}, option) for option in ("store_result", "resumable", "encrypt") for value in (1, "yes", None)],
    *[({"topic": value}, "topic") for value in ("", "a b", 5, None, "x" * 1000)],
    ({"registry": "mine"}, "registry"),
    ({"min_time": "10s", "timeout": "9s"}, "min_time"),
    ({"unique": Unique.debounce("30s"), "expires": "10s"}, "unique"),
    ({"unique": Unique.debounce("30s"), "expires": "30s"}, "unique"),
]


@pytest.mark.parametrize(("options", "option"), NONSENSE, ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value))[:60])
def test_an_option_that_nobody_can_mean_is_refused_at_its_definition(options, option):
    with pytest.raises(JobDefinitionError, match=f"^(send: )?{option}") as told:
        options = {name: value() if name == "unique" and callable(value) else value for name, value in options.items()}
        job(name="send", **{"registry": Registry(), **options})(lambda: None)
    assert len(str(told.value)) < 400


@pytest.mark.parametrize(
    "options",
    [
        {"backoff": "2h"},  # longer than the default of `longest`
        {"backoff": Backoff("2h")},
        {"backoff": 0},
        {"timeout": 0},  # none
        {"min_time": "10s", "timeout": 0},
        {"min_time": "10s", "timeout": "10s"},
        {"unique": Unique.debounce("30s"), "expires": "31s"},
        {"retry_on": {ValueError: None}, "discard_on": KeyError},
        {"retry_on": {ValueError: "5s"}},
        {"retry_on": ()},  # no exception
        {"discard_on": ()},
    ],
    ids=str,
)
def test_unusual_options_that_make_sense_are_accepted(options):
    define(**options)


def test_the_first_wait_may_exceed_the_default_of_longest():
    assert define(backoff="2h").options.backoff.ceiling(1) == 7200


CONTRADICTIONS = [
    ({"min_time": "10s"}, {"timeout": "5s"}, "min_time"),
    ({"unique": Unique.debounce("30s")}, {"expires": "10s"}, "unique"),
]


@pytest.mark.parametrize(("options", "overrides", "option"), CONTRADICTIONS, ids=str)
def test_using_refuses_what_contradicts_the_definition(options, overrides, option):
    with pytest.raises(JobDefinitionError, match=rf"^send\.using: {option}"):
        define(**options).using(**overrides)


@pytest.mark.parametrize("place", ["defaults", "topic"])
@pytest.mark.parametrize(("options", "settings", "option"), CONTRADICTIONS, ids=str)
def test_workers_and_enqueues_refuse_what_contradicts_the_configuration(place, options, settings, option):
    settings = {name: float(value.rstrip("s")) for name, value in settings.items()}
    chosen = {"defaults": Defaults(**settings)} if place == "defaults" else {"topics": {"default": Topic(**settings)}}
    registry = Registry()
    made = job(name="send", registry=registry, **options)(lambda: None)
    app = App(Config(backend="memory://", **chosen), registry=registry)
    with pytest.raises(JobDefinitionError, match=f"^send: {option}"):
        app.enqueue(made.call())
    with pytest.raises(LoadError, match=f"send: {option}"):
        prepare(app)


class Mailer: ...


@pytest.mark.parametrize(
    "options",
    [{"unique": "{mailer}"}, {"unique": Unique(key="{to}{mailer}")}, {"key": "{mailer}"}, {"limits": "one:{mailer}"}],
    ids=str,
)
def test_templates_cannot_name_what_a_worker_injects(options):
    def send(to: str, *, mailer: Injected[Mailer] = injected) -> None: ...

    with pytest.raises(JobDefinitionError, match=r"names \{mailer\}, which only a worker injects: it may name \{to\}"):
        define(send, **options)
    with pytest.raises(JobDefinitionError, match="which only a worker injects"):
        define(send).using(**options)
    define(send, unique="{to}")


MISFITS = {
    "a missing argument": (lambda: Unique.debounce(), "Unique.debounce: missing a required argument: 'wait'"),
    "by position": (lambda: Unique.debounce("1s", "2s"), "it takes wait, and by name: longest, key"),
    "unknown": (lambda: Unique.debounce("1s", waits="2s"), "Unique.debounce: there is no option waits: did you mean wait"),
    "unknown, in throttle": (lambda: Unique.throttle("1s", perod="2s"), "Unique.throttle: there is no option perod"),
    "twice": (lambda: Unique.throttle("1s", every="1s"), "Unique.throttle: multiple values for argument 'every'"),
    "nothing": (
        lambda: Unique.throttle(),
        "missing a required argument: 'every': it takes every, and by name: key",
    ),
    "too many": (
        lambda: Unique(1, 2, 3, 4, 5, 6),
        "Unique: Extra positional arguments provided: it takes key, scope",
    ),
    "given by name and position": (lambda: Unique("a", key="b"), "Unique: Argument 'key' given by name and position"),
    "too many waits": (
        lambda: Backoff(1, 2, 3, 4),
        "Backoff: Extra .*: it takes first, longest, factor",
    ),
    "an unknown wait": (lambda: Backoff(firts=1), "Backoff: there is no option firts: did you mean first"),
    "a rule by position": (lambda: RetryRule(3), "RetryRule: .*: it takes by name: retries, backoff"),
    "an unknown rule": (lambda: RetryRule(retrys=3), "RetryRule: there is no option retrys: did you mean retries"),
    "two reasons": (
        lambda: Retry("x", "5m"),
        "Retry: too many .*: it takes reason, and by name: delay, close",
    ),
    "no delay": (lambda: Snooze(), "Snooze: missing a required argument: 'delay'"),
    "no reason": (lambda: Discard(), "Discard: missing a required argument: 'reason'"),
}


@pytest.mark.parametrize(("call", "says"), MISFITS.values(), ids=MISFITS)
def test_arguments_that_do_not_fit_are_answered_with_those_that_do(call, says):
    with pytest.raises(UnknownOption, match=says) as raised:
        call()
    assert isinstance(raised.value, JobDefinitionError)
    assert isinstance(raised.value, TypeError)


class Odd(type):
    """A metaclass whose classes cannot be compared, and so not be hashed."""

    def __eq__(cls, other):
        raise RuntimeError("not comparable")


class OddError(Exception, metaclass=Odd):
    pass


@pytest.mark.parametrize("option", ["retry_on", "discard_on"])
def test_exceptions_whose_class_cannot_be_compared_have_rules_too(option):
    made = define(**{option: (ValueError, OddError, KeyError)})
    rules = rules_of(made.options.retry_on, made.options.discard_on)
    assert isinstance(rules.verdict(OddError), str) == (option == "discard_on")
    with pytest.raises(JobDefinitionError, match="OddError is listed twice"):
        define(**{option: (OddError, ValueError, OddError)})
    with pytest.raises(JobDefinitionError, match="OddError is in retry_on, too"):
        define(retry_on=(ValueError, OddError), discard_on=OddError)


@pytest.mark.parametrize("retry_on", [ConnectionError, (ConnectionError, KeyError), {ConnectionError: "1m"}])
def test_exceptions_to_retry_are_refused_for_a_job_that_is_never_retried(retry_on):
    with pytest.raises(JobDefinitionError, match='send: retry_on: with acks="early", a job runs at most once'):
        define(acks="early", retry_on=retry_on)
    define(acks="early", retry_on=None, discard_on=retry_on if not isinstance(retry_on, dict) else ())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"retries": 3}, "send: retries: no effect"),
        ({"backoff": "5s"}, "send: backoff: no effect"),
        ({"retries": 3, "backoff": Backoff(1)}, "send: retries and backoff: no effect"),
        ({"retries": 0}, None),
        ({}, None),
    ],
)
def test_retries_of_a_job_that_is_never_retried_are_warned_of(options, says, caplog):
    define(acks="early", **options)
    assert [says in line for line in caplog.messages] == ([True] if says else [])
    caplog.clear()
    define(acks="late", **options)
    assert not caplog.messages
