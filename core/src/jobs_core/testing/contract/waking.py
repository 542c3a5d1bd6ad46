"""Check that every step that makes a job ready wakes the workers that wait for it, and that a wait costs nothing until then."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from ...backends.base import Backend, Outcome
from .rig import ERROR, PATIENCE, Rig, RigCase, T

IDLE = 2.0
"""Seconds for which a wait is observed in order to detect polling."""

MOST_SWITCHES = 12
"""Most wake-ups of a thread that are allowed in that time.

Heartbeats require fewer; a thread that polls four times a second exceeds the number.
"""


class Waking(RigCase):
    """A waiting worker is woken at once, whichever process made the job ready."""

    @contextmanager
    def woken(self, rig: Rig, wait: Callable[[float], object]) -> Iterator[None]:
        """Start `wait` before the block, and check that the block ends it long before its own timeout."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(wait, 2 * PATIENCE)
            time.sleep(0.2)  # wait until `wait` has begun, which cannot be observed; otherwise the case only tests less
            yield
            begin = time.monotonic()
            future.result(2 * PATIENCE + 10)
            assert time.monotonic() - begin < PATIENCE, "the wait was not ended by it"

    def idle_worker(self, rig: Rig) -> Backend:
        worker = rig.worker()
        assert worker.reserve([T], 1, rig.request()) == []
        return worker

    def test_a_push_wakes(self, rig: Rig) -> None:
        worker, producer = self.idle_worker(rig), rig.producer()
        with self.woken(rig, lambda timeout: worker.wait([T], timeout)):
            rig.push_many(producer, 1)
        assert rig.take_one(worker)

    @pytest.mark.parametrize("topics", [(), (T,)], ids=["full", "taking"])
    def test_a_cancel_calls_the_owner_of_a_running_job_and_nobody_else(self, rig: Rig, topics: tuple[str, ...]) -> None:
        if not rig.has("cancel") or not rig.unopened().wakes_to_cancel:
            return  # couriers poll for cancellations with this backend
        worker, other, producer = rig.worker(), rig.worker(), rig.producer()
        (job_id,) = rig.push_many(producer, 1)
        rig.take_one(worker)
        assert worker.reserve([T], 1, rig.request()) == []
        with self.woken(rig, lambda timeout: worker.wait(topics, timeout)):
            producer.cancel(job_id)
        assert worker.called
        assert worker.heartbeat().cancelled == (job_id,)
        assert not worker.called
        other.wait((), 0.0)
        assert not other.called

    def test_a_retry_without_delay_wakes_another_worker(self, rig: Rig) -> None:
        failing = rig.worker()
        rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(failing)
        other = self.idle_worker(rig)
        with self.woken(rig, lambda timeout: other.wait([T], timeout)):
            rig.settle(failing, delivery, Outcome.RETRY, error=ERROR)
        assert rig.take_one(other).id == delivery.id

    def test_follow_ups_wake_another_worker(self, rig: Rig) -> None:
        if not rig.has("atomic_followups"):
            return
        enqueuing = rig.worker()
        rig.push_many(rig.producer(), 1, topic="elsewhere")
        delivery = rig.take_one(enqueuing, ["elsewhere"])
        other = self.idle_worker(rig)
        with self.woken(rig, lambda timeout: other.wait([T], timeout)):
            rig.settle(enqueuing, delivery, Outcome.DONE, followups=(rig.job(),))
        assert rig.take_one(other)

    def test_a_resume_wakes(self, rig: Rig) -> None:
        worker, producer = self.idle_worker(rig), rig.producer()
        if rig.lacks(producer, "pause"):
            return
        producer.pause(T)
        rig.push_many(producer, 1)
        with self.woken(rig, lambda timeout: worker.wait([T], timeout)):
            producer.resume(T)
        assert rig.take_one(worker)

    def test_a_requeued_dead_letter_wakes(self, rig: Rig) -> None:
        worker, producer = rig.worker(), rig.producer()
        if rig.lacks(producer, "browse"):
            return
        (job_id,) = rig.push_many(producer, 1)
        rig.settle(worker, rig.take_one(worker), Outcome.DEAD, reason="failed", error=ERROR)
        with self.woken(rig, lambda timeout: worker.wait([T], timeout)):
            assert producer.requeue([job_id]) == 1
        assert rig.take_one(worker).id == job_id

    def test_a_dead_workers_released_jobs_wake(self, rig: Rig) -> None:
        if not rig.has("owner_release"):
            return
        keeper, dead = rig.producer(), f"dead-{rig.name}"
        rig.push_many(keeper, 1)
        rig.take_one(rig.worker(dead))
        other = self.idle_worker(rig)
        with self.woken(rig, lambda timeout: other.wait([T], timeout)):
            keeper.release_owner(dead, (), b"")
        assert rig.take_one(other)

    @pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.DEAD, Outcome.CANCELLED])
    def test_an_ending_wakes_those_who_wait_for_the_result(self, rig: Rig, outcome: Outcome) -> None:
        worker, producer, waiter = rig.worker(), rig.producer(), rig.producer()
        if rig.lacks(producer, "results"):
            return
        (job_id,) = rig.push_many(producer, 1)
        delivery = rig.take_one(worker)
        with self.woken(rig, lambda timeout: waiter.fetch_result(job_id, timeout)):
            rig.settle(worker, delivery, outcome, result=b"1", result_ttl=100.0, reason="failed", error=ERROR)

    def test_waiting_does_not_poll(self, rig: Rig) -> None:
        worker = self.idle_worker(rig)

        def switches() -> int:
            worker.wait([T], 0.1)  # the first one may connect
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
            worker.wait([T], IDLE)
            return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before

        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(switches).result(PATIENCE + IDLE) <= MOST_SWITCHES
