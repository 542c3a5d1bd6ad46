"""The promises of flows: what waits for what, and what follows from each end; without the feature, that they are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ...backends.base import Answer, Backend, JobRecord, Outcome, Outgoing, Settlement, State
from ...backends.flows import After, FlowStatus, Member, Part
from ...errors import NotSupported
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
