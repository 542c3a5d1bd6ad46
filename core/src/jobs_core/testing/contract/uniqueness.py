"""Unique keys."""

from __future__ import annotations

from typing import Any

import pytest

from ...backends.base import Backend, Outcome, Outgoing, State
from ...message import UniqueKey
from .rig import Rig, RigCase


class Uniqueness(RigCase):
    """The holder of a key, how long it holds the key, and the outcome for other jobs.

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
        seconds = 3 * rig.lease  # gives a broker that is restarted meanwhile enough time
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
