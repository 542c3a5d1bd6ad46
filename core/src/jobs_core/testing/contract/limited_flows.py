"""The promises of limits, turns and flows where they meet."""

from __future__ import annotations

import pytest

from ...backends.base import Answer, Backend, Outcome, State
from ...backends.limits import Limit, Lines
from ...message import UniqueKey
from .flows import ALL, OPS, FlowRig, after, run
from .rig import ERROR, Rig, RigCase, T

ONE = Limit(concurrency=1)
NEEDS = (*OPS, "limits", "fairness", "owner_release")


class LimitedFlows(RigCase):
    """Members of flows have limits and keys as other jobs have, from when they become ready."""

    def test_a_member_enters_its_closed_line_when_what_it_waits_for_has_ended(self, rig: Rig) -> None:
        if not rig.has(*NEEDS):
            return
        flow, worker = FlowRig(rig), _worker(rig)
        first, waits = flow.add(), rig.push_many(worker, 1, limits=("a",), priority=5)
        second = flow.add(after(first), limits=("a",))
        flow.push()
        assert rig.take_ids(worker, 1) == waits
        assert _used(worker, "a") == (1, 0), "a member that waits is in no line"
        assert run(rig, worker, 9) == [first]
        assert rig.take_ids(worker) == []
        record = flow.record(second)
        assert (record.state, record.blocked_by, flow.status().active) == (State.LIMITED, "a", 1)
        assert _used(worker, "a") == (1, 1)
        assert worker.counts([T])[T].limited == 1

    @pytest.mark.parametrize("end", ["cancel", "cancel_flow", "discard", "purge"])
    def test_a_limited_member_that_is_removed_gives_nothing_back(self, rig: Rig, end: str) -> None:
        if not rig.has(*NEEDS):
            return
        flow, worker = FlowRig(rig), _worker(rig)
        held, limited = flow.add(limits=("a",)), flow.add(limits=("a",))
        handler = flow.add(after(limited, ended=True), topic=f"{T}.2")
        flow.push()
        assert rig.take_ids(worker) == [held]
        if end == "cancel":
            worker.cancel(limited)
        elif end == "cancel_flow":
            worker.cancel_flow(flow.id)
        elif end == "discard":
            assert worker.discard([limited], "not wanted") == 1
        else:
            assert worker.purge(T, State.READY) == 1
        assert rig.take_ids(worker, topics=[f"{T}.2"]) == ([] if end == "cancel_flow" else [handler])
        assert _used(worker, "a") == (1, 0)
        rig.push_many(worker, 2, limits=("a",))
        assert rig.take_ids(worker) == [], "the slot is still used by the member that runs"

    @pytest.mark.parametrize("outcome", list(Outcome), ids=lambda outcome: outcome.value)
    def test_a_cancelled_member_frees_its_slot_once(self, rig: Rig, outcome: Outcome) -> None:
        if not rig.has(*NEEDS):
            return
        flow, worker = FlowRig(rig), _worker(rig)
        flow.add(limits=("a",))
        flow.push()
        held = rig.take_one(worker)
        others = rig.push_many(worker, 3, limits=("a",))
        worker.cancel_flow(flow.id)
        assert _used(worker, "a")[0] == 1, "it runs until its worker has said otherwise"
        assert rig.settle(worker, held, outcome, reason="why") is Answer.SETTLED
        assert rig.take_ids(worker) == others[:1]
        assert rig.settle(worker, held, outcome, reason="why") is Answer.STALE
        assert rig.take_ids(worker) == []
        assert _used(worker, "a")[0] == 1

    @pytest.mark.parametrize("started", [False, True])
    def test_a_member_that_dies_with_its_owner_frees_its_slot_and_stands_in_its_line(self, rig: Rig, started: bool) -> None:
        if not rig.has(*NEEDS):
            return
        flow, worker, gone = FlowRig(rig), _worker(rig), rig.worker("gone")
        first = flow.add(limits=("a",))
        second = flow.add(after(first), limits=("a",))
        flow.push()
        rig.take_one(gone)
        assert worker.release_owner("gone", [first] if started else [], ERROR) == 1
        assert _used(worker, "a")[0] == 0
        assert [run(rig, worker, 9) for _ in range(3)] == [[first], [second], []]
        assert flow.status().state == "done"

    def test_a_retried_dead_letter_goes_to_its_line(self, rig: Rig) -> None:
        if not rig.has(*NEEDS):
            return
        flow, worker = FlowRig(rig), _worker(rig)
        first = flow.add(limits=("a",))
        flow.push()
        run(rig, worker, 1, Outcome.DEAD)
        (other,) = rig.push_many(worker, 1, limits=("a",))
        held = rig.take_one(worker)
        assert worker.retry_flow(flow.id) == 1
        assert (held.id, rig.take_ids(worker)) == (other, [])
        rig.done(worker, held)
        assert run(rig, worker, 9) == [first]

    def test_the_keys_of_members_take_turns(self, rig: Rig) -> None:
        if not rig.has(*NEEDS):
            return
        flow, worker = FlowRig(rig), _worker(rig)
        worker.define_limits({}, {f"{T}.fair": Lines(fair=True)})
        rig.push_many(worker, 3, key="a", topic=f"{T}.fair")
        first = flow.add()
        for _ in range(3):
            flow.add(after(first), key="b", topic=f"{T}.fair")
        flow.add((ALL,), key="c", topic=f"{T}.fair")
        flow.push()
        run(rig, worker, 9)
        taken = rig.take(worker, topics=[f"{T}.fair"])
        assert "".join(each.key for each in taken) == "ababab"
        rig.done(worker, *taken)
        assert [each.key for each in rig.take(worker, topics=[f"{T}.fair"])] == ["c"]

    def test_what_a_member_adds_obeys_its_own_limits(self, rig: Rig) -> None:
        if not rig.has(*NEEDS):
            return
        flow, worker = FlowRig(rig), _worker(rig)
        flow.add(limits=("a",))
        flow.push()
        added = [flow.job(limits=("a",), stage=None) for _ in range(2)]
        rig.settle(worker, rig.take_one(worker), Outcome.DONE, followups=tuple(added))
        assert [run(rig, worker, 9) for _ in range(3)] == [[added[0].id], [added[1].id], []]

    def test_run_now_does_nothing_to_limited_waiting_and_reserved_jobs(self, rig: Rig) -> None:
        if not rig.has(*NEEDS):
            return
        flow, worker = FlowRig(rig), _worker(rig)
        held, limited = flow.add(limits=("a",)), flow.add(limits=("a",))
        waits = flow.add(after(limited))
        flow.push()
        assert rig.take_ids(worker) == [held]
        assert rig.take_ids(worker) == []
        assert worker.requeue([held, limited, waits]) == 0
        assert [flow.state(each) for each in (held, limited, waits)] == [State.RESERVED, State.LIMITED, State.WAITING]

    def test_a_unique_key_counts_limited_jobs_as_queued(self, rig: Rig) -> None:
        if not rig.has("limits", "unique", "lookup", "cancel"):
            return
        worker = _worker(rig)
        rig.push_many(worker, 1, limits=("a",))
        rig.take_one(worker)
        unique = UniqueKey(f"key-{rig.name}", "queued", "drop")
        (limited,) = rig.push(worker, rig.job(limits=("a",), unique=unique))
        assert rig.take_ids(worker) == []
        assert rig.record(worker, limited).state is State.LIMITED
        refused = rig.job(unique=unique)
        assert worker.push([refused], rig.request()) == {refused.id: limited}
        taking = rig.job(unique=UniqueKey(unique.key, "queued", "replace"), limits=("a",))
        assert worker.push([taking], rig.request()) == {}
        assert rig.record(worker, limited).state is State.CANCELLED
        assert _used(worker, "a") == (1, 1)


def _worker(rig: Rig) -> Backend:
    worker = rig.worker()
    worker.define_limits({"a": ONE}, {})
    return worker


def _used(backend: Backend, limit: str) -> tuple[int, int]:
    """Return how many slots are used, and how many jobs wait for one."""
    return next(((state.used, state.waiting) for state in backend.limits(1000) if state.limit == limit), (0, 0))


__all__ = ["LimitedFlows"]
