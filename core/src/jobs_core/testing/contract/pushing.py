"""The promises of push."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from ...backends.base import Outcome, Outgoing, State
from ...message import VERSION, UniqueKey
from ...units import MAX_SECONDS
from .rig import ERROR, Rig, RigCase, T


class Pushing(RigCase):
    """A pushed job is durable, unchanged byte for byte, and stored once."""

    @pytest.mark.parametrize(
        "payload",
        [
            b'{"v":1,"topic":"x","job":"a.b"}',
            '{"text":"žluťoučký kůň \U0001f40e \\u0000"}'.encode(),
            b"",
            b"\x00\xff\xfe not JSON, not text \r\n",
            b'jobs1.k1.0123abcd\n{"v":1}',
        ],
        ids=["envelope", "non-ascii", "empty", "binary", "signed"],
    )
    def test_a_payload_comes_back_to_the_byte(self, rig: Rig, payload: bytes) -> None:
        worker = rig.worker()
        job = rig.job(payload)
        rig.push(rig.producer(), job)
        delivery = rig.take_one(worker)
        assert delivery.payload == payload
        assert (delivery.id, delivery.topic) == (job.id, T)
        assert (delivery.attempt, delivery.redeliveries, delivery.crashes, delivery.deferrals) == (0, 0, 0, 0)

    def test_a_payload_of_1_mb_comes_back_to_the_byte(self, rig: Rig) -> None:
        worker = rig.worker()
        payload = bytes(range(256)) * 4000
        rig.push(rig.producer(), rig.job(payload))
        assert rig.take_one(worker).payload == payload

    def test_an_envelope_of_a_future_version_is_carried_unread(self, rig: Rig) -> None:
        worker = rig.worker()
        payload = b'{"v":%d,"shape":["unknown"]}' % (VERSION + 1)
        rig.push(rig.producer(), rig.job(payload))
        assert rig.take_one(worker).payload == payload

    def test_a_push_is_seen_by_connections_opened_before_and_after(self, rig: Rig) -> None:
        before = rig.worker()
        ids = rig.push_many(rig.producer(), 2)
        after = rig.worker()
        assert {rig.take_one(before).id, rig.take_one(after).id} == set(ids)

    def test_a_bulk_push_loses_nothing(self, rig: Rig) -> None:
        worker = rig.worker()
        ids = rig.push_many(rig.producer(), 2500)
        assert sorted(rig.drain(worker)) == sorted(ids)

    def test_a_repeated_push_request_adds_nothing(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        jobs = [rig.job() for _ in range(3)]
        request = rig.request()
        first = producer.push(jobs, request)
        again = producer.push(jobs, request)
        assert first == again == {}
        seen = rig.drain(worker)
        assert set(seen) == {job.id for job in jobs}
        if rig.has("dedup"):
            assert len(seen) == 3

    def test_a_push_request_repeated_after_its_jobs_are_done_adds_nothing(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        jobs = [rig.job() for _ in range(3)]
        request = rig.request()
        producer.push(jobs, request)
        assert len(rig.drain(worker)) == 3
        producer.push(jobs, request)
        if rig.has("dedup"):
            assert rig.drain(worker) == []

    def test_housekeeping_forgets_no_push_request_within_the_window(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        jobs, request = [rig.job() for _ in range(3)], rig.request()
        producer.push(jobs, request)
        assert len(rig.drain(worker)) == 3
        rig.live_through(rig.lease / 2, worker)
        worker.housekeep(100)
        producer.push(jobs, request)
        if rig.has("dedup"):
            assert rig.drain(worker) == []

    def test_a_push_request_repeated_on_another_connection_adds_nothing(self, rig: Rig) -> None:
        worker = rig.worker()
        jobs = [rig.job() for _ in range(3)]
        request = rig.request()
        rig.producer().push(jobs, request)
        rig.producer().push(jobs, request)
        seen = rig.drain(worker)
        assert set(seen) == {job.id for job in jobs}
        if rig.has("dedup"):
            assert len(seen) == 3

    def test_a_known_id_adds_nothing(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        job = rig.job()
        rig.push(producer, job)
        rig.push(producer, job)
        seen = rig.drain(worker)
        assert seen == [job.id] if rig.has("dedup", "lookup") else set(seen) == {job.id}

    def test_an_id_that_was_chosen_and_is_known_adds_nothing_and_is_told(self, rig: Rig) -> None:
        """Pushing a chosen id adds nothing while the store holds any record of that job, in whatever state."""
        if not rig.has("known_ids"):
            return
        producer, worker = rig.producer(), rig.worker()
        states: dict[State, Callable[[Outgoing], object]] = {
            State.READY: lambda job: None,
            State.SCHEDULED: lambda job: None,
            State.RESERVED: lambda job: rig.take_one(worker),
            State.DEAD: lambda job: rig.settle(worker, rig.take_one(worker), Outcome.DEAD, reason="failed"),
        }
        if rig.has("cancel"):
            states[State.CANCELLED] = lambda job: producer.cancel(job.id)
        if rig.has("results"):
            kept = {"result": b"{}", "result_ttl": 600.0}
            states[State.DONE] = lambda job: rig.settle(worker, rig.take_one(worker), Outcome.DONE, **kept)
        for state, come_to_it in reversed(states.items()):  # the last ones stay in the queue
            job = rig.job(chosen=True, delay=600.0 if state is State.SCHEDULED else 0.0)
            assert producer.push([job], rig.request()) == {}
            come_to_it(job)
            fresh = rig.job(chosen=True)
            assert producer.push([fresh, job], rig.request()) == {job.id: job.id}, state
            keyed = rig.job(unique=UniqueKey(f"key of {state}"), chosen=True) if rig.has("unique") else fresh
            assert producer.push([msgspec.structs.replace(keyed, id=job.id)], rig.request()) == {job.id: job.id}, state
            seen = rig.drain(worker)
            assert set(seen) == ({job.id, fresh.id} if state is State.READY else {fresh.id}), state
            assert len(seen) == len(set(seen)) or not rig.has("dedup")

    def test_a_chosen_id_is_new_again_when_nothing_is_kept_of_it(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        job = rig.job(chosen=True)
        for _ in range(2):
            assert producer.push([job], rig.request()) == {}
            assert rig.drain(worker) == [job.id]

    def test_of_two_messages_of_one_chosen_id_in_one_push_the_first_counts(self, rig: Rig) -> None:
        if not rig.has("known_ids"):
            return
        producer, worker = rig.producer(), rig.worker()
        first = rig.job(b"first", chosen=True)
        second = msgspec.structs.replace(first, payload=b"second")
        assert producer.push([first, second], "the-request") == {}
        assert producer.push([first, second], "the-request") == {}
        assert [delivery.payload for delivery in rig.take(worker)] == [b"first"]

    @pytest.mark.parametrize("text", ["a b:c|d,e;f", "ž" * 64, "'\"\\%s{}", "-1", "nil", "~!@#$^&*()[]<>?/"])
    def test_ids_of_any_printable_text_are_carried(self, rig: Rig, text: str) -> None:
        producer, worker = rig.producer(), rig.worker()
        job = msgspec.structs.replace(rig.job(chosen=True), id=text)
        rig.push(producer, job)
        delivery = rig.take_one(worker)
        assert delivery.id == text
        rig.settle(worker, delivery, Outcome.RETRY, error=ERROR)
        rig.done(worker, rig.take_one(worker))

    def test_the_longest_times_are_carried(self, rig: Rig) -> None:
        producer, worker = rig.producer(), rig.worker()
        if rig.has("delay"):
            (late,) = rig.push(producer, rig.job(delay=MAX_SECONDS))
            (again,) = rig.push(producer, rig.job())
            rig.settle(worker, rig.take_one(worker), Outcome.RETRY, after=MAX_SECONDS, error=ERROR)
            for job_id in (late, again) if rig.has("lookup") else ():
                record = rig.record(producer, job_id)
                assert record.state is State.SCHEDULED
                assert record.due is None or record.due - record.broker_now > MAX_SECONDS - 3600
        if rig.has("unique"):
            holder, other = (rig.job(unique=UniqueKey("long", MAX_SECONDS)) for _ in range(2))
            rig.push(producer, holder)
            assert producer.push([other], rig.request()) == {other.id: holder.id}
        (soon,) = rig.push(producer, rig.job()) if not rig.has("unique") else (holder.id,)
        assert rig.take_ids(worker) == [soon]

    def test_unique_keys_of_any_text_are_told_apart(self, rig: Rig) -> None:
        if not rig.has("unique"):
            return
        producer, worker = rig.producer(), rig.worker()
        keys = [
            "a",
            "A",
            "a ",
            " a",
            "a\0",
            "a\0b",
            "a\nb",
            "ž" * 512,
            "ž" * 511 + "z",
            "'",
            '"',
            "%",
            "{a}",
            "1 2",
            "\U0001f40e",
        ]
        jobs = [rig.job(unique=UniqueKey(key)) for key in keys]
        assert producer.push(jobs, rig.request()) == {}
        again = [rig.job(unique=UniqueKey(key)) for key in keys]
        assert producer.push(again, rig.request()) == {two.id: one.id for one, two in zip(jobs, again, strict=True)}
        assert sorted(rig.drain(worker)) == sorted(job.id for job in jobs)
        assert producer.push([rig.job(unique=UniqueKey(key)) for key in keys], rig.request()) == {}

    def test_an_empty_push_is_nothing(self, rig: Rig) -> None:
        assert rig.producer().push([], rig.request()) == {}

    def test_a_delayed_job_is_not_handed_out_before_its_time(self, rig: Rig) -> None:
        if not rig.has("delay"):
            return
        producer, worker = rig.producer(), rig.worker()
        delay = 2 * rig.lease  # long enough for a broker that restarts meanwhile
        (late,) = rig.push(producer, rig.job(delay=delay))
        (soon,) = rig.push(producer, rig.job())
        assert rig.take_ids(worker) == [soon]
        first = worker.reserve([T], 1, rig.request())
        assert first == []
        rig.live_through(delay, worker)
        assert rig.take_one(worker).id == late
