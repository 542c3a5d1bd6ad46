"""Unique keys."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from msgspec import UNSET

from ...backends.base import Backend, Outcome, Outgoing, State
from ...errors import BackendUnavailable
from ...message import UniqueKey
from .rig import Rig, RigCase


class Uniqueness(RigCase):
    """Which job holds a key, for how long, and what happens to other jobs with the key.

    Without the feature `unique`, a message with a key is refused.
    """

    @pytest.fixture
    def producer(self, rig: Rig) -> Backend:
        return rig.producer()

    def keyed(self, rig: Rig, **fields: Any) -> Outgoing:
        return rig.job(unique=UniqueKey(f"the-key-{rig.name}", **fields))

    def test_a_second_job_under_a_held_key_is_refused(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "unique"):
            return
        first, second = self.keyed(rig), self.keyed(rig)
        assert producer.push([first], rig.request()) == {}
        assert producer.push([second], rig.request()) == {second.id: first.id}
        assert rig.drain(rig.worker()) == [first.id]

    def test_two_under_one_key_in_one_push_are_one(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "unique"):
            return
        first, second, free = self.keyed(rig), self.keyed(rig), rig.job()
        assert producer.push([first, second, free], rig.request()) == {second.id: first.id}
        assert sorted(rig.drain(rig.worker())) == sorted([first.id, free.id])

    def test_a_repeated_push_reports_the_same_conflicts(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "unique"):
            return
        first, second = self.keyed(rig), self.keyed(rig)
        producer.push([first], rig.request())
        request = rig.request()
        assert producer.push([second], request) == {second.id: first.id}
        rig.drain(rig.worker())
        assert producer.push([second], request) == {second.id: first.id}

    def test_a_repeated_push_does_not_conflict_with_itself(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "unique"):
            return
        first = self.keyed(rig)
        request = rig.request()
        assert producer.push([first], request) == {}
        assert producer.push([first], request) == {}

    def test_scope_done_holds_until_the_job_is_done(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "unique"):
            return
        worker = rig.worker()
        first, second, third = (self.keyed(rig, scope="done") for _ in range(3))
        producer.push([first], rig.request())
        delivery = rig.take_one(worker)
        assert producer.push([second], rig.request()) == {second.id: first.id}
        rig.done(worker, delivery)
        assert producer.push([third], rig.request()) == {}

    def test_scope_done_holds_over_a_retry(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "unique"):
            return
        worker = rig.worker()
        first, second = self.keyed(rig, scope="done"), self.keyed(rig, scope="done")
        producer.push([first], rig.request())
        rig.settle(worker, rig.take_one(worker), Outcome.RETRY)
        assert producer.push([second], rig.request()) == {second.id: first.id}

    def test_scope_queued_holds_until_the_job_is_reserved(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "unique"):
            return
        worker = rig.worker()
        first, second, third = (self.keyed(rig, scope="queued") for _ in range(3))
        producer.push([first], rig.request())
        assert producer.push([second], rig.request()) == {second.id: first.id}
        rig.take_one(worker)
        assert producer.push([third], rig.request()) == {}

    def test_scope_of_a_time_holds_over_the_end_of_the_job(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "unique"):
            return
        worker = rig.worker()
        seconds = 3 * rig.lease  # long enough for a broker that restarts meanwhile
        first, second, third = (self.keyed(rig, scope=seconds) for _ in range(3))
        producer.push([first], rig.request())
        rig.drain(worker)
        assert producer.push([second], rig.request()) == {second.id: first.id}
        rig.advance(seconds)
        assert producer.push([third], rig.request()) == {}

    def test_a_dead_job_frees_its_key(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "unique"):
            return
        worker = rig.worker()
        first, second = self.keyed(rig), self.keyed(rig)
        producer.push([first], rig.request())
        rig.settle(worker, rig.take_one(worker), Outcome.DEAD, reason="failed")
        assert producer.push([second], rig.request()) == {}

    def test_a_cancelled_job_frees_its_key(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "unique"):
            return
        if not rig.has("cancel"):
            return
        first, second = self.keyed(rig), self.keyed(rig)
        producer.push([first], rig.request())
        producer.cancel(first.id)
        assert producer.push([second], rig.request()) == {}

    def test_replace_takes_the_place_of_a_queued_job(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "unique"):
            return
        first, second = self.keyed(rig), self.keyed(rig, conflict="replace")
        producer.push([first], rig.request())
        assert producer.push([second], rig.request()) == {}
        if rig.has("lookup"):
            assert rig.record(producer, first.id).state is State.CANCELLED
        assert rig.drain(rig.worker()) == [second.id]

    def test_replace_leaves_a_running_job_alone(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "unique"):
            return
        worker = rig.worker()
        first, second = self.keyed(rig), self.keyed(rig, conflict="replace")
        producer.push([first], rig.request())
        delivery = rig.take_one(worker)
        assert producer.push([second], rig.request()) == {second.id: first.id}
        rig.done(worker, delivery)

    def test_other_keys_are_not_concerned(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "unique"):
            return
        jobs = [rig.job(unique=UniqueKey(f"key-{n}-{rig.name}")) for n in range(5)]
        assert producer.push(jobs, rig.request()) == {}
        assert len(rig.drain(rig.worker())) == 5

    # -- jobs that replace each other (Unique.debounce), and jobs that are dropped for a time (Unique.throttle) ------

    def debounced(self, rig: Rig, delay: float, longest: float | None = None) -> Outgoing:
        bound = UNSET if longest is None else longest
        key = UniqueKey(f"debounced-{rig.name}", "queued", "replace", bound)
        return rig.job(unique=key, delay=delay)

    def test_jobs_that_replace_each_other_are_due_within_the_limit_of_the_first(self, rig: Rig, producer: Backend) -> None:
        if not rig.has("debounce", "delay", "lookup"):
            return
        step, longest = 0.3, 100.0
        jobs = [self.debounced(rig, delay, longest) for delay in (60.0, 90.0, 200.0, 30.0, 200.0)]
        dues = []
        for job in jobs:
            assert producer.push([job], rig.request()) == {}
            dues.append(rig.record(producer, job.id).due or 0.0)
            rig.advance(step)
        start = dues[0] - 60.0
        slack = 30.0  # seconds, for a loaded machine and a broker with a real clock
        for n, (due, delay) in enumerate(zip(dues, (60.0, 90.0, 100.0, 30.0, 100.0), strict=True)):
            assert start + delay - 0.001 <= due <= start + delay + n * step + slack, (n, due - start)
        assert abs(dues[2] - (start + longest)) < 0.01  # exactly: the limit does not move
        assert abs(dues[4] - (start + longest)) < 0.01
        assert [rig.record(producer, job.id).state for job in jobs[:-1]] == [State.CANCELLED] * 4

    def test_after_the_limit_a_new_row_begins_and_the_waiting_job_keeps_its_place(self, rig: Rig, producer: Backend) -> None:
        """In a topic that is paused or has a backlog, new jobs must not delay the waiting job further and further."""
        if not rig.has("debounce", "delay"):
            return
        first, second = self.debounced(rig, 0.2, 0.2), self.debounced(rig, 0.0, 0.2)
        producer.push([first], rig.request())
        rig.advance(0.3)
        assert producer.push([second], rig.request()) == {}
        assert sorted(rig.drain(rig.worker())) == sorted([first.id, second.id])

    def test_a_job_that_runs_no_longer_limits_the_next(self, rig: Rig, producer: Backend) -> None:
        if not rig.has("debounce", "delay", "lookup"):
            return
        worker = rig.worker()
        first, second = self.debounced(rig, 0.0, 50.0), self.debounced(rig, 60.0, 100.0)
        producer.push([first], rig.request())
        delivery = rig.take_one(worker)
        assert producer.push([second], rig.request()) == {}
        record = rig.record(producer, second.id)
        assert (record.due or 0.0) - record.broker_now > 55.0
        rig.done(worker, delivery)
        assert rig.record(producer, second.id).state is State.SCHEDULED

    @pytest.mark.parametrize("longest", [None, 100.0])
    def test_of_many_producers_the_last_job_waits_alone(self, rig: Rig, producer: Backend, longest: float | None) -> None:
        if not rig.has("unique", "delay", "lookup") or (longest and not rig.has("debounce")):
            return
        jobs = [[self.debounced(rig, 50.0, longest) for _ in range(10)] for _ in range(4)]
        others = [rig.producer() for _ in jobs]

        def push(backend: Backend, mine: list[Outgoing]) -> None:
            for job in mine:  # a job that is replaced during its push may get the id of the new holder
                assert push_until_answered(rig, backend, job).keys() <= {job.id}

        with ThreadPoolExecutor(len(jobs)) as pool:
            list(pool.map(push, others, jobs))
        last = self.debounced(rig, 0.0, longest)
        assert producer.push([last], rig.request()) == {}
        states = [rig.record(producer, job.id).state for mine in jobs for job in mine]
        assert states == [State.CANCELLED] * 40
        assert rig.drain(rig.worker()) == [last.id]

    def test_of_many_producers_one_job_counts_for_a_time(self, rig: Rig) -> None:
        if not rig.has("unique"):
            return
        jobs = [[self.keyed(rig, scope=100.0) for _ in range(10)] for _ in range(4)]
        others = [rig.producer() for _ in jobs]

        def push(backend: Backend, mine: list[Outgoing]) -> list[tuple[str, str | None]]:
            return [(job.id, push_until_answered(rig, backend, job).get(job.id)) for job in mine]

        with ThreadPoolExecutor(len(jobs)) as pool:
            answers = [answer for told in pool.map(push, others, jobs) for answer in told]
        (winner,) = (job_id for job_id, holder in answers if holder is None)
        assert {holder for _, holder in answers} == {None, winner}
        assert rig.drain(rig.worker()) == [winner]


def push_until_answered(rig: Rig, backend: Backend, job: Outgoing) -> Mapping[str, str]:
    """Push as producers do: repeat the request while the backend is unavailable, as when two enqueues take the same key."""
    request, deadline = rig.request(), time.monotonic() + 20.0
    while True:
        try:
            return backend.push([job], request)
        except BackendUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)  # poll, because nothing tells that the other enqueue has ended
