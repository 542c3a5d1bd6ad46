"""Prefetch, deadlines, run queue, outage: the small parts of a worker."""

from jobs_core import events
from jobs_core.backends.base import Delivery
from jobs_core.message import Message
from jobs_core.options import Backoff, Policy
from jobs_core.runs.run import Run
from jobs_core.worker.deadlines import Deadlines
from jobs_core.worker.outage import MOST_REASONS, Outage
from jobs_core.worker.prefetch import AHEAD, LARGEST_BATCH, Prefetch
from jobs_core.worker.run_queue import RunQueue


def made(job_id="id", *, timeout=None, redeliveries=0, deferrals=0, started=0.0, ended=0.0):
    delivery = Delivery(job_id, "t", b"", 1, 0, redeliveries, 0, deferrals, 0.0, 0.0)
    run = Run(delivery, Message(v=1, topic="t", job="f"), None, Policy(3, timeout, False, Backoff(), "late", 60.0), [], {})
    run.started, run.ended = started, ended
    return run


# -- prefetch --------------------------------------------------------------------------------------


def test_before_anything_is_known_one_job_a_slot_is_reserved():
    assert Prefetch(1).target() == 1
    assert Prefetch(8).target() == 8


def test_short_jobs_are_reserved_ahead_and_long_ones_are_not():
    for seconds, target in (0.010, AHEAD / 0.010), (0.050, 1), (30.0, 1), (0.000001, LARGEST_BATCH):
        prefetch = Prefetch(1)
        prefetch.learn([made(started=1.0, ended=1.0 + seconds)] * 5)
        assert prefetch.target() == int(target)


def test_the_estimate_follows_the_jobs_durations():
    prefetch = Prefetch(1)
    prefetch.learn([made(started=1.0, ended=1.0001)])
    many = prefetch.target()
    for _ in range(3):
        prefetch.learn([made(started=1.0, ended=2.0)])
    assert many > 100
    assert prefetch.target() == 1


# -- deadlines -------------------------------------------------------------------------------------


def test_a_job_without_timeout_is_not_watched():
    deadlines = Deadlines()
    deadlines.add(made(), 0.0)
    assert deadlines.next() == float("inf")


def test_a_deadline_counts_from_the_start_of_the_run():
    deadlines, run = Deadlines(), made(timeout=5.0)
    deadlines.add(run, 0.0)
    assert deadlines.next() == 5.0
    assert list(deadlines.due(5.0)) == []  # reserved, not started
    run.started = 7.0
    assert list(deadlines.due(deadlines.next())) == []
    assert deadlines.next() == 12.0
    assert list(deadlines.due(12.0)) == [run]
    assert list(deadlines.due(100.0)) == []


def test_a_run_that_has_ended_is_not_interrupted():
    deadlines, run = Deadlines(), made(timeout=5.0, started=1.0, ended=2.0)
    deadlines.add(run, 0.0)
    assert list(deadlines.due(10.0)) == []


def test_the_earliest_is_looked_at_first():
    deadlines = Deadlines()
    runs = [made(str(n), timeout=float(n), started=1.0) for n in (3, 1, 2)]
    for run in runs:
        deadlines.add(run, 1.0)
    assert [run.id for run in deadlines.due(3.5)] == ["1", "2"]


# -- run queue -------------------------------------------------------------------------------------


def test_the_courier_is_woken_once_an_interval():
    wakes = []
    run_queue = RunQueue(lambda: wakes.append(1))
    run_queue.be_quiet(10.0)
    for ended in (8.0, 9.0, 10.0, 10.5, 11.0):
        run_queue.finish(made(ended=ended))
    assert len(wakes) == 1
    assert len(run_queue.collect()) == 5
    assert run_queue.collect() == []
    run_queue.wake_me()
    run_queue.finish(made(ended=12.0))
    run_queue.finish(made(ended=12.1))
    assert len(wakes) == 2


def test_jobs_that_have_not_started_can_be_taken_back():
    run_queue = RunQueue(lambda: None)
    runs = [made(str(n)) for n in range(3)]
    run_queue.pending.extend(runs)
    run_queue.pending.popleft()
    assert run_queue.take_back() == [runs[2], runs[1]]
    assert run_queue.take_back() == []


# -- outage ----------------------------------------------------------------------------------------


def test_each_reason_of_an_outage_is_reported_once_up_to_a_bound(monkeypatch):
    told = []
    monkeypatch.setattr(events, "emit", told.append)
    outage = Outage()
    for reason in ("refused", "refused", "wrong password", "refused"):
        outage.began(ConnectionError(reason))
    assert told == [events.BackendLost("refused"), events.BackendLost("wrong password")]
    for number in range(100):
        outage.began(ConnectionError(f"{number} s"))
    assert len(told) == MOST_REASONS
    outage.over()
    assert isinstance(told.pop(), events.BackendBack)
    outage.began(ConnectionError("refused"))
    assert told[-1] == events.BackendLost("refused")
