"""The promises of flows: what waits for what, and what follows from each end; without the feature, that they are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ...backends.base import Answer, Backend, JobRecord, Outcome, Outgoing, Settlement, State
from ...backends.flows import After, FlowStatus, Member, Part
from ...errors import BackendError, FlowLost, NotSupported
from ...message import UniqueKey
from .rig import ERROR, Rig, RigCase, T

ALL = After("*", "all")
OPS = ("flows", "browse", "lookup", "cancel")
"""What cases need that look at members."""


def after(*ids: str, ended: bool = False) -> tuple[After, ...]:
    return tuple(After(job_id, ended=ended) for job_id in ids)


def stage(label: str, *, ended: bool = False) -> tuple[After, ...]:
    return (After(label, "stage", ended),)


class FlowRig:
    """One flow in the making, and the backend's view of it."""

    def __init__(self, rig: Rig, backend: Backend | None = None, **part: Any) -> None:
        self.rig, self.backend = rig, backend or rig.producer()
        self.id = f"flow-{rig.request()}"
        self.part = part
        self.jobs: list[Outgoing] = []
        self.number = 0

    def job(self, after: Sequence[After] = (), stage: str | None = "", when: Any = "done", **fields: Any) -> Outgoing:
        """Return a member that is not pushed yet."""
        inputs, label = fields.pop("inputs", ()), fields.pop("label", "")
        return self.rig.job(member=Member(self.id, stage, tuple(after), when, inputs, label), **fields)

    def add(self, after: Sequence[After] = (), stage: str = "", when: Any = "done", **fields: Any) -> str:
        """Add a member to the next part; return its id."""
        self.jobs.append(self.job(after, stage, when, **fields))
        return self.jobs[-1].id

    def push(self, *, last: bool = True, request: str = "") -> dict[str, str]:
        """Push the next part."""
        jobs, self.jobs = self.jobs, []
        part = Part(self.id, self.number, last, **self.part)
        answer = dict(self.backend.push_part(part, jobs, request or self.rig.request()))
        self.number += not answer
        return answer

    def status(self) -> FlowStatus:
        found = self.backend.flow(self.id)
        assert found is not None
        return found

    def record(self, job_id: str) -> JobRecord:
        return self.rig.record(self.backend, job_id)

    def state(self, job_id: str) -> State:
        """Return the state of a member; UNKNOWN if it is done without a result."""
        found = self.backend.get(job_id)
        return found.state if found else State.UNKNOWN


def run(rig: Rig, worker: Backend, count: int, outcome: Outcome = Outcome.DONE, **fields: Any) -> list[str]:
    """Reserve up to `count` jobs and settle each; return their ids."""
    deliveries = rig.take(worker, count)
    settlements = [Settlement(d.id, d.token, outcome, reason="no", error=ERROR, **fields) for d in deliveries]
    assert worker.settle(settlements, rig.request()) == [Answer.SETTLED] * len(deliveries)
    return [delivery.id for delivery in deliveries]


FATES = (
    # when and how it waits, the end of what it waits for, and what becomes of it
    ("done", False, "done", "runs"),
    ("done", False, "dead", "waits"),
    ("done", False, "cancelled", "cancelled"),
    ("done", True, "done", "runs"),
    ("done", True, "dead", "runs"),
    ("done", True, "cancelled", "runs"),
    ("ended", False, "done", "runs"),
    ("ended", False, "dead", "runs"),
    ("ended", False, "cancelled", "runs"),
    ("failed", False, "done", "cancelled"),
    ("failed", False, "dead", "runs"),
    ("failed", False, "cancelled", "runs"),
)
ENDS: dict[str, tuple[tuple[str, Outcome | None], ...]] = {
    # how members end: by what an operator does, after a run that ended so
    "done": (("", Outcome.DONE),),
    "dead": (("", Outcome.DEAD), ("", Outcome.EXPIRED), ("discard", None)),
    "cancelled": (("", Outcome.CANCELLED), ("cancel", None), ("purge", None), ("drop", Outcome.DEAD)),
}


class FlowCases(RigCase):
    """A member runs when all it is after has ended as it needs, once, and never before the flow is closed."""

    def test_flows_are_refused_without_the_feature(self, rig: Rig) -> None:
        if rig.has("flows"):
            assert rig.has("fencing", "dedup", "atomic_followups")
            return
        backend = rig.producer()
        for call in (
            lambda: backend.push_part(Part("f"), [], rig.request()),
            lambda: backend.flow("f"),
            lambda: backend.flows(1),
            lambda: backend.flow_members("f", 1),
            lambda: backend.flow_results("f", []),
            lambda: backend.cancel_flow("f"),
            lambda: backend.retry_flow("f"),
            lambda: backend.wait_flow("f", 0.0),
        ):
            with pytest.raises(NotSupported, match="flows"):
                call()

    # -- 1: what follows from ends -----------------------------------------------------------------

    def test_members_run_after_what_they_are_after(self, rig: Rig) -> None:
        if not rig.has("flows"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first, second = flow.add(), flow.add()
        both = flow.add(after(first, second))
        last = flow.add(after(both))
        flow.push()
        assert (flow.status().state, flow.status().waiting, flow.status().active) == ("running", 2, 2)
        held = rig.take(worker)
        assert [delivery.id for delivery in held] == [first, second]
        assert {delivery.flow for delivery in held} == {flow.id}
        rig.done(worker, held[0])
        assert rig.take_ids(worker) == []
        rig.done(worker, held[1])
        assert run(rig, worker, 9) == [both]
        assert run(rig, worker, 9) == [last]
        status = flow.status()
        assert (status.state, status.total, status.done) == ("done", 4, 4)
        assert status.ended_at is not None

    def test_the_end_of_the_body_is_that_of_all_its_members(self, rig: Rig) -> None:
        if not rig.has("flows"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        second = flow.add(after(first))
        third = flow.add()
        finale = flow.add((ALL,))
        then = flow.add(after(finale))
        flow.push()
        ran = [sorted(run(rig, worker, 9)) for _ in range(4)]
        assert ran == [sorted([first, third]), [second], [finale], [then]]
        assert flow.status().state == "done"

    def test_a_stage_ends_with_the_last_of_its_members(self, rig: Rig) -> None:
        if not rig.has("flows"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add(stage="photos")
        second = flow.add(after(first), stage="photos")
        flow.add(priority=0)
        joined = flow.add(stage("photos"), priority=9)
        flow.push()
        run(rig, worker, 1)
        assert flow.state(joined) is State.WAITING
        assert len(run(rig, worker, 9)) == 2
        assert run(rig, worker, 9) == [joined]
        assert second

    def test_each_end_has_its_consequence(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        worker = rig.worker()
        for when, ended, end, fate in FATES:
            for how, outcome in ENDS[end]:
                for target in ("job", "stage", "all"):
                    what = (when, ended, how, outcome, target)
                    flow = FlowRig(rig)
                    first = flow.add(stage="s")
                    targets = {"job": after(first, ended=ended), "stage": stage("s", ended=ended)}
                    second = flow.add(targets.get(target, (After("*", "all", ended),)), when=when)
                    flow.push()
                    if outcome is not None:
                        assert run(rig, worker, 9, outcome) == [first]
                    _operate(flow.backend, how, first)
                    if fate == "runs":
                        assert run(rig, worker, 9) == [second], what
                        continue
                    assert rig.take_ids(worker) == [], what
                    assert flow.state(second) is (State.WAITING if fate == "waits" else State.CANCELLED), what
                    assert fate == "waits" or flow.record(second).reason, what
                    flow.backend.cancel_flow(flow.id)

    def test_a_dead_letter_holds_up_what_needs_it_until_it_is_retried(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add(stage="s")
        second = flow.add(after(first), stage="s")
        third = flow.add(stage("s"))
        handler = flow.add(after(second, ended=True))
        finale = flow.add((ALL,))
        report = flow.add((ALL,), when="failed")
        other = flow.add((ALL,), topic=f"{T}.2")
        both = flow.add((*after(first, ended=True), *after(other)))
        flow.push()
        run(rig, worker, 1, Outcome.DEAD)
        assert run(rig, worker, 9) == [handler], "it could only wait for what cannot run any more"
        assert run(rig, worker, 9) == [report], "all that the body could do was done"
        status = flow.status()
        assert (status.state, status.waiting, status.active, status.dead, status.done) == ("failed", 5, 0, 1, 2)
        assert flow.backend.requeue([first]) == 1
        assert flow.status().state == "running"
        assert not any(member.stuck for member in flow.backend.flow_members(flow.id, 9))
        assert [run(rig, worker, 9) for _ in range(4)] == [[first], [second], [third], [finale]]
        assert rig.take_ids(worker) == [], "what ran once does not run again, and an end counts once"
        rig.done(worker, *rig.take(worker, topics=[f"{T}.2"]))
        assert run(rig, worker, 9) == [both]
        assert flow.status().state == "done"

    def test_a_member_that_was_skipped_spoils_neither_its_stage_nor_the_body(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add(stage="s")
        repair = flow.add(after(first), when="failed", stage="s")
        report = flow.add(after(repair))
        again = flow.add(after(repair), when="failed")
        joined = flow.add(stage("s"))
        finale, alarm = flow.add((ALL,)), flow.add((ALL,), when="failed")
        flow.push()
        assert [run(rig, worker, 9) for _ in range(3)] == [[first], [joined], [finale]]
        assert {flow.state(each) for each in (repair, report, again, alarm)} == {State.CANCELLED}
        assert (flow.status().state, flow.status().cancelled) == ("done", 4)

    @pytest.mark.parametrize("outcome", [Outcome.RELEASE, Outcome.RETRY, Outcome.DEFER])
    def test_a_run_that_is_no_end_releases_nothing(self, rig: Rig, outcome: Outcome) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        second = flow.add(after(first))
        flow.push()
        assert run(rig, worker, 1, outcome) == [first]
        assert flow.status().active == 1
        assert run(rig, worker, 1) == [first]
        assert run(rig, worker, 1) == [second]

    # -- 2 and 4: stages, and what running members add ---------------------------------------------

    def test_what_a_member_adds_belongs_to_its_stage_before_that_ends(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add(stage="s")
        joined, finale = flow.add(stage("s")), flow.add((ALL,))
        flow.push()
        for outcome in (Outcome.DONE, Outcome.EXPIRED, Outcome.DEAD, Outcome.DONE):
            held = rig.take_one(worker)
            assert held.id == first
            added = flow.job(after(first, ended=True), stage=None)
            rig.settle(worker, held, outcome, followups=(added,))
            assert flow.state(joined) is State.WAITING
            first = added.id
        assert flow.status().total == 7
        assert [member.stage for member in flow.backend.flow_members(flow.id, 9)].count("s") == 5
        assert run(rig, worker, 9) == [first]
        assert flow.status().state == "failed"
        assert flow.backend.retry_flow(flow.id) == 2
        assert len(run(rig, worker, 9)) == 2
        assert sorted(run(rig, worker, 1) + run(rig, worker, 9)) == sorted([joined, finale])

    def test_what_a_member_adds_may_wait_for_the_member_and_for_each_other(self, rig: Rig) -> None:
        if not rig.has("flows"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        flow.add()
        finale = flow.add((ALL,))
        flow.push()
        held = rig.take_one(worker)
        one = flow.job(after(held.id), stage=None)
        two = flow.job(after(one.id), stage=None)
        three = flow.job(after("ended-long-ago"), stage="new")
        last = flow.job(stage("new"), stage=None)
        report = flow.job((ALL,), stage=None, when="failed")
        rig.settle(worker, held, Outcome.DONE, followups=(one, two, three, last, report))
        assert sorted(run(rig, worker, 9)) == sorted([one.id, three.id])
        assert sorted(run(rig, worker, 9)) == sorted([two.id, last.id])
        assert run(rig, worker, 9) == [finale]
        assert flow.status().state == "done"

    def test_a_stage_that_grows_after_its_end_ends_again(self, rig: Rig) -> None:
        if not rig.has("flows"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        flow.add(stage="s", priority=1)
        flow.add()
        flow.push()
        run(rig, worker, 1)
        grown, joined = flow.job(stage="s"), flow.job(stage("s"))
        rig.settle(worker, rig.take_one(worker), Outcome.DONE, followups=(grown, joined))
        assert run(rig, worker, 9) == [grown.id]
        assert run(rig, worker, 9) == [joined.id]

    def test_a_member_of_the_finale_adds_to_the_finale(self, rig: Rig) -> None:
        if not rig.has("flows", "browse"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        flow.add((ALL,))
        flow.push()
        added = flow.job(stage=None)
        rig.settle(worker, rig.take_one(worker), Outcome.DONE, followups=(added,))
        assert [member.finale for member in flow.backend.flow_members(flow.id, 9) if member.id == added.id] == [True]
        assert run(rig, worker, 9) == [added.id]

    def test_what_a_member_cannot_add_becomes_a_dead_letter_that_says_why(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        worker = rig.worker()
        for why in (
            "other members wait",
            "in which it is itself",
            "which has no members",
            "may wait for stage",
            "another stage",
        ):
            flow = FlowRig(rig)
            flow.add(stage="s")
            waits = flow.add(stage("s"), stage="t")
            flow.add(stage("t"))
            flow.push()
            added = {
                "other members wait": flow.job(stage="t"),
                "in which it is itself": flow.job(stage("s"), stage=None),
                "which has no members": flow.job(stage("u")),
                "may wait for stage": flow.job(after(waits), stage=None),
                "another stage": flow.job((ALL,), stage=None),
            }[why]
            rig.settle(worker, rig.take_one(worker), Outcome.DONE, followups=(added,))
            record = flow.record(added.id)
            assert record.state is State.DEAD
            assert why in record.reason
            assert flow.status().dead == 1
            assert run(rig, worker, 9) == [waits], "the settlement of the member stands"
            flow.backend.cancel_flow(flow.id)
            worker.purge(T, State.READY)

    def test_what_a_flow_refused_cannot_be_retried(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        flow.add(stage="s", priority=9)
        flow.add(stage("s"), stage="t", topic=f"{T}.2")
        flow.add(stage("t"), topic=f"{T}.2")
        slow, dies = flow.add(topic=f"{T}.2"), flow.add()
        flow.push()
        refused = flow.job(after(slow), stage="t")
        waits = flow.job(after(refused.id))
        rig.settle(worker, rig.take_one(worker), Outcome.DONE, followups=(refused, waits))
        assert flow.record(refused.id).state is State.DEAD
        assert (worker.requeue([refused.id]), flow.backend.retry_flow(flow.id)) == (0, 0), "it would not wait for what it names"
        assert run(rig, worker, 9, Outcome.DEAD) == [dies]
        assert flow.backend.retry_flow(flow.id) == 1
        assert run(rig, worker, 9) == [dies], "the others are retried"
        assert (flow.state(refused.id), flow.state(waits.id)) == (State.DEAD, State.WAITING)
        assert [member.id for member in flow.backend.flow_members(flow.id, 9) if member.stuck] == [waits.id]
        assert worker.drop([refused.id]) == 1
        assert flow.state(waits.id) is State.CANCELLED
        assert "deleted" in flow.record(waits.id).reason

    def test_what_a_member_adds_with_a_held_key_becomes_a_dead_letter(self, rig: Rig) -> None:
        if not rig.has(*OPS, "unique"):
            return
        for conflict in ("drop", "raise", "replace"):
            flow, worker = FlowRig(rig), rig.worker()
            fields: dict[str, Any] = {"unique": UniqueKey(f"{conflict}-{rig.name}", conflict=conflict)}
            first = flow.add()
            holder = flow.add(topic=f"{T}.2", **fields)
            flow.push()
            second = flow.job(stage=None, **fields)
            waits = flow.job(after(second.id), stage=None)
            any_end = flow.job(after(second.id, ended=True), stage=None)
            held = rig.take_one(worker)
            assert held.id == first
            rig.settle(worker, held, Outcome.DONE, followups=(second, waits, any_end))
            record = flow.record(second.id)
            assert record.state is State.DEAD
            assert "cannot be a member" in record.reason
            assert holder in record.reason
            assert run(rig, worker, 9) == [any_end.id]
            assert flow.state(waits.id) is State.WAITING
            assert (flow.status().dead, flow.status().waiting, flow.status().total) == (1, 1, 5)
            assert (worker.requeue([second.id]), flow.backend.retry_flow(flow.id)) == (0, 0)
            late = rig.job(**fields)
            assert worker.drop([second.id]) == 1
            assert worker.push([late], rig.request()) == {late.id: holder}, "the key is still that of its holder"
            assert flow.state(waits.id) is State.CANCELLED
            rig.done(worker, *rig.take(worker, topics=[f"{T}.2"]))
            assert flow.status().state == "done"

    def test_of_two_additions_with_one_key_the_second_becomes_a_dead_letter(self, rig: Rig) -> None:
        if not rig.has(*OPS, "unique"):
            return
        flow, worker = FlowRig(rig), rig.worker()
        flow.add()
        flow.push()
        one, two = (flow.job(stage=None, unique=UniqueKey(f"key-{rig.name}")) for _ in range(2))
        waits = flow.job(after(two.id), stage=None)
        rig.settle(worker, rig.take_one(worker), Outcome.DONE, followups=(one, two, waits))
        assert run(rig, worker, 9) == [one.id]
        assert one.id in flow.record(two.id).reason
        assert (flow.state(two.id), flow.state(waits.id)) == (State.DEAD, State.WAITING)

    def test_an_addition_replaces_the_holder_of_its_key_only_if_it_can_be(self, rig: Rig) -> None:
        if not rig.has(*OPS, "unique"):
            return
        fields: dict[str, Any] = {"unique": UniqueKey(f"key-{rig.name}", conflict="replace")}
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add()
        flow.push()
        (holder,) = rig.push(worker, rig.job(topic=f"{T}.2", **fields))
        held = rig.take_one(worker)
        assert held.id == first
        refused, second = flow.job(stage("no-such"), stage=None, **fields), flow.job(stage=None)
        rig.settle(worker, held, Outcome.DONE, followups=(refused, second))
        assert "which has no members" in flow.record(refused.id).reason
        assert flow.state(holder) is State.READY, "what was refused replaces nothing"
        added = flow.job(stage=None, **fields)
        rig.settle(worker, rig.take_one(worker), Outcome.DONE, followups=(added,))
        assert flow.state(holder) is State.CANCELLED
        assert run(rig, worker, 9) == [added.id]

    def test_a_job_cannot_add_to_the_flow_of_others(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        flow.add(delay=1000.0)
        flow.push()
        rig.push_many(flow.backend, 1)
        other = FlowRig(rig)
        other.add()
        other.push()
        for held in rig.take(worker, 2):
            added = flow.job()
            rig.settle(worker, held, Outcome.DONE, followups=(added,))
            record = flow.record(added.id)
            assert record.state is State.DEAD
            assert flow.id in record.reason
        assert (flow.status().total, other.status().total) == (1, 1)

    def test_a_stale_or_repeated_settlement_counts_once(self, rig: Rig) -> None:
        if not rig.has("flows", "owner_release"):
            return
        flow, worker = FlowRig(rig), rig.worker("slow")
        first = flow.add()
        second = flow.add(after(first))
        flow.push()
        late = rig.take_one(worker)
        other = rig.worker()
        other.release_owner("slow", [first], ERROR)
        assert flow.status().active == 1
        held = rig.take_one(other)
        added = flow.job(stage=None)
        assert rig.settle(worker, late, Outcome.DONE, followups=(added,)) is Answer.STALE
        assert flow.status().total == 2
        settlements, request = [Settlement(held.id, held.token, Outcome.DONE)], rig.request()
        assert other.settle(settlements, request) == [Answer.SETTLED]
        assert other.settle(settlements, request) == [Answer.ALREADY]
        assert (flow.status().done, flow.status().active) == (1, 1)
        assert run(rig, other, 9) == [second]

    # -- 3: parts ----------------------------------------------------------------------------------

    def test_no_member_runs_before_the_last_part(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, worker = FlowRig(rig), rig.worker()
        first = flow.add(stage="s")
        flow.push(last=False)
        assert (flow.status().state, flow.state(first)) == ("open", State.WAITING)
        assert rig.take_ids(worker) == []
        assert worker.counts([T])[T].waiting == 1
        second = flow.add(stage="s")
        third = flow.add((*after(first), *stage("s")))
        flow.push(last=False)
        assert rig.take_ids(worker) == []
        flow.push()
        assert run(rig, worker, 9) == [first, second]
        assert run(rig, worker, 9) == [third]

    def test_a_repeated_part_adds_nothing(self, rig: Rig) -> None:
        if not rig.has("flows"):
            return
        flow = FlowRig(rig)
        one, two, request = [flow.job()], [flow.job()], rig.request()
        parts = [(Part(flow.id, 0, False), one), (Part(flow.id, 1, True), two)]
        for part, jobs in [parts[0], parts[0], parts[1], parts[1], parts[0]]:
            assert flow.backend.push_part(part, jobs, request + str(part.number)) == {}
            assert flow.backend.push_part(part, jobs, rig.request()) == {}
        assert flow.status().total == 2
        assert len(rig.take_ids(rig.worker())) == 2

    def test_a_flow_without_members_is_done(self, rig: Rig) -> None:
        if not rig.has("flows"):
            return
        flow = FlowRig(rig)
        flow.push()
        assert flow.status().state == "done"

    def test_a_part_before_its_time_is_refused(self, rig: Rig) -> None:
        if not rig.has("flows"):
            return
        flow = FlowRig(rig)
        with pytest.raises(FlowLost):
            flow.backend.push_part(Part(flow.id, 1, True), [flow.job()], rig.request())
        flow.push(last=False)
        with pytest.raises(BackendError, match="part 2"):
            flow.backend.push_part(Part(flow.id, 2, True), [flow.job()], rig.request())
        assert (flow.status().state, flow.status().total) == ("open", 0)

    def test_a_part_that_cannot_be_adds_nothing(self, rig: Rig) -> None:
        if not rig.has("flows"):
            return
        flow = FlowRig(rig)
        other = FlowRig(rig).job()
        bad = {
            "is not a member": [flow.job(), rig.job()],
            "not a member": [flow.job(), other],
            "no member yet": [flow.job(), flow.job(after("x"))],
            "no members yet": [flow.job(), flow.job(stage("x"))],
            "in which it is itself": [flow.job(stage="s"), flow.job(stage("s"), "s")],
            "wait for stage s": [flow.job(stage="s"), flow.job(stage("s")), flow.job(stage="s")],
            "another stage": [flow.job(stage="s"), flow.job((ALL,), "s")],
            "use stages": [(first := flow.job()), flow.job(after(first.id) * 1001)],
            "not after it": [(first := flow.job()), flow.job(inputs=(first.id,))],
        }
        for why, jobs in bad.items():
            with pytest.raises(BackendError, match=why):
                flow.backend.push_part(Part(flow.id), jobs, rig.request())
        assert flow.backend.flow(flow.id) is None
        assert rig.take_ids(rig.worker()) == []

    def test_a_push_that_is_no_part_refuses_members_and_adds_nothing(self, rig: Rig) -> None:
        if not rig.has("flows"):
            return
        flow = FlowRig(rig)
        flow.add()
        flow.push()
        jobs = [rig.job(), flow.job(), rig.job()]
        with pytest.raises(BackendError, match=f"{jobs[1].id} is a member of flow {flow.id}: push it with push_part"):
            flow.backend.push(jobs, rig.request())
        assert flow.status().total == 1
        assert len(rig.take(rig.worker(), 10)) == 1

    def test_a_flow_with_a_refused_member_is_not_pushed(self, rig: Rig) -> None:
        if not rig.has("flows", "unique", "known_ids"):
            return
        flow, producer = FlowRig(rig), rig.producer()
        key = UniqueKey(f"key-{rig.name}", conflict="drop")
        holder, known = rig.job(unique=key), rig.job(chosen=True)
        queued = rig.job(unique=UniqueKey(f"other-{rig.name}"))
        producer.push([holder, known, queued], rig.request())
        flow.add(unique=UniqueKey(f"other-{rig.name}", conflict="replace"))
        refused = flow.add(unique=key)
        flow.jobs.append(flow.job(chosen=True, inputs=()))
        assert flow.push() == {refused: holder.id}
        assert flow.backend.flow(flow.id) is None
        twice = FlowRig(rig)
        one, two = (twice.add(unique=UniqueKey(f"third-{rig.name}")) for _ in range(2))
        assert twice.push() == {two: one}
        assert sorted(rig.take_ids(rig.worker())) == sorted([holder.id, known.id, queued.id]), "none was replaced"

    def test_an_open_flow_without_a_new_part_is_dropped(self, rig: Rig) -> None:
        if not rig.has(*OPS):
            return
        flow, extended, keeper = FlowRig(rig, open_for=rig.lease), FlowRig(rig, open_for=4 * rig.lease), rig.worker()
        first = flow.add()
        for each in (flow, extended):
            each.add()
            each.push(last=False)
        if rig.clock:  # else a busy machine may stand still for too long
            rig.advance(0.8 * rig.lease)
            keeper.housekeep(100)
            assert flow.status().state == "open"
        rig.advance(2 * rig.lease)
        extended.add()
        extended.push(last=False)
        rig.advance(2.4 * rig.lease)
        keeper.housekeep(100)
        assert extended.status().state == "open", "each part extends its time"
        assert (flow.status().state, flow.status().cancelled) == ("cancelled", 2)
        assert flow.state(first) is State.CANCELLED
        with pytest.raises(FlowLost):
            flow.push()
        assert rig.take_ids(rig.worker()) == []


def _operate(backend: Backend, how: str, job_id: str) -> None:
    """End a queued or dead job as an operator does."""
    if how == "discard":
        assert backend.discard([job_id], "not wanted") == 1
    elif how == "drop":
        assert backend.drop([job_id]) == 1
    elif how == "purge":
        assert backend.purge(T, State.READY) == 1
    elif how == "cancel":
        assert backend.cancel(job_id) is State.CANCELLED


__all__ = ["FlowCases"]
