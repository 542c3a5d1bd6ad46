"""What operators, owners, keys and time do to flows."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ...backends.base import Answer, Outcome, Settlement, State
from ...backends.limits import Limit, Lines
from ...message import UniqueKey
from .flows import ALL, OPS, FlowRig, after, run, stage
from .rig import ERROR, PATIENCE, Rig, RigCase, T, retention


class FlowOperators(RigCase):
    """What happens to a member from outside has the consequences of an end, and no flow waits for ever."""

    # -- waiting members ---------------------------------------------------------------------------

    def test_waiting_members_are_counted_listed_and_explained(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig, name="order 7"), rig.worker()
        first = flow.add(label="charge", stage="s")
        second = flow.add(stage("s"), label="send", when="ended", priority=3, payload=b"{}")
        flow.push()
        counts = worker.counts([T])[T]
        assert (counts.ready, counts.scheduled, counts.waiting, counts.oldest_age is None) == (1, 0, 1, False)
        (listed,) = worker.browse(T, State.WAITING, 10)
        record = flow.record(second)
        assert (listed.id, listed.state, record.state) == (second, State.WAITING, State.WAITING)
        assert record.member is not None
        assert (record.member.flow, record.member.when, record.waiting_for) == (flow.id, "ended", ("s",))
        assert (record.priority, record.payload) == (3, b"{}")
        assert State.WAITING in worker.queued_states
        assert worker.find_ids(second, 10) == [second]
        one, two = worker.flow_members(flow.id, 10)
        assert (one.id, one.label, one.state, one.stage, one.finale) == (first, "charge", "ready", "s", False)
        assert (two.id, two.label, two.state, two.topic, two.when) == (second, "send", "waiting", T, "ended")
        assert [each.target for each in two.after] == ["s"]
        assert worker.flow_members(flow.id, 1, 1) == [two]
        run(rig, worker, 1, Outcome.DEAD)
        assert [member.state for member in worker.flow_members(flow.id, 10)] == ["dead", "ready"]
        assert flow.status().name == "order 7"
        assert T in worker.topics()

    def test_dead_members_are_listed_by_themselves(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        ids = [flow.add() for _ in range(3)]
        flow.add(after(ids[0]))
        flow.push()
        assert worker.flow_members(flow.id, 9, dead=True) == []
        run(rig, worker, 1)
        run(rig, worker, 2, Outcome.DEAD)
        dead = [member for member in worker.flow_members(flow.id, 9) if member.state == "dead"]
        listed = worker.flow_members(flow.id, 9, dead=True)
        assert len(dead) == 2
        assert sorted(member.id for member in listed) == sorted(member.id for member in dead)
        assert all(member in dead for member in listed)
        assert worker.flow_members(flow.id, 9, 1, dead=True) == listed[1:]
        assert worker.flow_members(flow.id, 1, dead=True) == listed[:1]
        assert worker.retry_flow(flow.id) == 2
        assert worker.flow_members(flow.id, 9, dead=True) == []

    def test_a_member_behind_a_dead_one_is_shown_as_stuck(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        flow.add(priority=1)
        third = flow.add((*after(first), ALL))
        flow.push()
        run(rig, worker, 9, Outcome.DEAD)
        (member,) = [member for member in worker.flow_members(flow.id, 9) if member.id == third]
        assert (member.state, member.stuck) == ("waiting", True)
        assert flow.record(third).waiting_for[0] == first

    @pytest.mark.parametrize("how", ["cancel", "purge", "discard"])
    def test_operators_end_waiting_members(self, rig: Rig, how: str) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        second = flow.add(after(first))
        handler, needs = flow.add(after(second, ended=True), topic=f"{T}.2"), flow.add(after(second), topic=f"{T}.2")
        flow.push()
        assert worker.requeue([second]) == 0, "it has to wait"
        if how == "cancel":
            assert worker.cancel(second) is State.CANCELLED
        else:
            assert (worker.purge(T, State.WAITING) if how == "purge" else worker.discard([second], "not wanted")) == 1
        assert rig.take_ids(worker, topics=[f"{T}.2"]) == [handler]
        assert flow.state(needs) is (State.WAITING if how == "discard" else State.CANCELLED)
        assert run(rig, worker, 9) == [first]
        assert flow.state(second) is {"cancel": State.CANCELLED, "purge": State.UNKNOWN, "discard": State.DEAD}[how]

    def test_a_dead_letter_that_never_ran_waits_again_when_it_is_retried(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        second, third = flow.add(after(first), delay=0.0), flow.add(after(first))
        flow.push()
        assert worker.discard([second, third], "not wanted") == 2
        assert worker.requeue([second]) == 1
        assert flow.state(second) is State.WAITING
        assert run(rig, worker, 9) == [first]
        assert run(rig, worker, 9) == [second]
        assert worker.requeue([third]) == 1, "what it waited for ended while it was dead"
        assert run(rig, worker, 9) == [third]
        assert flow.status().state == "done"

    def test_a_delay_counts_from_the_end_of_what_it_waits_for(self, rig: Rig) -> None:
        if not rig.has(*OPS, "delay"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        second = flow.add(after(first), delay=2 * rig.lease)
        flow.push()
        rig.live_through(2.5 * rig.lease, worker)
        run(rig, worker, 1)
        assert flow.state(second) is State.SCHEDULED
        assert flow.status().active == 1
        assert worker.requeue([second]) == 1
        assert run(rig, worker, 9) == [second]

    def test_a_retried_dead_letter_is_ready_at_once_whatever_its_delay(self, rig: Rig) -> None:
        if not rig.has(*OPS, "delay"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        second = flow.add(after(first), delay=1000.0)
        flow.push()
        run(rig, worker, 1)
        assert worker.discard([second], "not wanted") == 1
        assert worker.requeue([second]) == 1
        assert flow.state(second) is State.READY
        run(rig, worker, 1, Outcome.DEAD)
        assert flow.backend.retry_flow(flow.id) == 1
        assert run(rig, worker, 9) == [second]

    def test_a_stuck_member_that_is_discarded_holds_up_what_needs_it_once(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        second = flow.add(after(first))
        flow.add(after(second), stage="s")
        handler = flow.add(stage("s", ended=True))
        flow.push()
        run(rig, worker, 1, Outcome.DEAD)
        assert worker.discard([second], "not wanted") == 1
        assert run(rig, worker, 9) == [handler], "its stage could only wait for what had died"
        assert worker.requeue([second, first]) == 2
        assert not any(member.stuck for member in worker.flow_members(flow.id, 9))

    def test_keys_count_waiting_members_as_queued_and_never_replace_a_member(self, rig: Rig) -> None:
        if not rig.has(*OPS, "unique"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        fields: dict[str, Any] = {"unique": UniqueKey(f"key-{rig.name}", "queued", "replace")}
        first = flow.add()
        second = flow.add(after(first), **fields)
        flow.push()
        refused = rig.job(**fields)
        assert worker.push([refused], rig.request()) == {refused.id: second}
        run(rig, worker, 1)
        assert worker.push([refused], rig.request()) == {refused.id: second}, "it is in a flow"
        assert rig.take_one(worker).id == second
        assert worker.push([refused], rig.request()) == {}

    def test_claim_leaves_waiting_members_alone(self, rig: Rig) -> None:
        if not rig.has("flows", "claim"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        second = flow.add(after(first))
        flow.push()
        assert [held.id for held in worker.claim([second, first], rig.request())] == [first]

    def test_a_member_that_becomes_ready_wakes_a_worker(self, rig: Rig) -> None:
        if not rig.has("flows"):
            return
        flow, worker, sleeper = FlowRig(rig), rig.worker(), rig.worker()
        first = flow.add()
        second = flow.add(after(first), topic=f"{T}.2")
        flow.push()
        held = rig.take_one(worker)
        woken: list[str] = []

        def sleep() -> None:
            woken.extend(each.id for each in sleeper.reserve_next([f"{T}.2"], 1, rig.request(), PATIENCE))

        thread = threading.Thread(target=sleep)
        thread.start()
        rig.done(worker, held)
        thread.join(PATIENCE)
        assert woken == [second] or rig.take_ids(sleeper, topics=[f"{T}.2"]) == [second]

    def test_a_dead_owner_neither_ends_nor_loses_a_member(self, rig: Rig) -> None:
        if not rig.has(*OPS, "owner_release"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        second = flow.add(after(first))
        flow.push()
        gone = rig.worker("gone")
        rig.take_one(gone)
        assert worker.release_owner("gone", [first], ERROR) == 1
        assert (flow.status().active, flow.state(second)) == (1, State.WAITING)
        assert [run(rig, worker, 9) for _ in range(2)] == [[first], [second]]

    # -- 5: what is kept ---------------------------------------------------------------------------

    def test_dead_letters_that_a_flow_needs_are_not_trimmed(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow = FlowRig(rig)
        worker = rig.worker(retention=retention(most=1))
        first = flow.add()
        second = flow.add(after(first))
        flow.push()
        run(rig, worker, 1, Outcome.DEAD)
        others = rig.push_many(worker, 3)
        for _ in others:
            run(rig, worker, 1, Outcome.DEAD)
        worker.housekeep(100)
        assert sorted(record.id for record in worker.browse(T, State.DEAD, 9)) == sorted([first, others[-1]])
        flow.backend.cancel_flow(flow.id)
        rig.push_many(worker, 1)
        last = run(rig, worker, 1, Outcome.DEAD)
        worker.housekeep(100)
        assert [record.id for record in worker.browse(T, State.DEAD, 9)] == last
        assert flow.state(second) is State.CANCELLED

    def test_dead_letters_are_kept_from_the_last_failure_of_their_flow(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, keep = FlowRig(rig), rig.lease if rig.clock else 2 * rig.lease
        worker = rig.worker(retention=retention(keep=keep))
        first, second = flow.add(), flow.add()
        waits = flow.add((ALL,))
        flow.push()
        assert run(rig, worker, 1, Outcome.DEAD) == [first]
        rig.live_through(0.9 * keep, worker)
        assert run(rig, worker, 1, Outcome.DEAD) == [second]
        rig.live_through(0.2 * keep, worker)
        worker.housekeep(100)
        assert flow.state(first) is State.DEAD
        rig.live_through(0.9 * keep, worker)
        worker.housekeep(100)
        assert (flow.state(first), flow.state(waits)) == (State.UNKNOWN, State.CANCELLED)
        assert flow.status().state == "done"

    def test_a_flow_is_kept_for_its_time_after_its_end(self, rig: Rig) -> None:
        if not rig.has("flows"):
            return
        flow, kept, worker = FlowRig(rig, ttl=rig.lease), FlowRig(rig, ttl=600.0), rig.worker()
        for each in (flow, kept):
            each.add(stage="s")
            each.push()
        rig.live_through(1.5 * rig.lease, worker)
        worker.housekeep(100)
        assert flow.status().state == "running", "its time begins at its end"
        run(rig, worker, 2)
        worker.housekeep(100)
        if rig.clock:
            assert flow.status().state == "done"
        rig.live_through(1.5 * rig.lease, worker)
        worker.housekeep(100)
        assert kept.status().state == "done"
        assert flow.backend.flow(flow.id) is None
        assert ([each.id for each in flow.backend.flows(10)], flow.backend.flow_members(flow.id, 10)) == ([kept.id], [])

    # -- 6: cancellation ---------------------------------------------------------------------------

    def test_once_a_flow_is_cancelled_no_member_starts(self, rig: Rig) -> None:
        if not rig.has(*OPS, "delay"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add(priority=1)
        ready, later, dead = flow.add(), flow.add(delay=5.0), flow.add(priority=9)
        waiting, finale = flow.add(after(first, ended=True)), flow.add((ALL,), when="ended")
        flow.push()
        assert run(rig, worker, 1, Outcome.DEAD) == [dead]
        held = rig.take_one(worker)
        assert flow.backend.cancel_flow(flow.id)
        assert flow.status().state == "cancelled"
        assert rig.take_ids(worker) == []
        assert {flow.state(each) for each in (ready, later, waiting, finale)} == {State.CANCELLED}
        if worker.wakes_to_cancel:
            assert not worker.wait([T], PATIENCE)
            assert worker.called
        assert worker.heartbeat().cancelled == (first,)
        assert flow.record(first).cancel_requested
        assert (worker.requeue([dead]), flow.backend.retry_flow(flow.id)) == (0, 0)
        assert worker.claim([dead], rig.request()) == []
        assert rig.settle(worker, held, Outcome.RETRY, followups=()) is Answer.SETTLED
        assert flow.state(first) is State.CANCELLED
        assert not flow.backend.cancel_flow(flow.id), "it has ended"
        assert (flow.status().dead, flow.status().cancelled) == (1, 5)

    @pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.DEAD, Outcome.RELEASE])
    def test_a_member_that_runs_on_after_the_cancellation_adds_and_releases_nothing(self, rig: Rig, outcome: Outcome) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        second = flow.add(after(first, ended=True))
        flow.push()
        held = rig.take_one(worker)
        flow.backend.cancel_flow(flow.id)
        added = flow.job(stage=None)
        followups = (added,) if outcome in (Outcome.DONE, Outcome.DEAD) else ()
        assert rig.settle(worker, held, outcome, followups=followups) is Answer.SETTLED
        assert rig.take_ids(worker) == []
        assert flow.state(second) is State.CANCELLED
        status = flow.status()
        assert (status.state, status.waiting, status.active, status.ended_at is None) == ("cancelled", 0, 0, False)

    def test_the_finale_can_be_left_to_run(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        second = flow.add(after(first))
        tidy, happy = flow.add((ALL,), when="ended"), flow.add((ALL,))
        flow.push()
        held = rig.take_one(worker)
        assert flow.backend.cancel_flow(flow.id, finale=True)
        assert rig.take_ids(worker) == [], "a member of the body still runs"
        late = flow.job((ALL,), when="ended")
        rig.settle(worker, held, Outcome.DONE, followups=(late,))
        assert run(rig, worker, 9) == [tidy]
        assert {flow.state(each) for each in (second, happy, late.id)} <= {State.CANCELLED, State.UNKNOWN}
        assert (flow.status().state, flow.status().done, flow.status().ended_at is None) == ("cancelled", 2, False)

    def test_no_member_of_a_large_flow_starts_while_its_cancellation_is_carried_out(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add(priority=9)
        for place in ((), after(first, ended=True)):
            for _ in range(1200):
                flow.add(place)
            flow.push(last=bool(place))
        while flow.status().active < 1201:
            worker.housekeep(1000)
        held = rig.take_one(worker)
        assert held.id == first
        assert flow.backend.cancel_flow(flow.id)
        worker.heartbeat()
        assert not worker.wait([], 0.0), "a worker without room is not to carry on"
        assert rig.take_ids(worker) == []
        rig.done(worker, held)
        while flow.status().ended_at is None:
            assert rig.take_ids(worker) == []
            worker.housekeep(1000)
        assert (flow.status().done, flow.status().cancelled) == (1, 2400)
        assert not worker.wait([T], 0.0)

    def test_workers_carry_on_with_a_flow_of_many_dependents(self, rig: Rig) -> None:
        if not rig.has("flows"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        for _ in range(2500):
            flow.add(after(first), when="failed")
        flow.push()
        while flow.status().waiting < 2500:
            worker.reserve([T], 0, rig.request())
        run(rig, worker, 1)
        while flow.status().ended_at is None:
            assert worker.wait([T], PATIENCE)
            assert worker.reserve([T], 10, rig.request()) == []
        assert (flow.status().done, flow.status().cancelled) == (1, 2500)

    @pytest.mark.parametrize("fair", [False, True])
    def test_no_limited_or_fair_member_starts_after_the_cancellation(self, rig: Rig, fair: bool) -> None:
        if not rig.has(*OPS, "limits", "fairness"):
            return
        flow, worker, limit, topic = FlowRig(rig), rig.worker(), f"flows-{rig.name}", f"{T}.fair-{fair}"
        worker.define_limits({limit: Limit(concurrency=1)}, {topic: Lines(fair=fair)})
        for n in range(2400):
            flow.add(topic=topic, limits=(limit,) if n % 2 else (), key=str(n % 3) if n % 5 else "")
        flow.push()
        while flow.status().waiting:
            worker.housekeep(1000)
        held = rig.take(worker, 3, topics=[topic])
        assert len(held) == 3
        rig.done(worker, *held)
        assert flow.backend.cancel_flow(flow.id)
        while flow.status().active:
            assert rig.take_ids(worker, topics=[topic]) == []
        counts = worker.counts([topic])[topic]
        assert (counts.ready, counts.limited, counts.reserved) == (0, 0, 0)
        other = rig.push(worker, rig.job(topic=topic, limits=(limit,)))
        assert rig.take_ids(worker, topics=[topic]) == other, "no slot was lost"

    def test_a_cancellation_reaches_the_members_of_a_dead_owner(self, rig: Rig) -> None:
        if not rig.has(*OPS, "owner_release"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        flow.push()
        rig.take_one(rig.worker("gone"))
        flow.backend.cancel_flow(flow.id)
        worker.release_owner("gone", [first], ERROR)
        assert rig.take_ids(worker) == []
        assert flow.state(first) is State.CANCELLED

    def test_a_cancelled_open_flow_takes_no_part(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        from ...errors import FlowLost

        flow = FlowRig(rig)
        first = flow.add()
        flow.push(last=False)
        assert flow.backend.cancel_flow(flow.id)
        flow.add()
        with pytest.raises(FlowLost):
            flow.push()
        assert flow.state(first) is State.CANCELLED
        assert not flow.backend.cancel_flow(f"{flow.id}-unknown")

    # -- 7: results --------------------------------------------------------------------------------

    def test_a_member_gets_the_results_that_it_takes(self, rig: Rig) -> None:
        if not rig.has("flows", "results"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first, second, third = flow.add(stage="s"), flow.add(stage="s"), flow.add()
        both = flow.add(stage("s"), inputs=(second, first))
        one = flow.add((*after(first), *after(third, ended=True)), inputs=(third, first))
        flow.push()
        results = {first: b"1", second: b"2" * 50}
        for held in rig.take(worker):
            settlement = Settlement(held.id, held.token, Outcome.DONE, result=results.get(held.id), result_ttl=0.0)
            worker.settle([settlement], rig.request())
        takers = {held.id: held for held in rig.take(worker)}
        assert takers[both].inputs == ((second, results[second]), (first, results[first]))
        assert takers[one].inputs == ((first, results[first]),), "a member without a result is left out"
        rig.settle(worker, takers[both], Outcome.RETRY)
        again = rig.take_one(worker)
        assert again.inputs == takers[both].inputs
        assert flow.backend.flow_results(flow.id, [first, second, third]) == [*results.items()]
        rig.done(worker, again)
        assert flow.backend.flow_results(flow.id, [first, second]) == [(first, b"1")]
        rig.settle(worker, takers[one], Outcome.DEAD)
        assert flow.backend.flow_results(flow.id, [first]) == [(first, b"1")], "a retry takes it again"
        if rig.has("browse"):
            assert worker.requeue([one]) == 1
            assert rig.take_one(worker).inputs == ((first, b"1"),)

    def test_results_are_delivered_as_far_as_a_message_may_be_large(self, rig: Rig) -> None:
        if not rig.has("flows", "results"):
            return
        flow, worker = FlowRig(rig), rig.worker(max_message=100)
        ids = [flow.add(stage="s") for _ in range(3)]
        flow.add(stage("s"), inputs=tuple(ids))
        flow.push()
        for held in rig.take(worker):
            worker.settle([Settlement(held.id, held.token, Outcome.DONE, result=b"x" * 50)], rig.request())
        (taker,) = rig.take(worker)
        assert [job_id for job_id, _ in taker.inputs] == ids[:2]
        assert worker.flow_results(flow.id, ids[2:]) == [(ids[2], b"x" * 50)]
        small = rig.worker(max_message=10)
        assert [job_id for job_id, _ in small.flow_results(flow.id, ids)] == ids[:1], "the first one is always returned"

    def test_a_member_may_take_the_result_of_the_one_that_adds_it(self, rig: Rig) -> None:
        if not rig.has("flows", "results"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        flow.push()
        added = flow.job(after(first), inputs=(first,))
        rig.settle(worker, rig.take_one(worker), Outcome.DONE, result=b"7", followups=(added,))
        assert rig.take_one(worker).inputs == ((first, b"7"),)

    # -- what operators see ------------------------------------------------------------------------

    def test_flows_are_listed_with_the_failed_ones_first(self, rig: Rig) -> None:
        if not rig.has("flows"):
            return
        worker, flows = rig.worker(), {}
        for name in ("failed", "done", "running", "open"):
            flow = flows[name] = FlowRig(rig, name=name)
            flow.add(delay=1000.0 if name == "running" else 0.0)
            flow.push(last=name != "open")
            run(rig, worker, 1, Outcome.DEAD if name == "failed" else Outcome.DONE)
            rig.advance(0.01)
        assert [flow.state for flow in worker.flows(10)] == ["failed", "open", "running", "done"]
        assert [flow.name for flow in worker.flows(2, 1)] == ["open", "running"]
        assert {flow.id for flow in worker.flows(10)} == {flow.id for flow in flows.values()}

    def test_a_wait_for_a_flow_ends_when_nothing_of_it_runs_any_longer(self, rig: Rig) -> None:
        if not rig.has("flows", "browse"):
            return
        flow, worker, waiter = FlowRig(rig), rig.worker(), rig.producer()
        first = flow.add()
        flow.add(after(first))
        flow.push()
        assert waiter.wait_flow(flow.id, 0.0) is None
        assert waiter.wait_flow("unknown", 0.0) is None
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(waiter.wait_flow(flow.id, PATIENCE)))
        thread.start()
        run(rig, worker, 1, Outcome.DEAD)
        thread.join(PATIENCE)
        assert [status.state for status in found] == ["failed"]
        assert flow.backend.retry_flow(flow.id) == 1
        run(rig, worker, 1)
        assert waiter.wait_flow(flow.id, 0.0) is None
        run(rig, worker, 1)
        done = waiter.wait_flow(flow.id, PATIENCE)
        assert done is not None
        assert done.state == "done"


__all__ = ["FlowOperators"]
