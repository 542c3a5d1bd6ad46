"""The promises of limits: slots, rates, closures, definitions, and the workers that they wake."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from ...backends.base import Answer, Backend, Delivery, Outcome, State
from ...backends.limits import Limit, LimitState
from ...errors import NotSupported
from .rig import ERROR, PATIENCE, Rig, RigCase, T

ONE = Limit(concurrency=1)


class LimitCases(RigCase):
    """A job starts only if each of its limits has room, and every end of its reservation gives the room back."""

    def test_limits_are_refused_without_the_feature(self, rig: Rig) -> None:
        if not rig.has("limits"):
            producer = rig.producer()
            for call in (lambda: producer.limits(1), lambda: producer.override_limit("x", ONE)):
                with pytest.raises(NotSupported, match="limits"):
                    call()

    def test_a_limit_holds_over_owners_and_topics(self, rig: Rig) -> None:
        if not rig.has("limits"):
            return
        producer, one, two = rig.producer(), rig.worker(), rig.worker()
        producer.define_limits({"a": Limit(concurrency=3)}, {})
        for topic in (T, "other"):
            rig.push_many(producer, 3, topic=topic, limits=("a",))
        assert len(rig.take(one, 2, (T, "other"))) == 2
        assert len(rig.take(two, 9, (T, "other"))) == 1
        assert _state(producer, "a").used == 3

    def test_each_value_has_a_state_of_its_own_and_undefined_limits_limit_nothing(self, rig: Rig) -> None:
        if not rig.has("limits"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": ONE}, {})
        for limit in ("a", "a:x", "a:y", "undefined"):
            rig.push_many(producer, 2, limits=(limit,))
        taken = rig.take(worker)
        assert sorted(each.limits[0] for each in taken) == ["a", "a:x", "a:y", "undefined", "undefined"]
        assert _state(producer, "undefined").used == 2

    def test_all_limits_of_a_job_are_taken_or_none(self, rig: Rig) -> None:
        if not rig.has("limits"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": ONE, "b": ONE}, {})
        rig.push_many(producer, 1, limits=("b",))
        held = rig.take_one(worker)
        (both,) = rig.push_many(producer, 1, limits=("a", "b"))
        (alone,) = rig.push_many(producer, 1, limits=("a",))
        assert rig.take_ids(worker) == [alone]
        rig.done(worker, held)
        assert rig.take_ids(worker) == []
        assert rig.record(producer, both).limits == ("a", "b")

    @pytest.mark.parametrize("outcome", list(Outcome), ids=lambda outcome: outcome.value)
    def test_every_settlement_frees_the_slot_once(self, rig: Rig, outcome: Outcome) -> None:
        if not rig.has("limits"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": ONE}, {})
        rig.push_many(producer, 3, limits=("a",))
        (held,) = rig.take(worker)
        assert rig.settle(worker, held, outcome, reason="why") is Answer.SETTLED
        assert _used(producer, "a") == 0
        assert len(rig.take(worker)) == 1
        assert rig.settle(worker, held, outcome, reason="why") is Answer.STALE
        assert rig.take(worker) == []
        assert _used(producer, "a") == 1

    @pytest.mark.parametrize("end", ["close", "release_owner", "lease", "cancel"])
    def test_every_other_end_of_a_reservation_frees_the_slot(self, rig: Rig, end: str) -> None:
        if not rig.has("limits"):
            return
        producer, worker = rig.producer(), rig.worker("holder")
        producer.define_limits({"a": ONE}, {})
        rig.push_many(producer, 2, limits=("a",))
        (held,) = rig.take(worker)
        if end == "close":
            worker.close()
        elif end == "release_owner":
            producer.release_owner("holder", [held.id], b"")
        elif end == "lease":
            rig.expire(producer, lambda: _used(producer, "a") == 0)
        else:
            producer.cancel(held.id)
            rig.settle(worker, held, Outcome.RELEASE)
        assert _used(producer, "a") == 0
        assert len(rig.take(rig.worker())) == 1

    def test_a_closed_line_is_limited_and_does_not_hold_others_back(self, rig: Rig) -> None:
        if not rig.has("limits"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": ONE}, {})
        ids = rig.push_many(producer, 3, limits=("a",))
        (held,) = rig.take(worker)
        assert rig.take(worker) == []
        (plain,) = rig.push_many(producer, 1)
        record = rig.record(producer, ids[1])
        assert (record.state, record.blocked_by, record.limits) == (State.LIMITED, "a", ("a",))
        counts = producer.counts([T])[T]
        assert (counts.ready, counts.limited, counts.reserved) == (1, 2, 1)
        assert [each.id for each in producer.browse(T, State.LIMITED, 9)] == ids[1:]
        assert [each.id for each in producer.browse(T, State.READY, 9)] == [plain]
        assert _state(producer, "a") == LimitState("a", 1, 2, ONE)
        assert rig.take_ids(worker) == [plain]
        rig.done(worker, held)
        assert rig.take_ids(worker) == [ids[1]]
        assert rig.record(producer, ids[1]).blocked_by == ""

    def test_a_topic_is_served_by_priority_then_age_from_plain_and_open_lines(self, rig: Rig) -> None:
        if not rig.has("limits"):
            return
        producer, worker = rig.producer(), rig.worker()
        kinds = [("a",), (), ("b",), (), ("a",), ("a", "b")]
        jobs = [rig.job(limits=limits, priority=n % 2) for n, limits in enumerate(kinds)]
        rig.push(producer, *jobs)
        assert rig.take_ids(worker) == [jobs[n].id for n in (1, 3, 5, 0, 2, 4)]

    def test_a_rate_lets_a_burst_start_and_then_one_an_interval(self, rig: Rig) -> None:
        if not rig.has("limits") or not rig.clock:
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"r": Limit(interval=4.0, burst=3)}, {})
        rig.push_many(producer, 9, limits=("r",))
        assert len(rig.take(worker)) == 3
        assert rig.take(worker) == []
        rig.advance(3)
        assert rig.take(worker) == []
        assert _state(producer, "r").opens_in == pytest.approx(1)
        rig.advance(1)
        assert worker.wait([T], PATIENCE)
        assert len(rig.take(worker)) == 1
        assert not worker.wait([T], 0) or not rig.take(worker)
        rig.advance(8)
        assert len(rig.take(worker)) == 2

    def test_a_wait_ends_when_a_rate_lets_the_next_job_start(self, rig: Rig) -> None:
        if not rig.has("limits") or rig.clock:
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"r": Limit(interval=3.0)}, {})  # a busy machine takes a second between two calls
        ids = rig.push_many(producer, 2, limits=("r",))
        assert rig.take_ids(worker, 1) == ids[:1]
        assert rig.take_ids(worker, 1) == []
        assert worker.wait([T], PATIENCE)
        assert rig.until(lambda: rig.take_ids(worker, 1)) == ids[1:]

    def test_a_value_is_forgotten_with_its_debt(self, rig: Rig) -> None:
        if not rig.has("limits") or not rig.clock:
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"r": Limit(interval=10.0)}, {})
        rig.push_many(producer, 1, limits=("r:a",))
        rig.done(worker, *rig.take(worker))
        worker.housekeep(100)
        assert {state.limit for state in producer.limits(9)} == {"r", "r:a"}
        rig.advance(11)
        worker.housekeep(100)
        assert {state.limit for state in producer.limits(9)} == {"r"}

    def test_a_line_is_filed_under_the_first_limit_without_room(self, rig: Rig) -> None:
        if not rig.has("limits", "lookup"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": ONE, "b": Limit(concurrency=0), "c": Limit(concurrency=0)}, {})
        (job_id,) = rig.push_many(producer, 1, limits=("a", "b", "c"))
        assert rig.take(worker) == []
        assert rig.record(producer, job_id).blocked_by == "b"
        assert (_state(producer, "b").waiting, _state(producer, "c").waiting) == (1, 0)
        producer.define_limits({"b": ONE}, {})
        assert rig.take(worker) == []
        assert rig.record(producer, job_id).blocked_by == "c"

    def test_a_job_behind_many_closed_lines_is_found(self, rig: Rig) -> None:
        if not rig.has("limits"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": Limit(concurrency=0), "b": Limit(concurrency=0)}, {})
        jobs = [rig.job(limits=("a", f"b:{n}")) for n in range(350)]
        rig.push(producer, *jobs)
        assert rig.take(worker) == []
        producer.override_limit("b:349", ONE)
        producer.define_limits({"a": ONE}, {})
        taken: list[str] = []
        while not taken:
            assert worker.wait([T], PATIENCE), "the others were not looked at yet"
            taken += [each.id for each in worker.reserve([T], 10, rig.request())]
        assert taken == [jobs[349].id]

    @pytest.mark.parametrize("what", ["a definition", "an override"])
    def test_a_change_reaches_thousands_of_lines(self, rig: Rig, what: str) -> None:
        if not rig.has("limits"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": Limit(concurrency=0)}, {})
        for start in range(0, 2500, 500):
            rig.push(producer, *[rig.job(limits=(f"a:{n}",)) for n in range(start, start + 500)])
        assert rig.take(worker) == []
        if what == "a definition":
            producer.define_limits({"a": ONE}, {})
        else:
            producer.override_limit("a", ONE)
        taken = 0
        while taken < 2500:
            assert worker.wait([T], PATIENCE)
            taken += len(worker.reserve([T], 500, rig.request()))
        assert producer.counts([T])[T].limited == 0

    def test_the_order_of_the_pool_decides_between_topics(self, rig: Rig) -> None:
        if not rig.has("limits", "strict_order"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": ONE}, {})
        (held,) = rig.push_many(producer, 1, limits=("a",))
        (older,) = rig.push_many(producer, 1, limits=("a",))
        (younger,) = rig.push_many(producer, 1, limits=("a",), topic="other")
        delivery = rig.take_one(worker)
        assert rig.take(worker, 9, (T, "other")) == []
        rig.done(worker, delivery)
        assert (delivery.id, rig.take_ids(worker, 9, ("other", T))) == (held, [younger])
        assert older

    @pytest.mark.parametrize("by", ["definition", "override", "reset"])
    def test_a_raised_rate_opens_at_once_and_holds_from_then_on(self, rig: Rig, by: str) -> None:
        if not rig.has("limits") or not rig.clock:
            return
        producer, worker = rig.producer(), rig.worker()
        slow, fast = Limit(interval=86400.0), Limit(interval=10.0)
        producer.define_limits({"r": fast if by == "reset" else slow}, {})
        if by == "reset":
            producer.override_limit("r", slow)
        rig.push_many(producer, 4, limits=("r:a",))
        assert len(rig.take(worker)) == 1
        assert rig.take(worker) == []
        if by == "definition":
            producer.define_limits({"r": fast}, {})
        else:
            producer.override_limit("r", None if by == "reset" else fast)
        assert worker.wait([T], PATIENCE)
        assert len(rig.take(worker)) == 1
        assert rig.take(worker) == []
        assert _state(producer, "r:a").opens_in == pytest.approx(10)
        rig.advance(10)
        assert len(rig.take(worker)) == 1
        assert rig.take(worker) == []

    @pytest.mark.parametrize("outcome", list(Outcome), ids=lambda outcome: outcome.value)
    def test_a_reservation_that_did_not_run_gives_its_token_back(self, rig: Rig, outcome: Outcome) -> None:
        if not rig.has("limits") or not rig.clock:
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"r": Limit(interval=1000.0)}, {})
        rig.push_many(producer, 2, limits=("r",))
        (held,) = rig.take(worker)
        rig.settle(worker, held, outcome, ran=False, reason="why")
        (held,) = rig.take(worker)
        rig.settle(worker, held, outcome, ran=True, reason="why")
        assert rig.take(worker) == []

    def test_the_token_of_an_unstarted_job_comes_back_with_its_owner_and_not_with_a_lease(self, rig: Rig) -> None:
        if not rig.has("limits") or not rig.clock:
            return
        producer = rig.producer()
        producer.define_limits({"r": Limit(interval=1e6)}, {})
        rig.push_many(producer, 1, limits=("r",))
        worker = rig.worker("unstarted")
        assert rig.take(worker)
        producer.release_owner("unstarted", [], b"")
        worker = rig.worker()
        assert rig.take(worker)
        worker.close()
        worker = rig.worker("expires")
        assert rig.take(worker)
        rig.expire(producer, lambda: _used(producer, "r") == 0)
        assert rig.take(rig.worker()) == []

    def test_jobs_that_had_started_keep_their_tokens_when_their_owner_is_released(self, rig: Rig) -> None:
        if not rig.has("limits") or not rig.clock:
            return
        producer, worker = rig.producer(), rig.worker("dead")
        producer.define_limits({"r": Limit(interval=1e6, burst=3)}, {})
        rig.push_many(producer, 4, limits=("r",))
        charged, ran, _ = rig.take(worker)
        producer.release_owner("dead", [charged.id], ERROR, [ran.id])
        heir = rig.worker()
        (delivery,) = rig.take(heir)
        assert delivery.redeliveries == (delivery.id == charged.id)
        assert rig.take(heir) == []

    def test_a_settlement_closes_a_limit_for_a_time(self, rig: Rig) -> None:
        if not rig.has("limits") or not rig.clock:
            return
        producer, worker = rig.producer(), rig.worker()
        rig.push_many(producer, 3, limits=("c",))
        held = rig.take(worker, 1)[0]
        rig.settle(worker, held, Outcome.RETRY, close_limits=(("c", 10.0), ("unused", 5.0), ("c", 2.0)))
        assert rig.take(worker) == []
        assert _state(producer, "c").closed_for == pytest.approx(10)
        rig.advance(9)
        assert rig.take(worker) == []
        rig.advance(1)
        assert worker.wait([T], PATIENCE)
        assert len(rig.take(worker)) == 3

    @pytest.mark.parametrize("reset", ["c:1", "c"])
    def test_a_reset_ends_the_closures_by_jobs_of_a_value_or_of_all_values_of_a_name(self, rig: Rig, reset: str) -> None:
        if not rig.has("limits"):
            return
        producer, worker = rig.producer(), rig.worker()
        values = ("c", "c:1", "c:1:x", "c:2", "cc", "cc:1")
        for limit in values:
            rig.push_many(producer, 2, limits=(limit,))
        closures = tuple((limit, 3600.0) for limit in (*values, "c:unused"))
        rig.settle(worker, rig.take(worker, 1)[0], Outcome.DEFER, close_limits=closures)
        assert rig.take(worker) == []
        producer.override_limit(reset, None)
        opened = [reset] if ":" in reset else ["c", "c:1", "c:1:x", "c:2", "c:unused"]
        assert {state.limit for state in producer.limits(100) if state.closed_for} == {*values, "c:unused"} - {*opened}
        assert worker.wait([T], PATIENCE)
        taken = [each.limits[0] for each in rig.take(worker)]
        assert sorted(taken) == sorted(2 * [limit for limit in opened if limit in values])

    def test_overrides_of_a_value_of_a_name_and_the_definition_apply_in_this_order(self, rig: Rig) -> None:
        if not rig.has("limits"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": Limit(concurrency=0)}, {})
        rig.push_many(producer, 9, limits=("a:x",))
        rig.push_many(producer, 9, limits=("a:y",))
        assert rig.take(worker) == []
        producer.override_limit("a", Limit(concurrency=2))
        producer.override_limit("a:x", ONE)
        taken = rig.take(worker)
        assert sorted(each.limits[0] for each in taken) == ["a:x", "a:y", "a:y"]
        producer.override_limit("a:x", None)
        assert [each.limits[0] for each in rig.take(worker)] == ["a:x"]
        producer.override_limit("a", None)
        rig.done(worker, *taken)
        assert rig.take(worker) == []
        assert not _state(producer, "a:x").overridden

    def test_limits_are_listed_all_or_by_name_with_the_most_waiting_first(self, rig: Rig) -> None:
        if not rig.has("limits"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": ONE, "ab": ONE, "unused": ONE}, {})
        for limit, count in (("a:x", 2), ("a:y", 3), ("ab", 2), ("undefined:z", 1)):
            rig.push_many(producer, count, limits=(limit,))
        assert len(rig.take(worker)) == 4
        assert rig.take(worker) == []
        found = [(state.limit, state.used, state.waiting) for state in producer.limits(100)]
        assert found[:2] == [("a:y", 1, 2), ("a:x", 1, 1)] or found[:2] == [("a:y", 1, 2), ("ab", 1, 1)]
        expected = {("a", 0, 0), ("a:x", 1, 1), ("a:y", 1, 2), ("ab", 1, 1), ("undefined:z", 1, 0), ("unused", 0, 0)}
        assert set(found) == expected
        assert {state.limit for state in producer.limits(100, ["a"])} == {"a", "a:x", "a:y"}
        assert {state.limit for state in producer.limits(100, ["ab", "undefined"])} == {"ab", "undefined:z"}
        assert [state.limit for state in producer.limits(1, ["a"])] == ["a:y"]

    def test_a_lowered_limit_takes_nothing_back_and_a_raised_one_opens_at_once(self, rig: Rig) -> None:
        if not rig.has("limits"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": Limit(concurrency=2)}, {})
        rig.push_many(producer, 6, limits=("a",))
        first, second = rig.take(worker)
        producer.define_limits({"a": ONE}, {})
        rig.done(worker, first)
        assert rig.take(worker) == []
        producer.define_limits({"a": Limit(concurrency=4)}, {})
        assert len(rig.take(worker)) == 3
        assert rig.settle(worker, second, Outcome.DONE) is Answer.SETTLED

    def test_nothing_is_held_for_a_paused_topic(self, rig: Rig) -> None:
        if not rig.has("limits", "pause"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": ONE}, {})
        rig.push_many(producer, 1, limits=("a",), topic="paused")
        (job_id,) = rig.push_many(producer, 1, limits=("a",))
        producer.pause("paused")
        assert rig.take_ids(worker, 9, ("paused", T)) == [job_id]
        producer.resume("paused")

    def test_startable_bounds_jobs_with_a_concurrency_and_no_others(self, rig: Rig) -> None:
        if not rig.has("limits"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": Limit(concurrency=5), "r": Limit(interval=0.001, burst=100)}, {})
        rig.push_many(producer, 5, limits=("a",))
        rig.push_many(producer, 2)
        rig.push_many(producer, 2, limits=("r",))
        worker.startable = 1
        assert [each.limits for each in rig.take(worker)] == [("a",), (), (), ("r",), ("r",)]
        assert worker.passed_over
        worker.startable = 0
        assert worker.reserve([T], 9, rig.request()) == []
        assert worker.passed_over
        worker.startable = None
        assert len(rig.take(worker)) == 4
        assert not worker.passed_over

    @pytest.mark.parametrize("opening", ["a slot", "a definition", "an override"])
    def test_a_limit_that_opens_wakes_a_waiting_worker(self, rig: Rig, opening: str) -> None:
        if not rig.has("limits"):
            return
        producer, holder, waiter = rig.producer(), rig.worker(), rig.worker()
        producer.define_limits({"a": ONE}, {})
        rig.push_many(producer, 2, limits=("a",))
        (held,) = rig.take(holder)
        assert rig.take(waiter) == []
        calls: dict[str, Callable[[], object]] = {
            "a slot": lambda: rig.done(holder, held),
            "a definition": lambda: producer.define_limits({"a": Limit(concurrency=2)}, {}),
            "an override": lambda: producer.override_limit("a", Limit(concurrency=2)),
        }
        taken: list[Delivery] = []
        waiting = threading.Event()

        def wait() -> None:
            waiting.set()
            if waiter.wait([T], PATIENCE):
                taken.extend(waiter.reserve([T], 1, rig.request()))

        thread = threading.Thread(target=wait)
        thread.start()
        waiting.wait()
        calls[opening]()
        thread.join()
        assert len(taken) == 1

    @pytest.mark.parametrize("removal", ["cancel", "discard", "purge"])
    def test_jobs_in_lines_can_be_removed_and_leave_nothing_behind(self, rig: Rig, removal: str) -> None:
        if not rig.has("limits", "browse", "cancel"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": ONE}, {})
        ids = rig.push_many(producer, 3, limits=("a:x",))
        (held,) = rig.take(worker)
        assert rig.take(worker) == []
        if removal == "purge":
            assert producer.purge(T, State.READY) == 2
        elif removal == "discard":
            assert producer.discard(ids[1:], "no") == 2
        else:
            assert [producer.cancel(each) for each in ids[1:]] == [State.CANCELLED] * 2
        assert _state(producer, "a:x").waiting == 0
        rig.done(worker, held)
        assert rig.take(worker) == []
        assert [state.limit for state in producer.limits(100)] == ["a"]
        if removal == "discard":
            assert producer.requeue(ids[1:]) == 2
            assert rig.take_ids(worker) == [ids[1]]

    def test_a_settlement_gives_a_job_new_limits(self, rig: Rig) -> None:
        if not rig.has("limits"):
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": Limit(concurrency=0)}, {})
        for outcome in (Outcome.RELEASE, Outcome.RETRY, Outcome.DEFER):
            (job_id,) = rig.push_many(producer, 1)
            rig.settle(worker, rig.take_one(worker), outcome, limits=("a",))
            assert rig.take(worker) == []
            assert rig.record(producer, job_id).limits == ("a",)

    def test_a_scheduled_job_enters_its_line_when_it_is_due(self, rig: Rig) -> None:
        if not rig.has("limits", "delay") or not rig.clock:
            return
        producer, worker = rig.producer(), rig.worker()
        producer.define_limits({"a": ONE}, {})
        (late,) = rig.push_many(producer, 1, limits=("a",), delay=5.0)
        (soon,) = rig.push_many(producer, 1, limits=("a",), delay=3.0)
        rig.advance(6)
        assert rig.take_ids(worker) == [soon]
        assert rig.record(producer, late).state in (State.READY, State.LIMITED)


def _state(backend: Backend, limit: str) -> LimitState:
    return next(state for state in backend.limits(1000) if state.limit == limit)


def _used(backend: Backend, limit: str) -> int:
    return next((state.used for state in backend.limits(1000) if state.limit == limit), 0)


__all__ = ["LimitCases"]
