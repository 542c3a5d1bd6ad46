"""Waiting for jobs without polling."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from ...backends.base import Backend, Delivery, Outcome
from .rig import PATIENCE, Rig, RigCase, T


class Waiting(RigCase):
    """A `wait` ends when a job is ready or due, and on an interrupt, so that a settle never has to wait for it."""

    def waiting(self, pool: ThreadPoolExecutor, backend: Backend, topics: list[str]) -> object:
        """Start a long wait on a thread, and return when it has begun."""
        started = threading.Event()

        def wait() -> bool:
            started.set()
            return backend.wait(topics, PATIENCE)

        future = pool.submit(wait)
        started.wait(PATIENCE)
        return future

    def test_a_push_ends_a_wait(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        rig.take(worker)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(worker.wait, [T], PATIENCE)
            rig.push_many(producer, 1)
            assert future.result(PATIENCE + 5) is True
        assert len(rig.take(worker, 1)) == 1

    def test_a_wait_for_what_is_there_already_ends_at_once(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        rig.push_many(producer, 1)
        rig.until(lambda: worker.wait([T], 0.5))
        assert rig.take_one(worker)

    def test_each_of_several_waiters_gets_its_job(self, rig: Rig) -> None:
        producer, workers = rig.producer(), [rig.worker() for _ in range(3)]
        taken: list[str] = []

        def serve(worker: Backend) -> None:
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline and len(taken) < 3:
                deliveries = worker.reserve([T], 1, rig.request())
                taken.extend(delivery.id for delivery in deliveries)
                if deliveries or len(taken) >= 3:
                    return
                worker.wait([T], PATIENCE)

        with ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(serve, worker) for worker in workers]
            ids = rig.push_many(producer, 3)
            for future in futures:
                future.result(PATIENCE + 5)
        assert sorted(taken) == sorted(ids)

    def test_a_wait_ends_when_its_time_is_over(self, rig: Rig) -> None:
        worker = rig.worker()
        begin = time.monotonic()
        assert worker.wait([T], 0.2) is False
        assert time.monotonic() - begin >= 0.19

    def test_a_wait_for_other_topics_is_not_ended_by_a_push(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        rig.push_many(producer, 1, topic="other")
        assert worker.wait([T], 0.2) is False

    def test_a_wait_for_no_topics_only_passes_time(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        rig.push_many(producer, 1)
        assert worker.wait([], 0.2) is False

    def test_an_interrupt_ends_a_wait(self, rig: Rig) -> None:
        worker = rig.worker()
        for topics in ([T], []):
            with ThreadPoolExecutor(1) as pool:
                future = pool.submit(worker.wait, topics, PATIENCE * 3)
                time.sleep(0.05)  # let the wait begin; one that begins later ends, too
                worker.interrupt()
                assert future.result(PATIENCE) is False

    def test_a_housekeeper_sleeps_too_though_it_owns_no_jobs(self, rig: Rig) -> None:
        keeper = rig.producer()
        assert keeper.wait([], 0.1) is False
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(keeper.wait, [], PATIENCE * 3)
            time.sleep(0.05)  # let the wait begin; one that begins later ends, too
            keeper.interrupt()
            assert future.result(PATIENCE) is False

    def test_an_interrupt_before_a_wait_ends_it_at_once(self, rig: Rig) -> None:
        worker = rig.worker()
        worker.interrupt()
        begin = time.monotonic()
        worker.wait([T], PATIENCE)
        assert time.monotonic() - begin < PATIENCE / 2

    def test_a_settle_asked_for_during_a_long_wait_is_out_at_once(self, rig: Rig) -> None:
        worker = rig.worker()
        rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(worker)
        delays = []

        def courier() -> None:
            worker.wait([T], PATIENCE)
            delays.append(time.monotonic())
            rig.settle(worker, delivery, Outcome.DONE)

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(courier)
            time.sleep(0.05)  # let the wait begin; one that begins later ends, too
            asked = time.monotonic()
            worker.interrupt()
            future.result(PATIENCE)
        assert delays[0] - asked < PATIENCE / 2  # the target is 10 ms, but a benchmark measures that
        assert rig.take(rig.worker()) == []

    def test_a_wait_ends_when_a_scheduled_job_falls_due(self, rig: Rig) -> None:
        if not rig.has("delay") or rig.clock:
            return  # with a clock that stands still, nothing becomes due during a wait
        producer, worker = rig.producer(), rig.worker()
        rig.push(producer, rig.job(delay=0.5))
        deadline = time.monotonic() + PATIENCE
        found: list[Delivery] = []
        while not found and time.monotonic() < deadline:
            worker.wait([T], PATIENCE)
            found = worker.reserve([T], 1, rig.request())
        assert found

    def test_a_released_job_ends_another_workers_wait(self, rig: Rig) -> None:
        worker, other = rig.worker(), rig.worker()
        rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(worker)
        rig.take(other)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(other.wait, [T], PATIENCE)
            rig.settle(worker, delivery, Outcome.RELEASE)
            assert future.result(PATIENCE + 5) is True
        assert rig.take_one(other).id == delivery.id

    # -- and reserving in the same call ----------------------------------------------------------

    def test_who_waits_to_reserve_gets_what_is_pushed(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        rig.take(worker)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(self.next_of, rig, worker, 5)
            (job_id,) = rig.push_many(producer, 1)
            assert [delivery.id for delivery in future.result(PATIENCE + 5)] == [job_id]

    def next_of(self, rig: Rig, worker: Backend, limit: int) -> list[Delivery]:
        """Return the jobs of the next reservation; repeat `reserve_next`, which may return early without any."""
        found: list[Delivery] = rig.until(lambda: worker.reserve_next([T], limit, rig.request(), PATIENCE))
        return found

    def test_who_waits_to_reserve_gets_no_more_than_it_asked_for(self, rig: Rig) -> None:
        worker = rig.worker()
        ids = rig.push_many(rig.producer(), 5)
        taken: list[str] = []
        while len(taken) < 5:
            deliveries = self.next_of(rig, worker, 2)
            assert len(deliveries) <= 2
            taken += [delivery.id for delivery in deliveries]
        assert sorted(taken) == sorted(ids)

    def test_what_was_reserved_while_waiting_is_returned_to_the_same_request(self, rig: Rig) -> None:
        if not rig.has("strict_order"):
            return
        producer, worker = rig.producer(), rig.worker()
        rig.take(worker)
        requests: list[str] = []

        def reserve() -> list[Delivery]:
            requests.append(rig.request())
            return worker.reserve_next([T], 2, requests[-1], PATIENCE)

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(rig.until, reserve)
            rig.push_many(producer, 4)
            first: list[Delivery] = future.result(PATIENCE + 5)
        again = worker.reserve([T], 2, requests[-1])
        assert [(d.id, d.token) for d in again] == [(d.id, d.token) for d in first]
        assert len(first) + len(rig.take(rig.worker())) == 4

    def test_who_waits_to_reserve_comes_back_with_nothing_in_time_and_when_interrupted(self, rig: Rig) -> None:
        worker = rig.worker()
        assert worker.reserve_next([T], 1, rig.request(), 0.2) == []
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(worker.reserve_next, [T], 1, rig.request(), PATIENCE * 3)
            time.sleep(0.05)  # let the wait begin; one that begins later ends, too
            worker.interrupt()
            assert future.result(PATIENCE) == []
        rig.push_many(rig.producer(), 1)
        assert len(self.next_of(rig, worker, 1)) == 1  # and the interrupt has lost no job

    def test_who_waits_to_reserve_gets_a_scheduled_job_when_it_falls_due(self, rig: Rig) -> None:
        if not rig.has("delay") or rig.clock:
            return  # with a clock that stands still, nothing becomes due during a wait
        worker = rig.worker()
        rig.take(worker)
        (job_id,) = rig.push(rig.producer(), rig.job(delay=0.5))
        assert [delivery.id for delivery in self.next_of(rig, worker, 1)] == [job_id]
