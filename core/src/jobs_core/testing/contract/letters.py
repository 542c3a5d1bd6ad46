"""The promises of dead_groups, dead_in_group and amend."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from ...backends.base import Answer, Backend, Outcome, Settlement, State
from ...backends.flows import Member, Part
from ...backends.letters import Fingerprint, last_of
from ...errors import BackendError, NotSupported
from .rig import ERROR, Rig, RigCase, T, retention

TIMED_OUT = Fingerprint("aaaa0001", "TimeoutError", "charge in shop/orders.py", "no answer after <n> s — „x“")
REFUSED = Fingerprint("bbbb0002", "ConnectionRefusedError")
MOST = 100


def groups(backend: Backend, topic: str = T) -> dict[str, int]:
    """Return the number of letters of each group."""
    return {group.fingerprint.id: group.letters for group in backend.dead_groups([topic], MOST)}


def grouped_letters(rig: Rig, backend: Backend, topics: Sequence[str]) -> dict[str, int] | None:
    """Return how many dead letters of each topic are in groups; None if the backend has none."""
    if not rig.has("dead_groups", "browse"):
        return None
    found = backend.dead_groups(topics, 10_000)
    return {topic: sum(group.letters for group in found if group.topic == topic) for topic in topics}


class LetterCases(RigCase):
    """Dead letters are counted by topic and fingerprint, as long as they are dead."""

    def die(self, rig: Rig, worker: Backend, *causes: Fingerprint | None, topic: str = T, reason: str = "failed") -> list[str]:
        """Let a job die of each cause; return their ids."""
        ids = []
        for cause in causes:
            ids += rig.push_many(worker, 1, topic=topic)
            delivery = rig.take_one(worker, [topic])
            rig.settle(worker, delivery, Outcome.DEAD, reason=reason, error=ERROR, fingerprint=cause)
            rig.advance(0.01)
        return ids

    def test_groups_and_amend_are_refused_without_their_features(self, rig: Rig) -> None:
        backend = rig.producer()
        calls: dict[str, list[Callable[[], object]]] = {
            "dead_groups": [lambda: backend.dead_groups([T], 1), lambda: backend.dead_in_group(T, "x", 1)],
            "amend": [lambda: backend.amend("x", b"{}", b"{}")],
        }
        for feature, refused in calls.items():
            for call in refused if not rig.has(feature) else ():
                with pytest.raises(NotSupported, match=feature):
                    call()

    def test_dead_letters_are_counted_by_what_went_wrong(self, rig: Rig) -> None:
        if not rig.has("dead_groups", "browse"):
            return
        worker, producer = rig.worker(), rig.producer()
        assert producer.dead_groups([T, "other"], MOST) == []
        first, refused, last = self.die(rig, worker, TIMED_OUT, REFUSED, TIMED_OUT)
        (elsewhere,) = self.die(rig, worker, TIMED_OUT, topic="other")
        timed_out, alone = producer.dead_groups([T], MOST)
        assert (timed_out.topic, timed_out.fingerprint, timed_out.letters, timed_out.example) == (T, TIMED_OUT, 2, last)
        assert (alone.fingerprint, alone.letters, alone.example, alone.first == alone.last) == (REFUSED, 1, refused, True)
        since = {record.id: record.since for record in producer.browse(T, State.DEAD, 10)}
        assert (timed_out.first, timed_out.last) == (since[first], since[last])
        assert [group.letters for group in producer.dead_groups([T], 1)] == [2], "the largest groups come first"
        both = producer.dead_groups([T, "other"], MOST)
        assert [(group.topic, group.letters) for group in both] == [(T, 2), (T, 1), ("other", 1)]
        assert [record.id for record in producer.dead_in_group("other", TIMED_OUT.id, 10)] == [elsewhere]

    def test_the_letters_of_a_group_are_listed_oldest_first(self, rig: Rig) -> None:
        if not rig.has("dead_groups", "browse"):
            return
        worker, producer = rig.worker(), rig.producer()
        ids = self.die(rig, worker, *[TIMED_OUT] * 4, REFUSED)[:4]
        listed = producer.dead_in_group(T, TIMED_OUT.id, 3)
        assert [record.id for record in listed] == ids[:3]
        assert [record.id for record in producer.dead_in_group(T, TIMED_OUT.id, 3, 3)] == ids[3:]
        assert {(record.state, record.reason, len(record.errors)) for record in listed} == {(State.DEAD, "failed", 1)}
        assert producer.dead_in_group(T, "no-group", 10) == producer.dead_in_group("other", TIMED_OUT.id, 10) == []

    @pytest.mark.parametrize("how", ["requeue", "drop", "purge", "expire", "trim"])
    def test_a_group_shrinks_when_its_letters_leave(self, rig: Rig, how: str) -> None:
        if not rig.has("dead_groups", "browse"):
            return
        keep = rig.lease / 2 if how == "expire" else 1000.0
        worker = rig.worker(retention=retention(keep=keep, most=2 if how == "trim" else 100))
        one, two = self.die(rig, worker, TIMED_OUT, TIMED_OUT)
        if how == "requeue":
            assert worker.requeue([one]) == 1
        elif how == "drop":
            assert worker.drop([one]) == 1
        elif how == "trim":
            self.die(rig, worker, REFUSED)
            rig.until(lambda: worker.housekeep(100) and groups(worker).get(TIMED_OUT.id) == 1)
            assert groups(worker) == {TIMED_OUT.id: 1, REFUSED.id: 1}
            return
        else:
            if how == "purge":
                assert worker.purge(T, State.DEAD) == 2
            else:
                rig.live_through(rig.lease / 2, worker)
                rig.until(lambda: worker.housekeep(100) and not worker.browse(T, State.DEAD, 1))
            assert worker.dead_groups([T], MOST) == []
            return
        (group,) = worker.dead_groups([T], MOST)
        assert (group.letters, group.example, group.first == group.last) == (1, two, True)
        assert [record.id for record in worker.dead_in_group(T, TIMED_OUT.id, 10)] == [two]

    def test_a_retried_letter_that_dies_again_is_counted_anew(self, rig: Rig) -> None:
        if not rig.has("dead_groups", "browse"):
            return
        worker = rig.worker()
        (job_id,) = self.die(rig, worker, TIMED_OUT)
        assert worker.requeue([job_id]) == 1
        assert worker.dead_groups([T], MOST) == []
        rig.settle(worker, rig.take_one(worker), Outcome.DEAD, reason="failed", error=ERROR, fingerprint=REFUSED)
        assert groups(worker) == {REFUSED.id: 1}

    def test_a_letter_without_a_fingerprint_gets_one_by_housekeeping_at_the_latest(self, rig: Rig) -> None:
        """So die jobs of workers of an earlier release, and those that an operator discards."""
        if not rig.has("dead_groups", "browse"):
            return
        worker = rig.worker()
        (settled,) = self.die(rig, worker, None)
        (discarded,) = rig.push_many(worker, 1)
        assert worker.discard([discarded], "not wanted 7") == 1
        expected = {last_of("failed", (ERROR,)).id: settled, last_of("not wanted 7", ()).id: discarded}

        def named() -> bool:
            worker.housekeep(100)
            return {group.fingerprint.id: group.example for group in worker.dead_groups([T], MOST)} == expected

        rig.until(named)
        assert {group.fingerprint for group in worker.dead_groups([T], MOST)} == {
            last_of("failed", (ERROR,)),
            last_of("not wanted 7", ()),
        }

    def test_expired_jobs_have_a_group(self, rig: Rig) -> None:
        if not rig.has("dead_groups", "browse"):
            return
        worker = rig.worker()
        rig.push_many(worker, 1)
        rig.settle(worker, rig.take_one(worker), Outcome.EXPIRED, reason="expired", fingerprint=REFUSED)
        assert groups(worker) == {REFUSED.id: 1}

    def test_the_groups_are_counted_in_the_step_that_buries(self, rig: Rig) -> None:
        """A settlement that is repeated, or comes too late, is counted once or not at all."""
        if not rig.has("dead_groups", "browse", "fencing"):
            return
        worker = rig.worker()
        rig.push_many(worker, 1)
        delivery, request = rig.take_one(worker), rig.request()
        letter = Settlement(delivery.id, delivery.token, Outcome.DEAD, reason="failed", error=ERROR, fingerprint=TIMED_OUT)
        assert [worker.settle([letter], each)[0] for each in (request, request, rig.request())] == [
            Answer.SETTLED, Answer.ALREADY, Answer.STALE,
        ]  # fmt: skip
        assert groups(worker) == {TIMED_OUT.id: 1}

    # -- amend -----------------------------------------------------------------------------------

    def test_amend_replaces_the_payload_of_a_dead_letter_under_its_id(self, rig: Rig) -> None:
        if not rig.has("amend", "browse"):
            return
        worker, producer = rig.worker(), rig.producer()
        (job_id,) = self.die(rig, worker, TIMED_OUT)
        (before,) = producer.browse(T, State.DEAD, 10)
        new = b'{"v":1,"new":"\xc3\xa4"}'
        assert producer.amend(job_id, before.payload, new)
        (after,) = producer.browse(T, State.DEAD, 10)
        assert (after.id, after.payload, after.since, after.errors) == (job_id, new, before.since, before.errors)
        assert not producer.amend(job_id, before.payload, b"{}"), "another operator has changed it"
        assert producer.requeue([job_id]) == 1
        delivery = rig.take_one(worker)
        assert (delivery.id, delivery.payload) == (job_id, new)

    def test_amend_changes_nothing_but_dead_letters(self, rig: Rig) -> None:
        if not rig.has("amend", "browse"):
            return
        worker, producer = rig.worker(), rig.producer()
        (ready,) = rig.push_many(producer, 1)
        payload = b'{"some":"message"}'
        assert not producer.amend(ready, payload, b"{}")
        assert not producer.amend("nobody", payload, b"{}")
        assert rig.take_one(worker).payload == payload

    def test_amend_refuses_another_topic_without_the_feature(self, rig: Rig) -> None:
        if not rig.has("amend", "browse") or rig.has("move"):
            return
        worker = rig.worker()
        (job_id,) = self.die(rig, worker, TIMED_OUT)
        payload = worker.browse(T, State.DEAD, 1)[0].payload
        with pytest.raises(NotSupported, match="move"):
            worker.amend(job_id, payload, b"{}", "other")
        assert worker.amend(job_id, payload, b"{}", T)

    def test_amend_moves_a_dead_letter_to_another_topic(self, rig: Rig) -> None:
        if not rig.has("move", "browse"):
            return
        worker, producer = rig.worker(), rig.producer()
        moved, stays = self.die(rig, worker, TIMED_OUT, TIMED_OUT)
        payload = producer.browse(T, State.DEAD, 1)[0].payload
        assert producer.amend(moved, payload, b"{}", "other")
        assert [record.id for record in producer.browse(T, State.DEAD, 10)] == [stays]
        (record,) = producer.browse("other", State.DEAD, 10)
        assert (record.id, record.topic, record.payload, len(record.errors)) == (moved, "other", b"{}", 1)
        if rig.has("exact_counts"):
            counts = producer.counts([T, "other"])
            assert (counts[T].dead, counts["other"].dead) == (1, 1)
        if rig.has("dead_groups", "browse"):
            assert groups(producer) == groups(producer, "other") == {TIMED_OUT.id: 1}
            assert [each.id for each in producer.dead_in_group("other", TIMED_OUT.id, 10)] == [moved]
        assert producer.requeue([moved]) == 1
        assert rig.take(worker) == []
        delivery = rig.take_one(worker, ["other"])
        assert (delivery.id, delivery.topic, delivery.attempt) == (moved, "other", 0)
        rig.done(worker, delivery)
        if rig.has("lookup"):
            assert producer.get(moved) is None
        assert producer.drop([stays]) == 1
        assert producer.browse(T, State.DEAD, 10) == producer.browse("other", State.DEAD, 10) == []

    def test_a_member_of_a_flow_is_amended_but_not_moved(self, rig: Rig) -> None:
        if not rig.has("move", "browse", "flows"):
            return
        worker = rig.worker()
        job = rig.job(member=Member("the-flow"))
        worker.push_part(Part("the-flow"), [job], rig.request())
        rig.settle(worker, rig.take_one(worker), Outcome.DEAD, reason="failed", error=ERROR, fingerprint=TIMED_OUT)
        with pytest.raises(BackendError, match="member of a flow"):
            worker.amend(job.id, job.payload, b"{}", "other")
        assert worker.amend(job.id, job.payload, b"{}", T)
        assert worker.requeue([job.id]) == 1
        assert rig.take_one(worker).payload == b"{}"
        if rig.has("dead_groups", "browse"):
            assert worker.dead_groups([T], MOST) == []
