"""The promises of settle."""

from __future__ import annotations

import msgspec

from ...backends.base import KEPT_ERRORS, Answer, Outcome, Settlement, State
from .rig import ERROR, Rig, RigCase, T


class Settling(RigCase):
    """Every outcome takes effect once, and only from the holder of the current token."""

    def test_done_jobs_are_gone(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        rig.push_many(producer, 3)
        rig.done(worker, *rig.take(worker))
        assert rig.take(rig.worker()) == []
        if rig.has("exact_counts"):
            counts = worker.counts([T])[T]
            assert (counts.ready, counts.scheduled, counts.reserved, counts.dead) == (0, 0, 0, 0)

    def test_a_retry_comes_again_after_its_delay_and_counts_an_attempt(self, rig: Rig) -> None:
        worker = rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        delays = (rig.lease / 20, rig.lease / 20, 2 * rig.lease) if rig.has("delay") else (0.0, 0.0, 0.0)
        for attempt, delay in enumerate(delays):
            delivery = rig.take_one(worker)
            assert (delivery.id, delivery.attempt, delivery.deferrals) == (job_id, attempt, 0)
            assert rig.settle(worker, delivery, Outcome.RETRY, after=delay, error=ERROR) is Answer.SETTLED
        if rig.has("delay"):
            assert worker.reserve([T], 1, rig.request()) == []

    def test_a_defer_comes_again_and_counts_no_attempt(self, rig: Rig) -> None:
        worker = rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        for deferrals in range(3):
            delivery = rig.take_one(worker)
            assert (delivery.id, delivery.attempt, delivery.deferrals) == (job_id, 0, deferrals)
            rig.settle(worker, delivery, Outcome.DEFER, after=rig.lease / 20 if rig.has("delay") else 0.0)

    def test_a_release_comes_again_at_once_and_counts_nothing(self, rig: Rig) -> None:
        worker = rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        for _ in range(3):
            delivery = rig.take_one(worker)
            counted = (delivery.attempt, delivery.deferrals, delivery.crashes)
            assert (delivery.id, *counted) == (job_id, 0, 0, 0)
            if rig.has("exact_redelivery"):
                assert delivery.redeliveries == 0
            rig.settle(worker, delivery, Outcome.RELEASE)

    def test_a_dead_job_is_not_handed_out_again(self, rig: Rig) -> None:
        worker = rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        rig.settle(worker, rig.take_one(worker), Outcome.DEAD, reason="failed", error=ERROR)
        assert rig.take(worker) == []
        if rig.has("lookup"):
            record = rig.record(worker, job_id)
            assert (record.state, record.reason, record.attempt) == (State.DEAD, "failed", 1)
            assert [msgspec.json.decode(error)["type"] for error in record.errors] == ["ValueError"]

    def test_dead_without_a_run_counts_no_attempt(self, rig: Rig) -> None:
        worker = rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        rig.settle(worker, rig.take_one(worker), Outcome.DEAD, reason="bad message", counts=False)
        if rig.has("lookup"):
            assert rig.record(worker, job_id).attempt == 0

    def test_an_expired_job_is_a_dead_letter(self, rig: Rig) -> None:
        worker = rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        rig.settle(worker, rig.take_one(worker), Outcome.EXPIRED)
        assert rig.take(worker) == []
        if rig.has("lookup"):
            record = rig.record(worker, job_id)
            assert (record.state, record.reason, record.attempt) == (State.DEAD, "expired", 0)

    def test_the_newest_errors_are_kept(self, rig: Rig) -> None:
        if not rig.has("lookup"):
            return
        worker = rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        for n in range(12):
            rig.settle(worker, rig.take_one(worker), Outcome.RETRY, error=msgspec.json.encode({"n": n}))
        errors = [msgspec.json.decode(error)["n"] for error in rig.record(worker, job_id).errors]
        assert errors == list(range(12))[-KEPT_ERRORS:]

    def test_a_settlement_counts_once(self, rig: Rig) -> None:
        worker = rig.worker()
        rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(worker)
        assert rig.settle(worker, delivery, Outcome.DONE) is Answer.SETTLED
        assert rig.settle(worker, delivery, Outcome.RETRY) is Answer.STALE
        assert rig.take(worker) == []

    def test_a_repeated_settle_request_is_answered_and_not_done_again(self, rig: Rig) -> None:
        worker = rig.worker()
        rig.push_many(rig.producer(), 2)
        first, second = rig.take(worker, 2)
        batch = [
            Settlement(first.id, first.token, Outcome.DONE),
            Settlement(second.id, second.token, Outcome.RETRY, error=ERROR),
            Settlement("nobody", first.token, Outcome.DONE),
        ]
        request = rig.request()
        assert worker.settle(batch, request)[:2] == [Answer.SETTLED] * 2
        again = worker.settle(batch, request)
        if rig.has("fencing"):
            assert again == [Answer.ALREADY, Answer.ALREADY, Answer.STALE]
        delivery = rig.take_one(worker)
        assert (delivery.id, delivery.attempt) == (second.id, 1)
        assert rig.take(rig.worker()) == []

    def test_a_batch_settles_each_as_it_says(self, rig: Rig) -> None:
        worker = rig.worker()
        ids = rig.push_many(rig.producer(), 5)
        held = {delivery.id: delivery for delivery in rig.take(worker, 5)}
        outcomes = [Outcome.DONE, Outcome.RETRY, Outcome.DONE, Outcome.DEAD, Outcome.RELEASE]
        batch = [Settlement(job_id, held[job_id].token, outcome) for job_id, outcome in zip(ids, outcomes, strict=True)]
        assert worker.settle(batch, rig.request()) == [Answer.SETTLED] * 5
        assert sorted(rig.take_ids(worker)) == sorted([ids[1], ids[4]])

    def test_an_empty_settle_is_nothing(self, rig: Rig) -> None:
        assert rig.worker().settle([], rig.request()) == []

    def test_another_owner_can_settle_nothing(self, rig: Rig) -> None:
        worker, other = rig.worker(), rig.worker()
        rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(worker)
        if rig.has("fencing"):
            assert rig.settle(other, delivery, Outcome.DONE) is Answer.STALE
            assert rig.settle(worker, delivery, Outcome.DONE) is Answer.SETTLED

    def test_an_old_token_can_settle_nothing(self, rig: Rig) -> None:
        worker = rig.worker()
        rig.push_many(rig.producer(), 1)
        old = rig.take_one(worker)
        rig.settle(worker, old, Outcome.RELEASE)
        new = rig.take_one(worker)
        assert rig.settle(worker, old, Outcome.DONE) is Answer.STALE
        assert rig.settle(worker, new, Outcome.DONE) is Answer.SETTLED

    def test_follow_ups_come_with_the_acknowledgement(self, rig: Rig) -> None:
        if not rig.has("atomic_followups"):
            return
        worker = rig.worker()
        rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(worker)
        followups = (rig.job(b"one"), rig.job(b"two", topic="elsewhere"))
        rig.settle(worker, delivery, Outcome.DONE, followups=followups)
        assert [d.payload for d in rig.take(worker, topics=[T, "elsewhere"])] == [b"one", b"two"]

    def test_follow_ups_come_with_a_dead_letter_too(self, rig: Rig) -> None:
        """The job of `on_dead` is such a follow-up; outcomes that do not end a job push no follow-ups."""
        if not rig.has("atomic_followups"):
            return
        worker, producer = rig.worker(), rig.producer()
        for outcome in Outcome:
            rig.push_many(producer, 1)
            rig.settle(worker, rig.take_one(worker), outcome, reason="why", followups=(rig.job(topic="elsewhere"),))
            came = len(rig.take(worker, topics=["elsewhere"]))
            assert came == (outcome in (Outcome.DONE, Outcome.DEAD, Outcome.EXPIRED)), outcome
            for delivery in rig.take(worker):  # it came back
                rig.settle(worker, delivery, Outcome.CANCELLED)

    def test_a_stale_settlement_commits_no_follow_ups(self, rig: Rig) -> None:
        if not rig.has("atomic_followups", "fencing"):
            return
        worker = rig.worker()
        rig.push_many(rig.producer(), 1)
        old = rig.take_one(worker)
        rig.settle(worker, old, Outcome.RELEASE)
        assert rig.settle(worker, old, Outcome.DONE, followups=(rig.job(topic="elsewhere"),)) is Answer.STALE
        assert rig.take(worker, topics=["elsewhere"]) == []

    def test_a_repeated_settle_request_commits_follow_ups_once(self, rig: Rig) -> None:
        if not rig.has("atomic_followups"):
            return
        worker = rig.worker()
        rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(worker)
        batch = [Settlement(delivery.id, delivery.token, Outcome.DONE, followups=(rig.job(b"follow-up"),))]
        request = rig.request()
        worker.settle(batch, request)
        worker.settle(batch, request)
        assert [d.payload for d in rig.take(worker)] == [b"follow-up"]
