"""The promises of checkpoint, and of the cursors in settlements; without the feature, that it is refused."""

from __future__ import annotations

import pytest

from ...backends.base import Checkpoint, Delivery, Outcome, State
from ...errors import NotSupported
from .rig import ERROR, Rig, RigCase, T

CURSORS = (b'{"cursor":1}', b"", bytes(range(256)), b"\xff" * 8192)
"""A cursor is any bytes: encrypted ones are not text."""


class Checkpoints(RigCase):
    """A job's next delivery has the cursor that was last stored under its current token, however the run ended."""

    def test_a_job_without_a_cursor_is_delivered_with_an_empty_one(self, rig: Rig) -> None:
        worker = rig.worker()
        rig.push_many(rig.producer(), 2)
        assert [delivery.cursor for delivery in rig.take(worker, 2)] == [b"", b""]

    def test_checkpoint_is_refused_without_the_feature(self, rig: Rig) -> None:
        if not rig.has("checkpoints"):
            with pytest.raises(NotSupported, match="checkpoints"):
                rig.worker().checkpoint([Checkpoint("x", 1, b"{}")])

    def test_a_cursor_is_delivered_as_it_was_stored(self, rig: Rig) -> None:
        if not rig.has("checkpoints"):
            return
        worker = rig.worker()
        ids = rig.push_many(rig.producer(), len(CURSORS))
        held = {delivery.id: delivery for delivery in rig.take(worker, len(CURSORS))}
        worker.checkpoint([Checkpoint(job_id, held[job_id].token, b"old") for job_id in ids])
        worker.checkpoint([_of(held[job_id], cursor) for job_id, cursor in zip(ids, CURSORS, strict=True)])
        for delivery in held.values():
            rig.settle(worker, delivery, Outcome.RELEASE)
        again = {delivery.id: delivery.cursor for delivery in rig.take(rig.worker(), len(CURSORS))}
        assert again == dict(zip(ids, CURSORS, strict=True))

    def test_a_cursor_outlasts_every_end_after_which_the_job_runs_again(self, rig: Rig) -> None:
        if not rig.has("checkpoints"):
            return
        worker = rig.worker()
        rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(worker)
        worker.checkpoint([_of(delivery, b"kept")])
        for outcome in (Outcome.RELEASE, Outcome.DEFER, Outcome.RETRY):
            rig.settle(worker, delivery, outcome)
            delivery = rig.take_one(worker)
            assert delivery.cursor == b"kept", outcome
        worker.close()  # graceful: its reserved jobs return
        worker = rig.worker()
        assert rig.take_one(worker).cursor == b"kept"

    def test_a_crash_continues_from_the_last_cursor_and_is_charged(self, rig: Rig) -> None:
        if not rig.has("checkpoints", "owner_release"):
            return
        worker = rig.worker("dies")
        (job_id,) = rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(worker)
        worker.checkpoint([_of(delivery, b"1")])
        worker.checkpoint([_of(delivery, b"2")])
        rig.producer().release_owner("dies", [job_id], ERROR)
        again = rig.take_one(rig.worker())
        assert again.cursor == b"2"
        if rig.has("exact_redelivery"):
            assert (again.redeliveries, again.crashes) == (1, 1)

    def test_a_settlement_brings_the_last_cursor(self, rig: Rig) -> None:
        if not rig.has("checkpoints"):
            return
        worker = rig.worker()
        rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(worker)
        for outcome in (Outcome.RELEASE, Outcome.DEFER, Outcome.RETRY):
            worker.checkpoint([_of(delivery, b"before")])
            cursor = outcome.value.encode()
            rig.settle(worker, delivery, outcome, cursor=cursor)
            delivery = rig.take_one(worker)
            assert delivery.cursor == cursor
        if rig.has("delay"):
            rig.settle(worker, delivery, Outcome.DEFER, after=rig.lease / 20, cursor=b"later")
            assert rig.take_one(worker).cursor == b"later"

    def test_a_stale_token_stores_nothing(self, rig: Rig) -> None:
        if not rig.has("checkpoints", "fencing"):
            return
        worker, other = rig.worker(), rig.worker()
        rig.push_many(rig.producer(), 1)
        old = rig.take_one(worker)
        rig.settle(worker, old, Outcome.RELEASE, cursor=b"good")
        worker.checkpoint([_of(old, b"of a released job")])
        new = rig.take_one(worker)
        assert new.cursor == b"good"
        worker.checkpoint([_of(old, b"of an older reservation")])
        other.checkpoint([_of(new, b"of another owner")])
        rig.settle(worker, old, Outcome.RETRY, cursor=b"of a stale settlement")
        rig.settle(worker, new, Outcome.RELEASE)
        assert rig.take_one(worker).cursor == b"good"

    def test_stale_and_current_tokens_may_come_together(self, rig: Rig) -> None:
        if not rig.has("checkpoints"):
            return
        worker = rig.worker()
        rig.push_many(rig.producer(), 2)
        gone, held = rig.take(worker, 2)
        rig.done(worker, gone)
        worker.checkpoint([_of(gone, b"late"), _of(held, b"in time")])
        worker.checkpoint([])
        rig.settle(worker, held, Outcome.RELEASE)
        assert [(each.id, each.cursor) for each in rig.take(worker, 2)] == [(held.id, b"in time")]

    def test_a_dead_letter_keeps_its_cursor_for_a_retry(self, rig: Rig) -> None:
        if not rig.has("checkpoints", "browse", "lookup"):
            return
        worker = rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(worker)
        rig.settle(worker, delivery, Outcome.DEAD, reason="failed", error=ERROR, cursor=b"here")
        record = rig.record(worker, job_id)
        assert (record.state, record.cursor) == (State.DEAD, b"here")
        assert worker.requeue([job_id]) == 1
        assert rig.take_one(worker).cursor == b"here"

    def test_a_record_shows_the_cursor_of_a_running_job(self, rig: Rig) -> None:
        if not rig.has("checkpoints", "lookup"):
            return
        worker = rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        worker.checkpoint([_of(rig.take_one(worker), b"half")])
        record = rig.record(rig.producer(), job_id)
        assert (record.state, record.cursor) == (State.RESERVED, b"half")
        if rig.has("browse"):
            assert [each.cursor for each in worker.browse(T, State.RESERVED, 10)] == [b"half"]

    def test_a_new_job_never_gets_the_cursor_of_an_earlier_one(self, rig: Rig) -> None:
        if not rig.has("checkpoints"):
            return
        producer, worker = rig.producer(), rig.worker()
        outcomes = (Outcome.DONE, Outcome.CANCELLED, Outcome.DEAD)
        for outcome in outcomes:
            job = rig.job(chosen=True)
            rig.push(producer, job)
            delivery = rig.take_one(worker)
            worker.checkpoint([_of(delivery, b"old")])
            rig.settle(worker, delivery, outcome, reason="failed")
            if outcome is Outcome.DEAD and rig.has("browse"):
                assert worker.drop([job.id]) == 1
            elif outcome is not Outcome.DONE:
                continue
            worker.housekeep(100)
            rig.push(producer, job)
            assert rig.take_one(worker).cursor == b"", outcome
            rig.close()
            producer, worker = rig.producer(), rig.worker()
            rig.done(worker, rig.take_one(worker))


def _of(delivery: Delivery, cursor: bytes) -> Checkpoint:
    return Checkpoint(delivery.id, delivery.token, cursor)


__all__ = ["Checkpoints"]
