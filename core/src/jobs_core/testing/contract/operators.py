"""Operator calls."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from ...backends.base import Backend, Heartbeat, Outcome, State
from ...message import UniqueKey
from .rig import ERROR, PATIENCE, Rig, RigCase, T, retention


class Operators(RigCase):
    """Counting, finding, listing, cancelling, pausing, results and dead letters."""

    @pytest.fixture
    def producer(self, rig: Rig) -> Backend:
        return rig.producer()

    def dead(self, rig: Rig, worker: Backend, producer: Backend) -> str:
        (job_id,) = rig.push_many(producer, 1)
        rig.settle(worker, rig.take_one(worker), Outcome.DEAD, reason="failed", error=ERROR)
        return job_id

    def test_what_a_backend_lacks_it_refuses_by_name(self, rig: Rig, producer: Backend) -> None:
        rig.lacks(producer, "lookup", "browse", "pause", "cancel", "results", "unique")
        assert rig.take(rig.worker()) == []

    def test_ids_are_found_by_what_they_begin_with(self, rig: Rig, producer: Backend) -> None:
        """The beginning of an id is plain text: characters that are wildcards in some stores (`%`, `*`) are literal."""
        if rig.lacks(producer, "browse"):
            assert producer.find_ids("0", 5) == []
            return
        worker = rig.worker()
        ids = rig.push_many(producer, 4)
        rig.settle(worker, rig.take_one(worker), Outcome.DEAD, reason="failed", error=ERROR)
        rig.take_one(worker)
        ids += rig.push_many(producer, 1, delay=100.0) if rig.has("delay") else []
        for job_id in ids:
            assert producer.find_ids(job_id, 5) == [job_id], "ready, scheduled, reserved or dead"
        common = ids[0][: next(n for n in range(len(ids[0])) if len({job_id[n] for job_id in ids}) > 1)]
        assert sorted(producer.find_ids(common, 100)) == sorted(ids)
        assert len(set(producer.find_ids(common, 2))) == 2
        for no_beginning in (ids[0] + "0", ids[0][1:], "%", "_", "*", "[0-9]", "?" + ids[0][1:], ids[0].upper() + "x"):
            assert producer.find_ids(no_beginning, 5) == []

    def test_counts(self, rig: Rig, producer: Backend) -> None:
        worker = rig.worker()
        assert worker.counts([T])[T].ready == 0
        rig.push_many(producer, 5)
        if rig.has("delay"):
            rig.push_many(producer, 2, delay=100.0)
        held = rig.take(worker, 2)
        rig.settle(worker, held[0], Outcome.DEAD, reason="failed")
        counts = worker.counts([T, "empty"])
        if not rig.has("exact_counts"):  # counts must still be reported, and be roughly right
            assert 0 <= counts[T].ready <= 5
            assert (counts["empty"].ready, counts["empty"].oldest_age) == (0, None)
            return
        assert (counts[T].ready, counts[T].reserved, counts[T].dead) == (3, 1, 1)
        assert counts[T].scheduled == (2 if rig.has("delay") else 0)
        assert (counts["empty"].ready, counts["empty"].oldest_age) == (0, None)

    def test_what_was_ever_pushed_or_refused_is_counted_if_at_all(self, rig: Rig, producer: Backend) -> None:
        worker = rig.worker()
        if producer.counts([T])[T].pushed is None:
            assert producer.counts([T])[T].refused is None
            return
        rig.push_many(producer, 1)
        assert worker.counts([T])[T].pushed == 1, "a rare push is counted at once"
        for _ in range(99):
            rig.push_many(producer, 1)
        assert 100 - 15 <= (worker.counts([T])[T].pushed or 0) <= 100
        repeated, request = [rig.job(topic=T) for _ in range(16)], rig.request()
        for _ in range(2):
            producer.push(repeated, request)
        refused = 0
        if rig.has("unique"):
            key = UniqueKey(f"counted-{rig.name}")
            for _ in range(3):
                producer.push([rig.job(topic=T, unique=key)], rig.request())
            refused = 2
        rig.drain(worker)
        producer.close()
        counts = worker.counts([T, "empty"])
        assert counts[T].pushed == 100 + 16 + (1 if rig.has("unique") else 0), "settled jobs stay counted"
        assert counts[T].refused == refused
        assert (counts["empty"].pushed, counts["empty"].refused) == (0, 0)

    def test_the_age_of_the_oldest_ready_job(self, rig: Rig, producer: Backend) -> None:
        rig.push_many(producer, 1, priority=5)
        rig.advance(rig.lease / 3)
        rig.push_many(producer, 1, priority=9)
        age = producer.counts([T])[T].oldest_age
        if rig.lacks(producer, "ages"):
            assert age is None, "an unknown value must not be reported as a number"
            return
        assert age is not None
        assert rig.lease / 3 <= age < rig.lease / 3 + PATIENCE

    def test_a_delayed_jobs_age_begins_when_it_is_due(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "exact_counts", "delay"):
            return
        if not rig.clock:
            return
        worker = rig.worker()
        rig.push_many(producer, 1, delay=100.0)
        rig.advance(103.0)
        worker.housekeep(10)
        assert worker.counts([T])[T].oldest_age == pytest.approx(3.0)

    def test_states_are_told(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "lookup", "delay", "browse"):
            return
        worker = rig.worker("the-worker")
        assert producer.get("nobody") is None
        rig.push_many(producer, 1, delay=rig.lease, topic="other")  # creates what a store needs once for delays
        (job_id,) = rig.push(producer, rig.job(b"payload", priority=4, delay=rig.lease / 5))
        record = rig.record(producer, job_id)
        assert (record.state, record.topic, record.priority, record.payload) == (State.SCHEDULED, T, 4, b"payload")
        assert record.due is not None
        assert record.due == pytest.approx(record.pushed_at + rig.lease / 5, abs=0.5)
        delivery = rig.take_one(worker)
        record = rig.record(producer, job_id)
        assert (record.state, record.owner) == (State.RESERVED, "the-worker")
        rig.settle(worker, delivery, Outcome.RELEASE)
        assert rig.record(producer, job_id).state is State.READY
        rig.settle(worker, rig.take_one(worker), Outcome.DEAD, reason="why", error=ERROR)
        record = rig.record(producer, job_id)
        assert (record.state, record.reason, record.owner) == (State.DEAD, "why", None)
        producer.requeue([job_id])
        rig.done(worker, rig.take_one(worker))
        assert producer.get(job_id) is None

    def test_browsing_lists_what_runs_next_first(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "browse", "strict_order"):
            return
        worker = rig.worker()
        low = rig.push_many(producer, 3)
        (high,) = rig.push_many(producer, 1, priority=9)
        rig.push_many(producer, 2, topic="other")
        assert [r.id for r in producer.browse(T, State.READY, 10)] == [high, *low]
        assert [r.id for r in producer.browse(T, State.READY, 2, 1)] == low[:2]
        rig.take(worker, 1)
        assert [r.id for r in producer.browse(T, State.RESERVED, 10)] == [high]
        later = [rig.push_many(producer, 1, delay=delay)[0] for delay in (200.0, 100.0)]
        assert [r.id for r in producer.browse(T, State.SCHEDULED, 10)] == later[::-1]
        assert producer.browse("nothing", State.READY, 10) == []

    def test_topics_are_known_while_they_hold_something(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "browse"):
            return
        worker = rig.worker()
        assert producer.topics() == []
        rig.push_many(producer, 1, topic="b")
        rig.push_many(producer, 1, topic="a")
        assert producer.topics() == ["a", "b"]
        rig.drain(worker, ["a", "b"])
        assert producer.topics() == []

    def test_dead_letters_are_listed_newest_first_and_requeued(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "browse"):
            return
        worker = rig.worker()
        dead = []
        for _ in range(3):
            dead.append(self.dead(rig, worker, producer))
            rig.advance(0.01)
        assert [r.id for r in producer.browse(T, State.DEAD, 10)] == dead[::-1]
        assert producer.requeue([dead[1], "nobody"]) == 1
        delivery = rig.take_one(worker)
        assert (delivery.id, delivery.attempt, delivery.crashes) == (dead[1], 0, 0)

    def test_requeue_makes_a_scheduled_job_ready_now(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "browse", "delay"):
            return
        (job_id,) = rig.push_many(producer, 1, delay=1000.0)
        assert producer.requeue([job_id]) == 1
        assert rig.take_one(rig.worker()).id == job_id

    def test_discard_moves_queued_jobs_to_the_dead_letters(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "browse", "delay"):
            return
        worker = rig.worker()
        (ready,) = rig.push_many(producer, 1)
        (later,) = rig.push_many(producer, 1, delay=100.0)
        (held,) = rig.push_many(producer, 1, priority=9)
        assert rig.take(worker, 1)[0].id == held
        assert producer.discard([ready, later, held, "nobody"], "not wanted") == 2
        assert {(r.id, r.reason) for r in producer.browse(T, State.DEAD, 10)} == {(ready, "not wanted"), (later, "not wanted")}
        assert rig.take(worker) == []

    def test_purge_deletes_one_state_of_one_topic(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "browse", "exact_counts"):
            return
        worker = rig.worker()
        self.dead(rig, worker, producer)
        rig.push_many(producer, 3)
        rig.push_many(producer, 2, topic="other")
        assert producer.purge(T, State.READY) == 3
        assert producer.purge(T, State.READY) == 0
        counts = producer.counts([T, "other"])
        assert (counts[T].ready, counts[T].dead, counts["other"].ready) == (0, 1, 2)
        assert producer.purge(T, State.DEAD) == 1
        assert rig.take(worker) == []

    def test_drop_deletes_single_dead_letters(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "browse", "lookup"):
            return
        worker = rig.worker()
        first, second = self.dead(rig, worker, producer), self.dead(rig, worker, producer)
        (ready,) = rig.push_many(producer, 1)
        assert producer.drop([first, ready, "nobody"]) == 1
        assert [r.id for r in producer.browse(T, State.DEAD, 10)] == [second]
        assert rig.take_one(worker).id == ready

    def test_dead_letters_are_limited_in_number_and_age(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "browse"):
            return
        few, young = rig.worker(retention=retention(most=3)), rig.worker(retention=retention(keep=rig.lease / 2))
        dead = [self.dead(rig, few, producer) for _ in range(5)]
        few.housekeep(100)
        assert {r.id for r in producer.browse(T, State.DEAD, 10)} == set(dead[2:])
        rig.advance(rig.lease / 2)

        def dropped() -> bool:
            young.heartbeat()
            young.housekeep(100)
            return producer.browse(T, State.DEAD, 10) == []

        rig.until(dropped)

    def test_a_paused_topic_hands_out_nothing_until_it_is_resumed(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "pause"):
            return
        worker = rig.worker()
        producer.pause(T)
        assert producer.paused() == {T}
        (job_id,) = rig.push_many(producer, 1)
        (other,) = rig.push_many(producer, 1, topic="other")
        assert rig.take_ids(worker, topics=[T, "other"]) == [other]
        assert worker.wait([T], 0.2) is False
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(worker.wait, [T], PATIENCE)
            producer.resume(T)
            assert future.result(PATIENCE + 5) is True
        assert rig.take_one(worker).id == job_id
        assert producer.paused() == frozenset()

    def test_a_queued_job_is_cancelled_at_once(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "cancel", "delay", "lookup"):
            return
        worker = rig.worker()
        for delay in (0.0, 100.0):
            (job_id,) = rig.push_many(producer, 1, delay=delay)
            assert producer.cancel(job_id) is State.CANCELLED
            assert producer.cancel(job_id) is State.CANCELLED
            assert rig.record(producer, job_id).state is State.CANCELLED
        assert rig.take(worker) == []
        assert producer.cancel("nobody") is State.UNKNOWN

    def test_a_running_jobs_owner_is_told_of_a_cancel(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "cancel", "lookup"):
            return
        worker = rig.worker()
        (job_id,) = rig.push_many(producer, 1)
        delivery = rig.take_one(worker)
        assert worker.heartbeat().cancelled == ()
        assert producer.cancel(job_id) is State.RESERVED
        assert rig.record(producer, job_id).cancel_requested
        assert worker.heartbeat().cancelled == (job_id,)
        rig.settle(worker, delivery, Outcome.CANCELLED, result_ttl=100.0)
        assert rig.record(producer, job_id).state is State.CANCELLED
        assert worker.heartbeat().cancelled == ()

    def test_an_owner_is_told_which_jobs_are_to_end_by_whatever_means(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "cancel", "lookup"):
            return
        worker = rig.worker()
        asked, forced = rig.push_many(producer, 2)
        held = {delivery.id: delivery for delivery in rig.take(worker)}
        for job_id, force in ((asked, False), (forced, False), (forced, True)):
            assert (producer.cancel(job_id, force=True) if force else producer.cancel(job_id)) is State.RESERVED
        for _ in range(2):
            told = worker.heartbeat()
            assert (set(told.cancelled), told.forced) == ({asked, forced}, (forced,))
        rig.settle(worker, held[forced], Outcome.CANCELLED, result_ttl=100.0)
        rig.settle(worker, held[asked], Outcome.CANCELLED, result_ttl=100.0)
        assert worker.heartbeat() == Heartbeat()

    def test_a_cancelled_job_is_not_run_again(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "cancel", "lookup"):
            return
        worker = rig.worker()
        for outcome in (Outcome.RETRY, Outcome.RELEASE, Outcome.DEFER):
            (job_id,) = rig.push_many(producer, 1)
            delivery = rig.take_one(worker)
            producer.cancel(job_id)
            rig.settle(worker, delivery, outcome)
            assert rig.record(producer, job_id).state is State.CANCELLED
        assert rig.take(worker) == []

    def test_a_job_that_is_done_before_it_hears_of_its_cancel_is_done(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "cancel", "results", "lookup"):
            return
        worker = rig.worker()
        (job_id,) = rig.push_many(producer, 1)
        delivery = rig.take_one(worker)
        producer.cancel(job_id)
        rig.settle(worker, delivery, Outcome.DONE, result=b"{}", result_ttl=100.0)
        assert rig.record(producer, job_id).state is State.DONE

    def test_results_are_kept_for_their_time_to_live(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "results"):
            return
        worker = rig.worker()
        ttl = 2 * rig.lease  # long enough for a broker that restarts meanwhile
        (job_id,) = rig.push_many(producer, 1)
        assert producer.fetch_result(job_id, 0.0) is None
        rig.settle(worker, rig.take_one(worker), Outcome.DONE, result=b'{"value":"\xc3\xa9"}', result_ttl=ttl)
        record = producer.fetch_result(job_id, 0.0)
        assert record is not None
        assert (record.state, record.result) == (State.DONE, b'{"value":"\xc3\xa9"}')
        rig.live_through(ttl, worker)  # the result must have expired, whether or not housekeeping runs
        record = producer.fetch_result(job_id, 0.0)
        assert record is not None
        assert record.state is State.UNKNOWN

    def test_waiting_for_a_result_ends_when_the_job_does(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "results"):
            return
        worker, waiter = rig.worker(), rig.producer()
        endings = {
            State.DONE: {"outcome": Outcome.DONE, "result": b"1", "result_ttl": 100.0},
            State.DEAD: {"outcome": Outcome.DEAD, "reason": "failed", "error": ERROR},
            State.CANCELLED: {"outcome": Outcome.CANCELLED, "result_ttl": 100.0},
            State.UNKNOWN: {"outcome": Outcome.DONE},
        }
        for state, ending in endings.items():
            (job_id,) = rig.push_many(producer, 1)
            delivery = rig.take_one(worker)
            with ThreadPoolExecutor(1) as pool:
                future = pool.submit(waiter.fetch_result, job_id, PATIENCE)
                rig.settle(worker, delivery, **ending)  # type: ignore[arg-type]
                record = future.result(PATIENCE + 5)
            assert record is not None
            assert record.state is state

    def test_a_result_that_does_not_come_is_not_waited_for_longer_than_asked(self, rig: Rig, producer: Backend) -> None:
        if rig.lacks(producer, "results"):
            return
        (job_id,) = rig.push_many(producer, 1)
        assert producer.fetch_result(job_id, 0.1) is None

    def test_set_up_may_be_repeated(self, producer: Backend) -> None:
        producer.setup()
        producer.setup()
        assert all(isinstance(line, str) for line in producer.advice())
