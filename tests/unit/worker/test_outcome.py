"""The settlement that follows from the way a run ended."""

import msgspec
import pytest

from jobs_core import Backoff, Discard, JobCancelled, JobTimeout, Retry, Snooze
from jobs_core.backends.base import Delivery, Outcome, Outgoing
from jobs_core.message import Message
from jobs_core.options import Policy
from jobs_core.runs.outcome import settlement
from jobs_core.runs.run import Run


def ended(error=None, *, attempt=0, retries=3, value=None, store_result=False, backoff=None, ran=1.0):
    """Return the settlement of a run that ended like this."""
    delivery = Delivery("id", "t", b"", 7, attempt, 0, 0, 0, 100.0, 200.0)
    policy = Policy(retries, None, store_result, backoff or Backoff(2.0), "late", 60.0)
    run = Run(delivery, Message(v=1, topic="t", job="f"), None, policy, [], {})
    run.value, run.error, run.started, run.ended = value, error, 1.0, 1.0 + ran
    return settlement(run)


def test_a_value_is_done():
    done = ended(value=5)
    assert (done.outcome, done.token, done.result) == (Outcome.DONE, 7, None)


def test_a_stored_value_is_json():
    done = ended(value={"a": 1}, store_result=True)
    assert (done.result, done.result_ttl) == (b'{"value":{"a":1}}', 60)


@pytest.mark.parametrize("value", [object(), float("nan"), [float("inf")]])
def test_a_value_that_is_no_json_does_not_fail_the_job(value):
    done = ended(value=value, store_result=True)
    assert done.outcome is Outcome.DONE
    assert "unstorable" in msgspec.json.decode(done.result)


def test_follow_ups_go_with_success_alone():
    delivery = Delivery("id", "t", b"", 7, 0, 0, 0, 0, 100.0, 200.0)
    run = Run(delivery, Message(v=1, topic="t", job="f"), None, Policy(3, None, False, Backoff(), "late", 60.0), [], {})
    run.followups = [Outgoing("x", "t", b"")]
    assert settlement(run).followups == (Outgoing("x", "t", b""),)
    run.error = ValueError()
    assert settlement(run).followups == ()


def test_retries_are_further_attempts():
    outcomes = [ended(ValueError("no"), attempt=attempt, retries=5).outcome for attempt in range(6)]
    assert outcomes == [Outcome.RETRY] * 5 + [Outcome.DEAD]
    assert ended(ValueError("no"), retries=0).outcome is Outcome.DEAD


def test_waits_are_spread_over_the_whole_window_and_doubled():
    for attempt, ceiling in (0, 2.0), (1, 4.0), (2, 8.0):
        waits = [ended(ValueError(), attempt=attempt).after for _ in range(400)]
        assert 0 <= min(waits) < 0.1 * ceiling
        assert 0.9 * ceiling < max(waits) <= ceiling


def test_an_error_is_described_as_text():
    try:
        raise ValueError("kůň")
    except ValueError as error:
        described = msgspec.json.decode(ended(error, attempt=1).error)
    assert (described["type"], described["message"], described["attempt"]) == ("ValueError", "kůň", 2)
    assert 'raise ValueError("kůň")' in described["traceback"]
    assert {"host", "pid", "at"} <= described.keys()


def test_long_texts_are_clipped():
    described = ended(ValueError("x" * 10**6)).error
    assert len(described) < 60_000


def test_a_job_may_choose_its_delay():
    assert ended(Retry(delay="1m")).after == 60
    assert ended(Retry(delay=5)).outcome is Outcome.RETRY
    assert ended(Retry(), backoff=Backoff(0.5)).after <= 0.5
    assert ended(Retry(delay="nonsense"), backoff=Backoff(0.5)).after <= 0.5
    assert ended(Retry(delay=5), attempt=3).outcome is Outcome.DEAD


def test_a_snooze_costs_no_attempt():
    snoozed = ended(Snooze("1h"), attempt=3)
    assert (snoozed.outcome, snoozed.after) == (Outcome.DEFER, 3600)


def test_a_discard_is_dead_with_its_reason_whatever_retries_are_left():
    dead = ended(Discard("no such customer"))
    assert (dead.outcome, dead.reason) == (Outcome.DEAD, "discarded: no such customer")


def test_a_timeout_is_an_attempt():
    assert ended(JobTimeout("late")).outcome is Outcome.RETRY
    assert ended(JobTimeout("late"), retries=0).reason == "timeout"


def test_a_cancelled_job_is_cancelled():
    assert ended(JobCancelled("stop")).outcome is Outcome.CANCELLED


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_a_job_that_tries_to_end_the_process_has_failed(error):
    assert ended(error).outcome is Outcome.RETRY
