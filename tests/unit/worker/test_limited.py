"""A worker under limits: it releases jobs under them, says what never ran, closes limits, and hoards no slots."""

import logging

import msgspec
import pytest

from jobs_core import App, Discard, JobCancelled, Retry, Snooze, job
from jobs_core.backends.base import Delivery, Outcome, Settlement
from jobs_core.config import Config, Topic
from jobs_core.errors import ArgumentError
from jobs_core.message import Message, encode
from jobs_core.options import Backoff, Policy
from jobs_core.plugins import Plugins
from jobs_core.runs.outcome import settlement
from jobs_core.runs.run import Run
from jobs_core.worker.decoder import Decoder
from jobs_core.worker.reservations import Reservations
from jobs_core.worker.run_queue import RunQueue

# -- a delivery without the limits of its function -------------------------------------------------


def decoder(registry, *, keeps=True, **topic):
    topics = {"t": Topic(**topic)} if topic else {}
    made = Decoder(App(Config(backend="memory://limited", topics=topics), plugins=Plugins(), registry=registry))
    made.keeps_limits = keeps
    return made


def delivery(under=(), key="", **fields):
    payload = encode(Message(**({"v": 1, "topic": "t", "job": "pay", "args": [7]} | fields)))
    return Delivery("id", "t", payload, 1, 0, 0, 0, 0, 1000.0, 1000.0, key, under)


def define(registry, **options):
    @job(registry=registry, name="pay", **options)
    def pay(account: int, to: str = "x") -> None: ...


GIVEN_BACK = {
    "a name": ({"limits": "stripe"}, {}, ("stripe",)),
    "a template": ({"limits": ("stripe:{account}", "all")}, {}, ("all", "stripe:7")),
    "a default of the function": ({"limits": "to:{to}"}, {}, ("to:x",)),
    "a function": ({"limits": lambda account: [f"b:{account}", "a"]}, {}, ("a", "b:7")),
    "the envelope's own": ({"limits": "stripe"}, {"limits": ["z", "a", "z"]}, ("a", "z")),
    "the envelope's own, of a function without": ({}, {"limits": ["a"]}, ("a",)),
}


@pytest.mark.parametrize(("options", "fields", "limits"), GIVEN_BACK.values(), ids=GIVEN_BACK)
def test_a_job_that_came_without_its_limits_is_given_back_under_them_before_it_runs(registry, options, fields, limits):
    define(registry, **options)
    made = decoder(registry)
    back = made.accept(delivery(**fields))
    assert back == Settlement("id", 1, Outcome.RELEASE, ran=False, limits=limits)
    assert isinstance(decoder(registry).accept(delivery(limits, **fields)), Run)
    assert isinstance(made.accept(delivery(**fields)), Run)  # a backend that has lost the limits does not get it back again


RUNS = {
    "no limits": ({}, {}, ()),
    "taken off by the producer": ({"limits": "stripe"}, {"limits": []}, ()),
    "none for these arguments": ({"limits": lambda account: None}, {}, ()),
    "others than those of the function, which came with it": ({"limits": "stripe"}, {}, ("other",)),
}


@pytest.mark.parametrize(("options", "fields", "limits"), RUNS.values(), ids=RUNS)
def test_any_other_job_runs(registry, options, fields, limits):
    define(registry, **options)
    assert isinstance(decoder(registry).accept(delivery(limits, **fields)), Run)


def test_a_backend_without_limits_gets_nothing_back(registry):
    define(registry, limits="stripe")
    assert isinstance(decoder(registry, keeps=False).accept(delivery()), Run)


@pytest.mark.parametrize("limits", ["stripe:{to}", "stripe:{account.x}", lambda account: 1 / 0, lambda: "x", lambda account: 5])
def test_limits_that_cannot_be_computed_make_a_dead_letter_that_says_so(registry, limits):
    define(registry, limits=limits)
    dead = decoder(registry).accept(delivery(args=[7], kwargs={"to": ""}))
    assert (dead.outcome, dead.reason, dead.ran) == (Outcome.DEAD, "bad arguments", False)
    assert "the limits of pay cannot be computed" in msgspec.json.decode(dead.error)["message"]


def test_a_job_with_limits_is_acknowledged_late_whatever_its_topic_says_and_the_log_says_so_once(registry, caplog):
    define(registry)
    made = decoder(registry, acks="early")
    with caplog.at_level(logging.WARNING):
        assert [made.accept(delivery(("a",))).policy.acks for _ in range(3)] == ["late"] * 3
    assert caplog.text.count("in spite of acks=early") == 1
    assert made.accept(delivery()).policy.acks == "early"


def test_a_job_of_a_topic_with_max_per_key_is_acknowledged_late(registry):
    @job(registry=registry, name="pay", acks="early")
    def pay(account: int) -> None: ...

    assert decoder(registry, fair=True, max_per_key=1).accept(delivery()).policy.acks == "late"
    assert decoder(registry, fair=True).accept(delivery()).policy.acks == "early"


# -- what never ran ----------------------------------------------------------------------------------


UNRUN = {
    "an unknown job": {"job": "nobody"},
    "expired": {"expires_in": 0.0},
    "bad arguments": {"args": ["seven"]},
    "a bad envelope": {"limits": ["a", "b"], "args": []},
}


@pytest.mark.parametrize("fields", UNRUN.values(), ids=UNRUN)
def test_a_job_that_cannot_run_says_so(registry, fields):
    define(registry)
    assert decoder(registry).accept(delivery(("a",), **fields)).ran is False


def run_of(error=None, *, started=1.0, attempt=0, unfit=False, backoff=None, under=()):
    policy = Policy(3, None, False, backoff or Backoff(2.0), "late", 60.0)
    run = Run(
        Delivery("id", "t", b"", 7, attempt, 0, 0, 0, 100.0, 200.0, "", under),
        Message(v=1, topic="t", job="f"),
        None,
        policy,
        [],
        {},
    )
    run.error, run.started, run.ended, run.unfit = error, started, 2.0, unfit
    return run


@pytest.mark.parametrize(
    ("run", "ran"),
    [
        (run_of(), True),
        (run_of(ValueError()), True),
        (run_of(Snooze(5)), True),
        (run_of(Discard("no")), True),
        (run_of(JobCancelled("x")), True),
        (run_of(JobCancelled("x"), started=0.0), False),
        (run_of(JobCancelled("x"), unfit=True), False),
        (run_of(ArgumentError("no"), unfit=True), False),
    ],
)
def test_a_settlement_says_whether_the_function_was_entered(run, ran):
    assert settlement(run).ran is ran


class Slots:
    """An executor that runs nothing."""

    def __init__(self, concurrency):
        self.concurrency = concurrency
        self.run_queue = RunQueue(lambda: None)
        self.running = []

    def started(self):
        return list(self.running)


def numbered(number, limits=()):
    policy = Policy(3, None, False, Backoff(), "late", 60.0)
    return Run(
        Delivery(str(number), "t", b"", number, 0, 0, 0, 0, 0.0, 0.0, "", limits),
        Message(v=1, topic="t", job="f"), None, policy, [], {},
    )  # fmt: skip


def test_jobs_that_are_released_say_whether_they_had_started():
    executor = Slots(1)
    reservations = Reservations(executor)
    running, waiting = reservations.start([numbered(1), numbered(2)], 0.0)
    executor.run_queue.pending.append(waiting)
    running.started = 1.0
    endings = [*reservations.release_unstarted(), *reservations.release_running()]
    assert {ending.id: ending.ran for ending, _ in endings} == {"1": True, "2": False}


# -- no more than can start ----------------------------------------------------------------------------


def test_a_worker_takes_as_many_limited_jobs_as_it_has_free_slots():
    executor = Slots(3)
    reservations = Reservations(executor)
    assert reservations.startable() == 3
    limited = [numbered(n, ("a",)) for n in range(3)]
    reservations.start(limited[:2], 0.0)
    assert reservations.startable() == 1
    reservations.start(limited[2:], 0.0)
    assert reservations.startable() == 0


def test_beside_waiting_plain_jobs_limited_ones_may_come_and_start_first():
    executor = Slots(2)
    reservations = Reservations(executor)
    plain = [numbered(n) for n in range(5)]
    reservations.start(plain, 0.0)
    executor.run_queue.pending.extend(plain[2:])
    reservations.note_limited([], 5)
    assert reservations.startable() == 2
    limited = [numbered(9, ("a",))]
    reservations.start(limited, 0.0)
    reservations.note_limited(limited, 0)
    assert reservations.startable() == 0  # no plain jobs come any more
    reservations.note_limited([], 5)
    executor.run_queue.pending.appendleft(limited[0])
    assert reservations.startable() == 1
    limited[0].started = 1.0
    executor.run_queue.pending.popleft()
    assert reservations.startable() == 2


# -- closing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("close", "closed"),
    [
        ("stripe:a", (("stripe:a", 30.0),)),
        (("a", "b:c"), (("a", 30.0), ("b:c", 30.0))),
        (["a"], (("a", 30.0),)),
        ((), ()),
        (None, ()),
    ],
)
def test_retry_closes_limits_until_the_retry_is_due(close, closed):
    ending = settlement(run_of(Retry(delay=30, close=close)))
    assert (ending.outcome, ending.after, ending.close_limits) == (Outcome.RETRY, 30.0, closed)


@pytest.mark.parametrize("attempt", [0, 99])
def test_snooze_closes_limits_until_it_is_over_and_counts_no_attempt(attempt):
    ending = settlement(run_of(Snooze("1m", close=("a", "b:c")), attempt=attempt, under=("a", "b:c")))
    assert (ending.outcome, ending.after, ending.close_limits) == (Outcome.DEFER, 60.0, (("a", 60.0), ("b:c", 60.0)))
    assert ending.error == b""


def test_snooze_with_an_invalid_limit_name_fails_the_attempt_with_the_reason():
    ending = settlement(run_of(Snooze(30, close=5)))
    assert (ending.outcome, ending.close_limits) == (Outcome.RETRY, ())
    assert "raise Snooze(...): close: " in msgspec.json.decode(ending.error)["message"]


def test_without_a_delay_a_limit_is_closed_for_the_backoff():
    ending = settlement(run_of(Retry(close="a"), backoff=Backoff(10.0)))
    assert ending.close_limits == (("a", ending.after),)
    assert 0 <= ending.after <= 10


def test_the_last_attempt_closes_limits_too():
    ending = settlement(run_of(Retry(delay="1m", close="a"), attempt=3))
    assert (ending.outcome, ending.close_limits) == (Outcome.DEAD, (("a", 60.0),))


@pytest.mark.parametrize(
    ("close", "says"),
    [
        (
            "partner:{account}",
            "closes partner:{account} for jobs that have this limit; the job itself has all, partner:acme; braces",
        ),
        (
            ["partner:acme", "partnr:acme"],
            "closes partnr:acme for jobs that have this limit; the job itself has all, partner:acme",
        ),
        (["partner:acme", "all"], None),
    ],
    ids=["template", "typo", "own"],
)
def test_a_closed_limit_that_the_job_does_not_have_is_closed_and_reported_with_those_that_it_has(caplog, close, says):
    ending = settlement(run_of(Retry(delay=30, close=close), under=("all", "partner:acme")))
    assert [limit for limit, _ in ending.close_limits] == ([close] if isinstance(close, str) else close)
    assert [record.levelname for record in caplog.records] == (["WARNING"] if says else [])
    assert says is None or says in caplog.text


@pytest.mark.parametrize("close", ["", "no limit", "a:", 5, ["a", 5], {"a": 1}, object()])
def test_an_invalid_limit_name_fails_the_attempt_with_the_reason(close):
    ending = settlement(run_of(Retry(delay=30, close=close)))
    if close == "":
        assert ending.close_limits == ()
        return
    error = msgspec.json.decode(ending.error)
    assert (ending.outcome, ending.close_limits) == (Outcome.RETRY, ())
    assert error["type"].endswith("ValueError")
    assert "raise Retry(...): close: " in error["message"]
