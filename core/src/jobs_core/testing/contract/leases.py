"""Owners and their leases: when an owner counts as dead, and the consequences for its jobs."""

from __future__ import annotations

import msgspec
import pytest

from ...backends.base import Answer, Backend, Delivery, Outcome
from ...errors import NotSupported, OwnerLost
from ...ids import new_token
from .rig import ERROR, Rig, RigCase, T


class Leases(RigCase):
    """A silent owner's jobs go to others; a living owner's never do."""

    def test_an_owner_that_falls_silent_loses_its_jobs(self, rig: Rig) -> None:
        silent, living = rig.worker(), rig.worker()
        ids = rig.push_many(rig.producer(), 3)
        rig.take(silent)
        if not rig.has("owner_release"):
            silent.close()  # if the lease lasts as long as the connection, only closing it ends the lease
        taken: list[str] = []

        def gone() -> bool:
            taken.extend(rig.take_ids(living, 3))
            return len(taken) == 3

        rig.expire(living, gone, [living])
        assert sorted(taken) == sorted(ids)

    def test_an_owner_that_beats_keeps_its_jobs(self, rig: Rig) -> None:
        beating, other = rig.worker(), rig.worker()
        rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(beating)
        for _ in range(10):
            rig.advance(rig.lease / 4)
            beating.heartbeat()
            other.heartbeat()
            other.housekeep(100)
        assert other.reserve([T], 1, rig.request()) == []
        assert rig.settle(beating, delivery, Outcome.DONE) is Answer.SETTLED

    def test_reserving_renews_the_lease(self, rig: Rig) -> None:
        if not rig.has("owner_release"):
            return
        working, keeper = rig.worker(), rig.worker()
        rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(working)
        for _ in range(10):
            rig.advance(rig.lease / 4)
            working.reserve(["nothing"], 1, rig.request())
            keeper.housekeep(100)
        assert rig.settle(working, delivery, Outcome.DONE) is Answer.SETTLED

    def test_a_lost_owner_can_settle_nothing_and_is_told(self, rig: Rig) -> None:
        if not rig.has("owner_release", "fencing"):
            return
        silent, living = rig.worker(), rig.worker()
        rig.push_many(rig.producer(), 1)
        old = rig.take_one(silent)
        found: list[object] = []

        def gone() -> bool:
            found.extend(living.reserve([T], 1, rig.request()))
            return bool(found)

        rig.expire(living, gone, [living])
        assert rig.settle(silent, old, Outcome.DONE) is Answer.STALE
        with pytest.raises(OwnerLost):
            silent.heartbeat()
        with pytest.raises(OwnerLost):
            silent.reserve([T], 1, rig.request())

    def test_a_lost_owner_goes_on_under_a_fresh_id(self, rig: Rig) -> None:
        if not rig.has("owner_release"):
            return
        lost, keeper = rig.worker("the-owner"), rig.worker()
        keeper.release_owner("the-owner", (), b"")
        with pytest.raises(OwnerLost):
            lost.heartbeat()
        lost.close()
        lost.open("the-owner+1")
        (job_id,) = rig.push_many(rig.producer(), 1)
        assert rig.take_one(lost).id == job_id

    def test_all_jobs_of_an_expired_owner_are_charged_and_a_lone_one_with_a_crash(self, rig: Rig) -> None:
        if not rig.has("owner_release", "exact_redelivery"):
            return
        living, producer = rig.worker(), rig.producer()
        for held in (1, 3):
            silent = rig.worker()
            rig.push_many(producer, held)
            rig.take(silent)
            taken: list[Delivery] = []

            def gone(taken: list[Delivery] = taken, held: int = held) -> bool:
                taken.extend(living.reserve([T], 10, rig.request()))
                return len(taken) == held

            rig.expire(living, gone, [living])
            assert {(d.attempt, d.redeliveries, d.crashes) for d in taken} == {(0, 1, int(held == 1))}
            rig.done(living, *taken)

    def test_an_outage_longer_than_a_lease_expires_nobody(self, rig: Rig) -> None:
        if not rig.clock:
            return  # each backend's own fault tests simulate outages of its broker
        running, keeper = rig.worker(), rig.worker()
        rig.push_many(rig.producer(), 3)
        held = rig.take(running)
        keeper.housekeep(100)
        rig.advance(rig.lease * 10)
        keeper.housekeep(100)
        assert keeper.reserve([T], 3, rig.request()) == []
        running.heartbeat()
        rig.advance(rig.lease / 10)
        keeper.housekeep(100)
        rig.done(running, *held)

    def test_after_an_outage_the_dead_still_expire(self, rig: Rig) -> None:
        if not rig.clock:
            return
        dead, keeper = rig.worker(), rig.worker()
        rig.push_many(rig.producer(), 1)
        rig.take(dead)
        rig.advance(rig.lease * 10)
        rig.expire(keeper, lambda: bool(keeper.reserve([T], 1, rig.request())), [keeper])

    def test_a_clock_set_back_keeps_no_dead_owner_for_long(self, rig: Rig) -> None:
        if not rig.clock:
            return
        dead, keeper = rig.worker(), rig.worker()
        rig.push_many(rig.producer(), 1)
        rig.take(dead)
        rig.clock.time -= 3600.0
        begin = rig.clock.time
        rig.expire(keeper, lambda: bool(keeper.reserve([T], 1, rig.request())), [keeper])
        assert rig.clock.time - begin <= 3 * rig.lease

    def test_release_owner_charges_started_jobs_only(self, rig: Rig) -> None:
        if not rig.has("owner_release"):
            return
        dead, living = rig.worker("dead"), rig.worker()
        ids = rig.push_many(rig.producer(), 4)
        rig.take(dead)
        assert living.release_owner("dead", {ids[1], ids[2]}, ERROR) == 4
        charged = {d.id: (d.attempt, d.redeliveries, d.crashes) for d in rig.take(living)}
        assert charged == {ids[0]: (0, 0, 0), ids[1]: (0, 1, 0), ids[2]: (0, 1, 0), ids[3]: (0, 0, 0)}
        if rig.has("lookup"):
            assert [msgspec.json.decode(e)["type"] for e in rig.record(living, ids[1]).errors] == ["ValueError"]
            assert rig.record(living, ids[0]).errors == ()

    def test_release_owner_counts_a_crash_for_the_only_started_job(self, rig: Rig) -> None:
        if not rig.has("owner_release"):
            return
        living = rig.worker()
        ids = rig.push_many(rig.producer(), 3)
        for crashes in (1, 2, 3):
            owner = new_token()
            rig.take(rig.worker(owner))
            living.release_owner(owner, [ids[1]], ERROR)
            record = {d.id: d for d in rig.take(living)}
            assert (record[ids[1]].redeliveries, record[ids[1]].crashes) == (crashes, crashes)
            assert (record[ids[0]].redeliveries, record[ids[0]].crashes) == (0, 0)
            for delivery in reversed(list(record.values())):
                rig.settle(living, delivery, Outcome.RELEASE)

    def test_released_jobs_come_first(self, rig: Rig) -> None:
        if not rig.has("owner_release", "strict_order"):
            return
        dead, living = rig.worker("dead"), rig.worker()
        ids = rig.push_many(rig.producer(), 4)
        rig.take(dead, 2)
        living.release_owner("dead", [ids[0]], b"")
        assert rig.take_ids(living) == ids

    def test_release_of_an_unknown_owner_or_a_second_release_is_nothing(self, rig: Rig) -> None:
        if not rig.has("owner_release"):
            return
        dead, living = rig.worker("dead"), rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        rig.take(dead)
        assert living.release_owner("nobody", [job_id], ERROR) == 0
        assert living.release_owner("dead", [job_id], ERROR) == 1
        assert living.release_owner("dead", [job_id], ERROR) == 0
        assert rig.take_one(living).redeliveries == 1

    def test_a_released_owner_is_closed_for_good(self, rig: Rig) -> None:
        if not rig.has("owner_release"):
            return
        dead, living = rig.worker("dead"), rig.worker()
        rig.push_many(rig.producer(), 2)
        delivery = rig.take(dead, 1)[0]
        living.release_owner("dead", (), b"")
        with pytest.raises(OwnerLost):
            dead.reserve([T], 1, rig.request())
        with pytest.raises(OwnerLost):
            dead.heartbeat()
        assert rig.settle(dead, delivery, Outcome.DONE) is Answer.STALE
        assert len(rig.take(living)) == 2

    def test_close_gives_back_uncharged(self, rig: Rig) -> None:
        leaving, other = rig.worker(), rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        rig.take_one(leaving)
        leaving.close()
        delivery = rig.take_one(other)
        assert (delivery.id, delivery.attempt, delivery.crashes) == (job_id, 0, 0)
        if rig.has("exact_redelivery"):
            assert delivery.redeliveries == 0

    def test_closing_twice_is_fine(self, rig: Rig) -> None:
        worker = rig.worker()
        worker.close()
        worker.close()

    def test_a_repeated_reserve_request_returns_the_same_jobs(self, rig: Rig) -> None:
        worker, other = rig.worker(), rig.worker()
        rig.push_many(rig.producer(), 4)
        request = rig.request()
        first = worker.reserve([T], 2, request)
        again = worker.reserve([T], 2, request)
        if rig.has("strict_order"):
            assert first
            assert [(d.id, d.token) for d in first] == [(d.id, d.token) for d in again]
        rest = rig.take(other)
        taken = [delivery.id for delivery in (*{d.id: d for d in (*first, *again)}.values(), *rest)]
        assert len(taken) == len(set(taken)) == 4

    def test_a_repeated_reserve_request_leaves_out_what_is_settled(self, rig: Rig) -> None:
        if not rig.has("strict_order"):
            return
        worker = rig.worker()
        rig.push_many(rig.producer(), 2)
        request = rig.request()
        first, second = worker.reserve([T], 2, request)
        rig.done(worker, first)
        assert [d.token for d in worker.reserve([T], 2, request)] == [second.token]

    def test_a_claim_takes_these_jobs_from_wherever_they_stand(self, rig: Rig) -> None:
        claims = rig.has("claim") or type(rig.unopened()).claim is not Backend.claim
        worker, other, producer = rig.worker(), rig.worker(), rig.producer()
        if not claims:
            with pytest.raises(NotSupported, match="claim"):
                worker.claim(["x"], rig.request())
            return
        (held,) = rig.push_many(producer, 1)
        stale = rig.take_one(other)
        (dead,) = rig.push_many(producer, 1)
        rig.settle(other, rig.take_one(other), Outcome.DEAD, reason="failed")
        waits, free = rig.push_many(producer, 2)
        (later,) = rig.push_many(producer, 1, delay=1000.0)
        request = rig.request()
        claimed = worker.claim([later, "nobody", held, dead, waits], request)
        assert {delivery.id for delivery in claimed} == {later, held, waits}
        again = worker.claim([later, "nobody", held, dead, waits], request)
        assert {(d.id, d.token) for d in again} == {(d.id, d.token) for d in claimed}
        assert rig.settle(other, stale, Outcome.DONE) is Answer.STALE
        assert rig.take_ids(other) == [free]
        rig.done(worker, *claimed)
        counts = producer.counts([T])[T]
        assert (counts.ready, counts.scheduled, counts.reserved, counts.dead) == (0, 0, 1, 1)

    def test_housekeeping_is_bounded_and_says_so(self, rig: Rig) -> None:
        if not rig.has("delay", "strict_order") or not rig.clock:
            return
        keeper = rig.worker()
        rig.push_many(rig.producer(), 25, delay=1.0)
        rig.advance(1.0)
        readied = []
        while True:
            kept = keeper.housekeep(10)
            readied.append(kept.readied)
            if not kept.more:
                break
        assert readied == [10, 10, 5]
        assert len(rig.take(keeper)) == 25
