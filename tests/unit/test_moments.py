"""Points in time: `using(at=..., expires_at=...)` become delays by the producer's clock when a job is enqueued."""

from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_core import JobDefinitionError, current_job, job
from jobs_core.backends.base import State
from jobs_core.message import decode
from jobs_core.registry import Registry, default_registry
from jobs_core.testing import JobsQueue

HOUR = timedelta(hours=1)
NOON = datetime(2030, 6, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def queue():
    before = dict(default_registry._jobs)
    with JobsQueue() as queue:
        queue.travel(to=NOON)
        yield queue
    default_registry._jobs.clear()
    default_registry._jobs.update(before)


@pytest.fixture
def ran(queue):
    ran = []

    @job(name="note")
    def note() -> None:
        ran.append(queue.now)

    note.ran = ran
    return note


@pytest.mark.parametrize(
    "when",
    [
        NOON + HOUR,
        (NOON + HOUR).astimezone(ZoneInfo("Asia/Kolkata")),
        (NOON + HOUR).astimezone(timezone(timedelta(hours=-11))),
        datetime(2030, 6, 1, 15, tzinfo=ZoneInfo("Europe/Paris")),
    ],
)
def test_a_job_runs_at_its_time_in_every_zone(queue, ran, when):
    ran.using(at=when).enqueue()
    queue.travel(HOUR - timedelta(seconds=1))
    queue.drain()
    assert ran.ran == []
    queue.travel(1)
    queue.drain()
    assert ran.ran == [NOON + HOUR]


def test_a_time_that_is_past_is_due_at_once(queue, ran):
    ran.using(at=NOON - HOUR).enqueue()
    ran.using(at=datetime.min.replace(tzinfo=timezone.utc)).enqueue()
    queue.drain()
    assert len(ran.ran) == 2


def test_the_time_counts_from_each_enqueue_not_from_using(queue, ran):
    later = ran.using(at=NOON + HOUR)
    for _ in range(3):
        later.enqueue()
        queue.travel("20m")
    queue.drain()
    assert ran.ran == [NOON + HOUR] * 3


@pytest.mark.parametrize("at_once", [False, True])
def test_repeated_hours_of_a_zone_are_distinguished(queue, ran, at_once):
    paris = ZoneInfo("Europe/Paris")
    queue.travel(to=datetime(2030, 10, 26, 23, tzinfo=timezone.utc))
    ran.using(at=datetime(2030, 10, 27, 2, 30, tzinfo=paris, fold=int(at_once))).enqueue()
    (message,) = queue.enqueued()
    assert message.delay == (5400 if not at_once else 9000)


def test_a_job_that_has_not_started_by_its_expiry_is_dead(queue, ran):
    ran.using(expires_at=NOON + HOUR).enqueue()
    ran.using(expires_at=NOON - HOUR).enqueue()
    ran.using(expires_at=NOON + 2 * HOUR, at=NOON + HOUR).enqueue()
    queue.travel(HOUR)
    queue.drain(raise_errors=False)
    assert (len(ran.ran), [letter.reason for letter in queue.dead()]) == (1, ["expired", "expired"])


def test_the_envelope_carries_durations_as_before(queue, ran):
    ran.using(at=NOON + HOUR, expires_at=NOON + 2 * HOUR).enqueue()
    (record,) = queue.app.operate(lambda backend: backend.browse("default", State.SCHEDULED, 9))
    message = decode(record.payload, topic="default")
    assert (message.delay, message.expires_in, message.enqueued_at) == (3600, 7200, NOON.timestamp())
    assert b'"at"' not in record.payload


def test_a_point_in_time_and_a_duration_replace_each_other(queue, ran):
    ran.using(at=NOON + HOUR).using(delay=60).enqueue()
    ran.using(delay=60).using(at=NOON + HOUR).enqueue()
    ran.using(at=NOON + HOUR).using(at=None).enqueue()
    ran.using(expires=5).using(expires_at=NOON + HOUR).enqueue()
    assert {(m.delay, m.expires_in) for m in queue.enqueued()} == {(60, None), (3600, None), (None, None), (None, 3600)}


def test_a_follow_up_counts_from_the_end_of_the_job_that_sends_it(queue, ran):
    @job(name="slow")
    def slow() -> None:
        current_job().enqueue(ran.using(at=NOON + HOUR, expires_at=NOON + 2 * HOUR))
        queue.travel("50m")

    slow.enqueue()
    queue.drain()
    (message,) = queue.enqueued(ran)
    assert (message.delay, message.expires_in) == (600, 4200)
    queue.travel("10m")
    queue.drain()
    assert ran.ran == [NOON + HOUR]


def test_tests_expect_points_in_time(queue, ran):
    ran.using(at=NOON + HOUR, expires_at=NOON + 2 * HOUR).enqueue()
    queue.assert_enqueued(ran.using(at=NOON + HOUR))
    queue.assert_enqueued(ran.using(expires_at=NOON + 2 * HOUR))
    queue.assert_enqueued(ran.using(delay="1h"))
    with pytest.raises(AssertionError):
        queue.assert_enqueued(ran.using(at=NOON + 2 * HOUR))


@pytest.mark.parametrize(
    ("given_", "part"),
    [
        (
            {"at": datetime(2030, 1, 1)},
            "at: expected a datetime with a time zone, got 2030-01-01 00:00:00, which has none: use dat",
        ),
        ({"expires_at": datetime(2030, 1, 1)}, "expires_at: expected a datetime with a time zone"),
        ({"at": "2030-01-01"}, "at: expected a datetime with a time zone, got '2030-01-01'"),
        ({"at": 5}, "at: expected a datetime with a time zone, got 5"),
        ({"at": date(2030, 1, 1)}, "at: expected a datetime with a time zone, got datetime.date"),
        ({"delay": NOON}, "delay: expected a duration, got the point in time 2030-06-01 12:00:00+00:00: write at=..."),
        ({"delay": date(2030, 1, 1)}, "delay: expected a duration, got the point in time 2030-01-01: write at=..."),
        ({"expires": NOON}, "expires: expected a duration, got the point in time 2030-06-01 12:00:00+00:00: write expires_at="),
        ({"at": NOON, "delay": 5}, "at and delay both say when"),
        ({"expires_at": NOON, "expires": 5}, "expires_at and expires both say when"),
    ],
)
def test_values_that_are_not_one_point_in_time_are_refused_with_the_fix(ran, given_, part):
    with pytest.raises(JobDefinitionError, match="^note.using: ") as raised:
        ran.using(**given_)
    assert part in str(raised.value)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"at": NOON + timedelta(days=365 * 40)}, "note: at: .* is more than 1e.09 s"),
        (
            {"at": NOON + 2 * HOUR, "expires_at": NOON + HOUR},
            "note: it would expire 3600 s from now, before it is due in 7200 s",
        ),
        ({"at": NOON + 2 * HOUR, "expires": "1h"}, "choose a later expires_at"),
        ({"delay": "2h", "expires_at": NOON + HOUR}, "choose a later expires_at"),
    ],
)
def test_times_at_which_no_job_could_run_are_refused_when_it_is_enqueued(queue, ran, options, part):
    with pytest.raises(JobDefinitionError, match=part):
        ran.using(**options).enqueue()
    assert queue.enqueued() == []


@given(st.integers(-(10**9), 10**9), st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))
def test_the_delay_is_the_time_until_then_and_never_negative(ahead, offset):
    with JobsQueue() as queue:
        note = job(name="note", registry=Registry())(lambda: None)
        queue.travel(to=NOON)
        when = (NOON + timedelta(seconds=ahead)).astimezone(timezone(timedelta(seconds=offset // timedelta(seconds=1))))
        note.using(at=when).enqueue()
        assert queue.enqueued(note)[0].delay == max(0, ahead)
