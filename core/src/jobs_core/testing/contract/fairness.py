"""The promises of fair topics: keys take turns."""

from __future__ import annotations

import pytest

from ...backends.base import Backend, Outcome, State
from ...backends.limits import Limit, Lines
from ...errors import NotSupported
from .rig import Rig, RigCase, T


class Fairness(RigCase):
    """In a fair topic, the keys take turns within each priority, one job each."""

    def test_lines_are_refused_without_the_feature(self, rig: Rig) -> None:
        if not rig.has("fairness"):
            with pytest.raises(NotSupported, match="fairness"):
                rig.producer().lines(T, 1)

    def test_keys_take_turns(self, rig: Rig) -> None:
        if not rig.has("fairness"):
            return
        producer, worker = _fair(rig), rig.worker()
        self._push(rig, producer, "aaabbc")
        assert self._keys(rig, worker) == "abcaba"

    def test_keys_that_come_in_one_push_take_turns_in_their_order(self, rig: Rig) -> None:
        if not rig.has("fairness"):
            return
        producer, worker = _fair(rig), rig.worker()
        rig.push(producer, *(rig.job(key=key) for key in "bbacca"))
        assert self._keys(rig, worker, 2) == "ba"
        rig.push(producer, *(rig.job(key=key) for key in "bbddaa"))
        assert self._keys(rig, worker) == "cbadcbadba"

    def test_a_new_key_waits_for_at_most_one_job_of_each_other(self, rig: Rig) -> None:
        if not rig.has("fairness"):
            return
        producer, worker = _fair(rig), rig.worker()
        self._push(rig, producer, "aaaabbbb")
        assert self._keys(rig, worker, 3) == "aba"
        self._push(rig, producer, "c")
        assert self._keys(rig, worker) == "bacbab"

    def test_jobs_without_a_key_are_one_key(self, rig: Rig) -> None:
        if not rig.has("fairness"):
            return
        producer, worker = _fair(rig), rig.worker()
        self._push(rig, producer, "--aa")
        assert self._keys(rig, worker) == "-a-a"

    def test_priorities_come_before_turns(self, rig: Rig) -> None:
        if not rig.has("fairness", "priority"):
            return
        producer, worker = _fair(rig), rig.worker()
        self._push(rig, producer, "aab")
        self._push(rig, producer, "aab", priority=5)
        assert self._keys(rig, worker) == "abaaba"

    def test_a_released_job_is_the_first_of_its_key_and_its_key_the_first_in_turn(self, rig: Rig) -> None:
        if not rig.has("fairness"):
            return
        producer, worker = _fair(rig), rig.worker()
        self._push(rig, producer, "aaabb")
        held = rig.take_one(worker)
        rig.settle(worker, held, Outcome.RELEASE, ran=False)
        again = rig.take_one(worker)
        assert again.id == held.id
        assert self._keys(rig, worker) == "baba"

    def test_unstarted_jobs_of_a_dead_owner_come_first_in_turn(self, rig: Rig) -> None:
        if not rig.has("fairness", "owner_release"):
            return
        producer, worker, gone = _fair(rig), rig.worker(), rig.worker("gone")
        self._push(rig, producer, "aaabbc")
        unstarted = rig.take_one(gone)
        producer.release_owner("gone", [], b"")
        assert self._keys(rig, worker, 4) == "abca"
        assert unstarted.key == "a"

    def test_the_key_is_stored_whether_or_not_the_topic_is_fair(self, rig: Rig) -> None:
        if not rig.has("fairness", "lookup"):
            return
        producer, worker = rig.producer(), rig.worker()
        (job_id,) = rig.push_many(producer, 1, key="tenant")
        assert rig.record(producer, job_id).key == "tenant"
        assert rig.take_one(worker).key == "tenant"

    def test_empty_lines_leave_nothing_behind(self, rig: Rig) -> None:
        if not rig.has("fairness", "browse", "cancel"):
            return
        producer, worker = _fair(rig, 1), rig.worker()
        ids = [rig.push_many(producer, 3, key=key) for key in "ab"]
        held = rig.take(worker)
        assert sorted(each.key for each in held) == ["a", "b"]
        for job_id in (*ids[0], *ids[1]):
            if job_id not in {each.id for each in held}:
                producer.cancel(job_id)
        assert producer.lines(T, 9) == []
        rig.done(worker, *held)
        worker.housekeep(100)
        if rig.has("limits"):
            assert producer.limits(100, [f"key/{T}"]) == []
        assert self._keys(rig, worker) == ""

    def test_a_key_has_at_most_max_per_key_reservations(self, rig: Rig) -> None:
        if not rig.has("fairness"):
            return
        producer, worker = _fair(rig, 2), rig.worker()
        self._push(rig, producer, "aaaab---")
        taken = rig.take(worker)
        assert sorted(each.key for each in taken) == ["", "", "a", "a", "b"]
        assert rig.take(worker) == []
        rig.done(worker, *(each for each in taken if each.key == "a"))
        assert self._keys(rig, worker) == "aa"

    def test_jobs_beyond_max_per_key_are_limited_until_a_reservation_of_their_key_ends(self, rig: Rig) -> None:
        if not rig.has("fairness"):
            return
        producer, worker = _fair(rig, 1), rig.worker()
        self._push(rig, producer, "aab")
        taken = rig.take(worker)
        assert "".join(each.key for each in taken) == "ab"
        counts = producer.counts([T])[T]
        assert (counts.ready, counts.limited, counts.reserved) == (0, 1, 2)
        assert not worker.wait([T], 0.0)
        rig.done(worker, taken[1])
        assert rig.take(worker) == []
        rig.done(worker, taken[0])
        assert worker.wait([T], 5.0)
        assert self._keys(rig, worker) == "a"

    def test_a_dead_owner_leaves_its_keys_room(self, rig: Rig) -> None:
        if not rig.has("fairness", "owner_release"):
            return
        producer, worker, gone = _fair(rig, 1), rig.worker(), rig.worker("gone")
        self._push(rig, producer, "aab")
        started, unstarted = rig.take(gone)
        producer.release_owner("gone", [started.id], b"")
        assert sorted(each.id for each in rig.take(worker)) == sorted((started.id, unstarted.id))

    def test_a_worker_takes_as_many_jobs_of_topics_with_max_per_key_as_it_can_start(self, rig: Rig) -> None:
        if not rig.has("fairness"):
            return
        producer, worker, topics = rig.producer(), rig.worker(), [T, f"{T}.2"]
        producer.define_limits({}, {topic: Lines(fair=True, max_per_key=1) for topic in topics})
        for topic, key in zip((*topics, topics[1]), "abc", strict=True):
            rig.push_many(producer, 1, topic=topic, key=key)
        worker.startable = 2
        first = rig.take(worker, topics=topics)
        assert ([each.topic for each in first], worker.passed_over) == (topics, True)
        worker.startable = 1
        second = rig.take(worker, topics=topics)
        assert (len(second), worker.passed_over) == (1, False)
        assert sorted(each.key for each in (*first, *second)) == ["a", "b", "c"]

    def test_a_limited_head_uses_no_turn(self, rig: Rig) -> None:
        if not rig.has("fairness", "limits"):
            return
        producer, worker = _fair(rig), rig.worker()
        producer.define_limits({"x": Limit(concurrency=0)}, {})
        rig.push_many(producer, 2, key="a", limits=("x",))
        self._push(rig, producer, "bbcc")
        assert self._keys(rig, worker, 3) == "bcb"
        producer.define_limits({"x": Limit(concurrency=9)}, {})
        assert self._keys(rig, worker) == "aca"

    def test_jobs_from_before_a_topic_became_fair_are_drained_as_one_key(self, rig: Rig) -> None:
        if not rig.has("fairness"):
            return
        producer, worker = rig.producer(), rig.worker()
        self._push(rig, producer, "aab")
        _fair(rig)
        self._push(rig, producer, "cc")
        assert self._keys(rig, worker) == "acacb"

    def test_a_topic_that_is_no_longer_fair_is_served_by_age(self, rig: Rig) -> None:
        if not rig.has("fairness"):
            return
        producer, worker = _fair(rig), rig.worker()
        self._push(rig, producer, "aab")
        producer.define_limits({}, {T: Lines()})
        self._push(rig, producer, "c")
        assert self._keys(rig, worker) == "aabc"

    def test_lines_names_the_deepest_keys_and_purge_leaves_none(self, rig: Rig) -> None:
        if not rig.has("fairness", "browse"):
            return
        producer, worker = _fair(rig), rig.worker()
        self._push(rig, producer, "aaabb-")
        assert producer.lines(T, 2) == [("a", 3), ("b", 2)]
        assert producer.purge(T, State.READY) == 6
        assert producer.lines(T, 2) == []
        assert self._keys(rig, worker) == ""

    def _push(self, rig: Rig, backend: Backend, keys: str, priority: int = 0) -> None:
        """Push a job for each letter, with the letter as its key; "-" stands for none."""
        for key in keys:
            rig.push(backend, rig.job(key=key.strip("-"), priority=priority))

    def _keys(self, rig: Rig, worker: Backend, limit: int = 100) -> str:
        return "".join(delivery.key or "-" for delivery in rig.take(worker, limit))


def _fair(rig: Rig, most: int | None = None) -> Backend:
    producer = rig.producer()
    producer.define_limits({}, {T: Lines(fair=True, max_per_key=most)})
    return producer


__all__ = ["Fairness"]
