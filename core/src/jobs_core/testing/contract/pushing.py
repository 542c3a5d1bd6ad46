"""What push promises."""

from __future__ import annotations

import pytest

from ...message import VERSION
from .rig import Rig, RigCase, T


class Pushing(RigCase):
    """Durable, to the byte, once."""

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

    def test_an_empty_push_is_nothing(self, rig: Rig) -> None:
        assert rig.producer().push([], rig.request()) == {}

    def test_a_delayed_job_is_not_handed_out_before_its_time(self, rig: Rig) -> None:
        if not rig.has("delay"):
            return
        producer, worker = rig.producer(), rig.worker()
        delay = 2 * rig.lease  # a broker that starts anew meanwhile has the time
        (late,) = rig.push(producer, rig.job(delay=delay))
        (soon,) = rig.push(producer, rig.job())
        assert rig.take_ids(worker) == [soon]
        first = worker.reserve([T], 1, rig.request())
        assert first == []
        rig.live_through(delay, worker)
        assert rig.take_one(worker).id == late
