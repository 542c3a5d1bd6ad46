"""After which exceptions a job is tried again: `retry_on`, `discard_on` and the rules of each class."""

import abc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_core import Backoff, Discard, JobCancelled, JobDefinitionError, JobTimeout, Retry, RetryRule, Snooze, job
from jobs_core.backends.base import Delivery, Outcome
from jobs_core.config import Config, Defaults, Topic
from jobs_core.message import Message
from jobs_core.options import parse, policy
from jobs_core.registry import Registry
from jobs_core.runs.outcome import is_final, settlement
from jobs_core.runs.run import Run

RETRY, DEAD, DEFER, CANCELLED = Outcome.RETRY, Outcome.DEAD, Outcome.DEFER, Outcome.CANCELLED


class Rude(type):
    """A metaclass whose classes are equal to nothing, have no hash, and lie about their bases."""

    def __eq__(cls, other):
        raise RuntimeError

    def __hash__(cls):
        return object.__hash__(cls)

    def __getattribute__(cls, name):
        if name == "__mro__":
            return ()
        return super().__getattribute__(name)


class RudeError(ConnectionError, metaclass=Rude): ...


class Virtual(Exception, abc.ABC): ...


class Both(KeyError, ConnectionError): ...


def run_of(options, *, attempt=0, message_retries=None, config=None):
    delivery = Delivery("id", "t", b"", 7, attempt, 0, 0, 0, 100.0, 200.0)
    rules = policy(parse("f", options), "t", config or Config())
    return Run(delivery, Message(v=1, topic="t", job="f", retries=message_retries), None, rules, [], {})


def ended(error, options, **how):
    run = run_of(options, **how)
    final = is_final(run, error)
    run.error, run.started, run.ended = error, 1.0, 2.0
    ending = settlement(run)
    assert final == (ending.outcome in (DEAD, CANCELLED))
    return ending


@pytest.mark.parametrize(
    ("options", "error", "outcome", "reason"),
    [
        ({}, ValueError(), RETRY, ""),
        ({"retry_on": (ConnectionError, TimeoutError)}, ConnectionError(), RETRY, ""),
        ({"retry_on": (ConnectionError, TimeoutError)}, ConnectionResetError(), RETRY, ""),
        ({"retry_on": ConnectionError}, ConnectionError(), RETRY, ""),
        ({"retry_on": ConnectionError}, OSError(), DEAD, "not retried: OSError is not in retry_on"),
        ({"retry_on": ConnectionError}, ValueError(), DEAD, "not retried: ValueError is not in retry_on"),
        ({"retry_on": None}, ValueError(), RETRY, ""),
        ({"retry_on": ()}, ValueError(), DEAD, "not retried: ValueError is not in retry_on"),
        ({"retry_on": ConnectionError}, SystemExit(1), DEAD, "not retried: SystemExit is not in retry_on"),
        ({"retry_on": BaseException}, SystemExit(1), RETRY, ""),
        ({"discard_on": (LookupError,)}, KeyError(), DEAD, "discarded: KeyError is a LookupError, which is in discard_on"),
        ({"discard_on": LookupError}, LookupError(), DEAD, "discarded: LookupError is in discard_on"),
        ({"discard_on": LookupError}, ValueError(), RETRY, ""),
        # The most derived class decides, in either direction.
        ({"retry_on": OSError, "discard_on": ConnectionError}, OSError(), RETRY, ""),
        ({"retry_on": OSError, "discard_on": ConnectionError}, BrokenPipeError(), DEAD,
         "discarded: BrokenPipeError is a ConnectionError, which is in discard_on"),
        ({"retry_on": ConnectionError, "discard_on": OSError}, BrokenPipeError(), RETRY, ""),
        ({"discard_on": (Exception,), "retry_on": (OSError,)}, TimeoutError(), RETRY, ""),
        ({"retry_on": ConnectionError, "discard_on": KeyError}, Both(), DEAD,
         "discarded: Both is a KeyError, which is in discard_on"),
        # Our own interruptions and signals.
        ({"retry_on": TimeoutError}, JobTimeout("late"), DEAD, "not retried: JobTimeout is not in retry_on"),
        ({"retry_on": JobTimeout}, JobTimeout("late"), RETRY, ""),
        ({"discard_on": JobTimeout}, JobTimeout("late"), DEAD, "discarded: JobTimeout is in discard_on"),
        ({"retry_on": ()}, JobCancelled(), CANCELLED, ""),
        ({"retry_on": ()}, Retry(), RETRY, ""),
        ({"discard_on": BaseException}, Retry(delay=5), RETRY, ""),
        ({"retry_on": ()}, Retry(delay="soon"), RETRY, ""),
        ({"retry_on": ()}, Snooze(5), DEFER, ""),
        ({"retry_on": BaseException}, Discard("no"), DEAD, "discarded: no"),
        # Whatever a class does with its attributes.
        ({"retry_on": ConnectionError}, RudeError(), RETRY, ""),
        ({"discard_on": ConnectionError}, RudeError(), DEAD,
         "discarded: RudeError is a ConnectionError, which is in discard_on"),
        ({"retry_on": Virtual}, ValueError(), DEAD, "not retried: ValueError is not in retry_on"),
    ],
)  # fmt: skip
def test_the_class_of_an_exception_decides_whether_a_job_is_retried(options, error, outcome, reason):
    Virtual.register(ValueError)
    ending = ended(error, options)
    assert (ending.outcome, ending.reason) == (outcome, reason)
    if outcome is DEAD:
        assert ending.counts


TREE = (BaseException, Exception, OSError, ConnectionError, BrokenPipeError, TimeoutError, LookupError, KeyError, IndexError)


@given(
    retried=st.none() | st.frozensets(st.sampled_from(TREE)),
    discarded=st.frozensets(st.sampled_from(TREE)),
    kind=st.sampled_from(TREE),
)
def test_the_nearest_listed_ancestor_decides(retried, discarded, kind):
    discarded -= retried or frozenset()
    listed = (retried or frozenset()) | discarded
    nearest = next((base for base in kind.__mro__ if base in listed), None)
    ending = ended(kind(), {"retry_on": retried, "discard_on": discarded})
    if nearest is None:
        assert ending.outcome is (RETRY if retried is None else DEAD)
    else:
        assert ending.outcome is (DEAD if nearest in discarded else RETRY)


@pytest.mark.parametrize(
    ("rule", "retries", "ceilings"),
    [
        (None, 3, [2, 4, 8]),
        ("1m", 3, [60, 120, 240]),
        (Backoff("1m", factor=1), 3, [60, 60, 60]),
        (Backoff("1s", "5s", factor=3), 3, [1, 3, 5]),
        (RetryRule(retries=5), 5, [2, 4, 8, 16, 32]),
        (RetryRule(retries=0), 0, []),
        (RetryRule(retries=2, backoff=Backoff(10, factor=1)), 2, [10, 10]),
        (RetryRule(backoff=10), 3, [10, 20, 40]),
    ],
)
def test_a_class_may_have_a_rule_of_its_own(rule, retries, ceilings):
    options = {"retry_on": {OSError: None, ConnectionError: rule}, "retries": 3, "backoff": 2}
    outcomes = [ended(ConnectionResetError(), options, attempt=n).outcome for n in range(retries + 1)]
    assert outcomes == [RETRY] * retries + [DEAD]
    for attempt, ceiling in enumerate(ceilings):
        waits = [ended(ConnectionResetError(), options, attempt=attempt).after for _ in range(200)]
        assert 0.9 * ceiling < max(waits) <= ceiling
    assert ended(OSError(), options, attempt=3).outcome is DEAD
    assert ended(Retry(delay=7), options, attempt=2).after == 7


def test_the_retries_of_one_enqueue_override_those_of_a_rule():
    options = {"retry_on": {OSError: RetryRule(retries=9)}}
    assert ended(OSError(), options, attempt=1, message_retries=1).outcome is DEAD
    assert ended(OSError(), options, attempt=1).outcome is RETRY


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("retry_on", "ConnectionError", "retry_on: expected exception classes"),
        ("retry_on", ValueError(), "retry_on: expected exception classes"),
        ("retry_on", (ValueError, "KeyError"), "got 'KeyError' among them"),
        ("retry_on", (int,), "among them"),
        ("retry_on", 5, "expected exception classes"),
        ("retry_on", (Retry,), "Retry always means the same: leave it out"),
        ("retry_on", (JobCancelled,), "JobCancelled always means the same"),
        ("retry_on", (OSError, OSError), "OSError is listed twice"),
        ("retry_on", {OSError: "soon"}, "retry_on: OSError: expected a duration"),
        ("retry_on", {OSError: RetryRule(retries=-1)}, "OSError: retries: expected a whole number"),
        ("retry_on", {OSError: Backoff(1, factor=0.5)}, "OSError: factor: expected a number from 1"),
        ("discard_on", {OSError: None}, "got a mapping"),
        ("discard_on", None, "expected exception classes"),
        ("discard_on", (Discard,), "Discard always means the same"),
        ("backoff", Backoff(factor=True), "backoff: factor: expected a number"),
        ("backoff", Backoff("soon"), "backoff: expected a duration"),
    ],
)
def test_rules_that_cannot_hold_are_refused_when_the_job_is_defined(option, value, part):
    with pytest.raises(JobDefinitionError, match=r"^f: ") as raised:
        job(name="f", registry=Registry(), **{option: value})(lambda: None)
    assert part in str(raised.value)


def test_a_class_cannot_be_retried_and_discarded():
    with pytest.raises(JobDefinitionError, match="f: discard_on: OSError is in retry_on, too"):
        job(name="f", registry=Registry(), retry_on=(OSError,), discard_on=(OSError,))(lambda: None)


@pytest.mark.parametrize(
    ("option", "topic", "default", "built_in"),
    [("retries", 5, 7, 3), ("timeout", 5.0, 7.0, None), ("backoff", 5.0, 7.0, 2.0), ("acks", "late", "early", "late"),
     ("store_result", False, True, False)],
)  # fmt: skip
def test_a_default_of_the_application_holds_where_the_topic_has_none(option, topic, default, built_in):
    def resolved(options, config):
        value = getattr(policy(parse("f", options), "t", config), option)
        return value.first if option == "backoff" else value

    everywhere = Config(defaults=Defaults(**{option: default}))
    both = Config(defaults=Defaults(**{option: default}), topics={"t": Topic(**{option: topic})})
    assert resolved({}, Config()) == built_in
    assert resolved({}, everywhere) == default
    assert resolved({}, both) == topic
    assert resolved({option: built_in if built_in is not None else 9}, both) == (built_in if built_in is not None else 9)
    assert both.topic("other").serve is True
