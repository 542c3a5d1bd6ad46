"""The order in which jobs are delivered."""

from __future__ import annotations

from ...backends.base import Outcome
from .rig import Rig, RigCase, T


class Ordering(RigCase):
    """Topics in strict order, priority within a topic, first in first out within a priority."""

    def test_jobs_come_in_the_order_they_were_pushed(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        ids = [job_id for _ in range(4) for job_id in rig.push_many(producer, 5)]
        assert rig.take_ids(worker) == ids

    def test_a_limit_is_kept(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        ids = rig.push_many(producer, 5)
        assert [rig.take_ids(worker, 2), rig.take_ids(worker, 2), rig.take_ids(worker, 2)] == [ids[:2], ids[2:4], ids[4:]]

    def test_topics_are_served_in_the_order_given(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        low = rig.push_many(producer, 2, topic="low")
        high = rig.push_many(producer, 2, topic="high")
        taken = rig.take_ids(worker, topics=["high", "low"])
        assert taken == high + low if rig.has("strict_order") else sorted(taken) == sorted(high + low)

    def test_a_topic_that_is_not_asked_for_is_left_alone(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        rig.push_many(producer, 2, topic="other")
        (mine,) = rig.push_many(producer, 1)
        assert rig.take_ids(worker) == [mine]

    def test_higher_priorities_come_first(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        by_priority = {n: rig.push_many(producer, 2, priority=n) for n in (0, 9, 5, 1)}
        taken = rig.take_ids(worker)
        if rig.has("priority", "strict_order"):
            assert taken == by_priority[9] + by_priority[5] + by_priority[1] + by_priority[0]
        else:
            assert sorted(taken) == sorted(job_id for ids in by_priority.values() for job_id in ids)

    def test_a_released_job_comes_before_those_that_waited(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        ids = rig.push_many(producer, 4)
        taken = rig.take(worker, 2)
        rig.advance(0.01)  # a job that became ready now would come last
        for delivery in reversed(taken):
            rig.settle(worker, delivery, Outcome.RELEASE)
        again = rig.take_ids(worker)
        assert again == ids if rig.has("strict_order") else sorted(again) == sorted(ids)

    def test_due_jobs_come_in_the_order_they_fall_due(self, rig: Rig) -> None:
        if not rig.has("delay"):
            return
        producer, worker = rig.producer(), rig.worker()
        step = rig.lease / 5
        third, first, second = rig.push(producer, *[rig.job(delay=steps * step) for steps in (3, 1, 2)])
        assert [rig.take_one(worker).id for _ in range(3)] == [first, second, third]

    def test_a_retried_job_keeps_its_priority(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        (urgent,) = rig.push(producer, rig.job(priority=7))
        rig.settle(worker, rig.take_one(worker), Outcome.RETRY)
        rig.push_many(producer, 2)
        taken = rig.take_ids(worker)
        if rig.has("priority", "strict_order"):
            assert taken[0] == urgent
        assert urgent in taken

    def test_many_topics_wait_side_by_side(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        topics = [f"topic-{n}" for n in range(20)]
        ids = [rig.push_many(producer, 1, topic=topic)[0] for topic in reversed(topics)]
        taken = rig.take_ids(worker, topics=topics)
        assert taken == list(reversed(ids)) if rig.has("strict_order") else sorted(taken) == sorted(ids)
        assert rig.take(worker, topics=[T]) == []
