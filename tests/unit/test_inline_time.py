"""The time of `jobs_queue`: it stands still until the test travels, and then everything is due as if it had passed."""

import time
from datetime import datetime, timedelta, timezone

import pytest

from jobs_core import Config, JobsError, Snooze, State, Unique, current_job, job
from jobs_core.config import Duration, ScheduleEntry
from jobs_core.registry import default_registry
from jobs_core.schedule import Schedule
from jobs_core.testing import JobsQueue, clock, inline

ran = []


@job(name="time.note", store_result=True)
def note(what: str) -> str:
    ran.append(what)
    return what


@job(name="time.fail", retries=2, backoff=600)
def fail():
    ran.append(current_job().attempt)
    raise LookupError


@job(name="time.snooze")
def snooze():
    ran.append("snooze")
    if ran.count("snooze") == 1:
        raise Snooze("2h")


@job(name="time.again")
def again():
    current_job().enqueue(again.using(delay=1))


@pytest.fixture(autouse=True)
def _empty():
    ran.clear()


@pytest.mark.parametrize("by", ["1h", 3600, 3600.0, timedelta(hours=1)])
def test_a_delayed_job_is_due_exactly_when_its_time_has_come(jobs_queue, by):
    note.using(delay="1h").enqueue("x")
    note.using(delay=3600.001).enqueue("y")
    assert jobs_queue.drain() == 0
    jobs_queue.travel(by)
    assert jobs_queue.drain() == 1
    assert ran == ["x"]


def test_time_stands_still_however_slow_the_machine_is(jobs_queue):
    note.using(delay=0.001).enqueue("late")
    note.using(expires=0.001).enqueue("in time")
    now, until = jobs_queue.now, time.monotonic() + 0.005
    while time.monotonic() < until:
        pass
    assert jobs_queue.drain() == 1
    assert (ran, jobs_queue.now) == (["in time"], now)


def test_retries_and_snoozes_fall_due(jobs_queue):
    fail.enqueue()
    snooze.enqueue()
    jobs_queue.drain(raise_errors=False)
    jobs_queue.travel("10m")
    jobs_queue.drain(raise_errors=False)
    assert ran == [1, "snooze", 2]
    jobs_queue.travel("2h")
    jobs_queue.drain(raise_errors=False)
    assert sorted(map(str, ran)) == ["1", "2", "3", "snooze", "snooze"]
    assert [record.reason for record in jobs_queue.dead()] == ["failed"]


@pytest.mark.parametrize("keys", [(), ("k1:a secret that is long enough for the tests",)])
def test_jobs_expire_by_the_queues_time(keys):
    with JobsQueue(Config(signing_keys=list(keys))) as queue:
        queue.travel("1d")
        note.using(expires="1h").enqueue("runs")
        queue.travel("59m")
        assert queue.drain() == 1
        note.using(expires="1h").enqueue("is late")
        queue.travel("1h")
        queue.drain()
        assert [record.reason for record in queue.dead()] == ["expired"]
        assert ran == ["runs"]


def test_unique_keys_results_and_dead_letters_end(jobs_queue):
    unique = note.using(unique=Unique(scope="5m"))
    handle = unique.enqueue("x")
    assert not unique.enqueue("x").created
    jobs_queue.drain()
    jobs_queue.travel("4m59s")
    assert not unique.enqueue("x").created
    jobs_queue.travel("1s")
    assert unique.enqueue("x").created
    jobs_queue.travel("3d")
    assert handle.status() is State.UNKNOWN
    fail.using(retries=0).enqueue()
    jobs_queue.drain(raise_errors=False)
    jobs_queue.travel(Config().topic("default").dead_keep)
    assert jobs_queue.dead() == []


def test_travel_goes_to_a_point_in_time(jobs_queue):
    day = jobs_queue.now + timedelta(days=3)
    note.using(delay="3d").enqueue("x")
    jobs_queue.travel(to=day.astimezone(timezone(timedelta(hours=5))))
    assert jobs_queue.now == day
    assert jobs_queue.drain() == 1


def test_an_empty_queue_may_begin_at_any_time(jobs_queue):
    past = datetime(2024, 2, 29, 12, tzinfo=timezone.utc)
    jobs_queue.travel(to=past)
    assert jobs_queue.now == past
    note.using(delay=1).enqueue("x")
    with pytest.raises(
        ValueError, match=r"before the queue's time, 2024-02-29 12:00:00\+00:00: .* only while the queue is empty"
    ):
        jobs_queue.travel(to=past - timedelta(seconds=1))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (((), {}), "either a duration"),
        ((("1h",), {"to": datetime.now(timezone.utc)}), "either a duration"),
        ((("an hour",), {}), 'travel: expected a duration such as "30s"'),
        (((-1,), {}), "zero or more"),
        (((datetime.now(timezone.utc),), {}), r"travel\(to=\.\.\.\)"),
        (((), {"to": datetime(2030, 1, 1)}), "no time zone"),
        (((), {"to": "2030-01-01"}), "expected a datetime, got str"),
    ],
)
def test_other_journeys_are_refused_with_the_fix(jobs_queue, arguments, says):
    with pytest.raises(ValueError, match=says):
        jobs_queue.travel(*arguments[0], **arguments[1])


def test_the_queue_follows_a_clock_that_another_library_moves(jobs_queue, monkeypatch):
    note.using(delay="1h").enqueue("x")
    start = time.time()
    monkeypatch.setattr(time, "time", lambda: start + 3601)  # as freezegun does
    assert jobs_queue.drain() == 1
    note.using(delay="1h").enqueue("y")
    jobs_queue.travel("1h")
    assert jobs_queue.drain() == 1


def scheduled(**entries):
    return JobsQueue(Config(schedule={name: ScheduleEntry(**entry) for name, entry in entries.items()}))


@pytest.mark.parametrize(
    ("entry", "by", "ticks"),
    [
        ({"cron": "0 6 * * *", "args": ["x"]}, "3d", 3),
        ({"every": Duration(600), "args": ["x"]}, "1h", 6),
        ({"every": Duration(1.1), "args": ["x"]}, "11s", 10),
        ({"cron": "0 6 * * *", "args": ["x"], "missed": "skip"}, "3d", 3),
        ({"cron": "0 6 1 1 *", "args": ["x"]}, "3d", 0),
    ],
)
def test_each_tick_of_the_schedule_is_enqueued_at_its_time(entry, by, ticks):
    with scheduled(tick={"job": "time.note", **entry}) as queue:
        queue.travel(to=datetime(2024, 2, 27, 12, tzinfo=timezone.utc))
        queue.clear()
        queue.travel(by)
        assert len(queue.enqueued(note)) == ticks
        assert queue.drain(["default"]) >= ticks
        queue.travel(0)
        assert queue.enqueued(note) == []


@pytest.fixture
def _jobs_as_before():
    """Forget the jobs that a test defines: those with a schedule tick in every later test of this process that travels."""
    jobs = dict(default_registry._jobs)
    yield
    default_registry._jobs.clear()
    default_registry._jobs.update(jobs)


@pytest.mark.usefixtures("_jobs_as_before")
def test_ticks_wait_and_expire_as_if_no_worker_ran():
    @job(name="time.tick", cron="@hourly", expires="90m")
    def tick(): ...

    with JobsQueue() as queue:
        queue.travel(to=datetime(2024, 2, 27, 12, 30, tzinfo=timezone.utc))
        queue.clear()
        queue.travel("4h")
        assert [message.headers["tick"] for message in queue.enqueued(tick)] == [
            datetime(2024, 2, 27, hour, tzinfo=timezone.utc).timestamp() for hour in (13, 14, 15, 16)
        ]
        queue.drain()
        assert [record.reason for record in queue.dead()] == ["expired"] * 2


def test_entries_added_and_paused_at_run_time_tick_as_in_production(jobs_queue):
    schedule = Schedule()
    schedule.add("mine", note.call("mine"), every="1h")
    jobs_queue.travel("90m")
    jobs_queue.travel("90m")
    jobs_queue.drain()
    assert ran == ["mine"] * 3
    schedule.pause("mine")
    jobs_queue.travel("3h")
    assert jobs_queue.drain() == 0
    schedule.resume("mine")
    jobs_queue.travel("1h")
    assert jobs_queue.drain() == 1


def test_the_schedule_can_be_left_out_and_never_runs_away(monkeypatch):
    monkeypatch.setattr(clock, "MOST_TICKS", 1000)
    with scheduled(often={"job": "time.note", "every": Duration(1), "args": ["x"]}) as queue:
        queue.travel("1d", schedule=False)
        queue.advance(86400)
        assert queue.enqueued(note) == []
        with pytest.raises(JobsError, match=r"more than 1,000 ticks .*often.* schedule=False"):
            queue.travel("1d")


def test_drain_continues_with_scheduled_jobs(jobs_queue):
    note.using(delay="2h").enqueue("second")
    note.using(delay="1h").enqueue("first")
    start = jobs_queue.now
    assert jobs_queue.drain(scheduled=True) == 2
    assert ran == ["first", "second"]
    assert jobs_queue.now - start == timedelta(hours=2)
    fail.enqueue()
    assert jobs_queue.drain(scheduled=True, raise_errors=False) == 3
    assert [record.reason for record in jobs_queue.dead()] == ["failed"]


def test_drain_of_one_topic_waits_for_that_topic_only(jobs_queue):
    note.using(delay="1h", topic="a").enqueue("a")
    note.using(delay="2h", topic="b").enqueue("b")
    assert jobs_queue.drain(["b"], scheduled=True) == 1
    assert ran == ["b"]


def test_a_job_that_enqueues_itself_for_later_does_not_drain_for_ever(jobs_queue, monkeypatch):
    monkeypatch.setattr(inline, "MOST_RUNS", 100)
    again.enqueue()
    assert jobs_queue.drain(scheduled=True, limit=5) == 5
    with pytest.raises(AssertionError, match="has run 100 jobs, and there are more in default"):
        jobs_queue.drain(scheduled=True)


def test_inline_jobs_run_when_their_time_comes(jobs_inline):
    note.using(delay="1h").enqueue("x")
    assert ran == []
    jobs_inline.travel("1h")
    assert ran == ["x"]


END = datetime.max.replace(tzinfo=timezone.utc)


@pytest.mark.parametrize("to", [END, datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))])
def test_a_time_beyond_the_calendar_is_refused(jobs_queue, to):
    with pytest.raises(ValueError, match="travel: to: .* is beyond the calendar, which ends with the year 9999"):
        jobs_queue.travel(to=to)
    jobs_queue.travel(to=END - timedelta(seconds=1))
    with pytest.raises(ValueError, match="travel: 1d is beyond the calendar"):
        jobs_queue.travel("1d")
    assert jobs_queue.now.year == 9999
