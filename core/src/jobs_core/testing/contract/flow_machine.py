"""A Hypothesis state machine that compares the flows of a backend with the definitions."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as RunPhase
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from ...backends.base import Answer, Backend, Delivery, Outcome, Outgoing, Settlement, State
from ...backends.flows import After, Member, Part, When
from ...errors import BackendError, FlowLost
from ...message import UniqueKey
from .flow_reference import FINAL, Phase, Reference
from .machine import EXAMPLES, SHRINKS, STEPS
from .rig import ERROR, Rig, RigCase, T, retention

outcomes = st.sampled_from([*Outcome, Outcome.DONE, Outcome.DEAD, Outcome.DEAD])
WORKERS = ("one", "two")
_STATES = {Phase.WAITING: State.WAITING, Phase.STUCK: State.WAITING, Phase.DEAD: State.DEAD}
whens: st.SearchStrategy[When] = st.sampled_from(["done", "done", "ended", "failed"])


class FlowMachine(RigCase):
    """Run the state machine as one case."""

    examples = EXAMPLES
    """Number of examples to try, as for the machine of `Machine`."""

    def test_flows_behave_as_they_are_defined(self, rig: Rig) -> None:
        if not rig.has("flows", "browse", "lookup", "cancel", "unique", "owner_release", "results"):
            return
        run_state_machine_as_test(
            partial(Flows, rig),  # type: ignore[arg-type]  # a function may take the place of the class
            settings=settings(
                max_examples=max(5, self.examples // 2),
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
                print_blob=True,
                phases=[RunPhase.generate, RunPhase.shrink] if SHRINKS else [RunPhase.generate],
            ),
        )


class Flows(RuleBasedStateMachine):
    """The machine. Members have no delays and no limits; the other machine and directed cases have those."""

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self.rig = rig
        self.prefix = rig.request()
        self.number = 0
        self.flows: dict[str, Reference] = {}
        self.open: dict[str, int] = {}  # flows whose last part is missing → parts that are there
        self.lost: set[str] = set()
        self.flow_of: dict[str, str] = {}
        self.held: dict[str, dict[str, Delivery]] = {worker: {} for worker in WORKERS}
        self.workers: dict[str, Backend] = {worker: self._open(worker) for worker in WORKERS}
        self.operator = rig.producer(retention=retention(most=2))
        self.last: tuple[str, list[Settlement], str] | None = None
        self.plain: set[str] = set()

    @initialize(data=st.data(), count=st.integers(3, 6))
    def first_flow(self, data: st.DataObject, count: int) -> None:
        self.push_part(data, count, True, False)

    def _open(self, worker: str) -> Backend:
        return self.rig.worker(f"{self.prefix}-{worker}", retention=retention(most=2))

    def _new_id(self, kind: str) -> str:
        self.number += 1
        return f"{self.prefix}-{kind}-{self.number}"

    # -- parts -------------------------------------------------------------------------------------

    def _outgoing(self, flow_id: str, data: st.DataObject, own: bool = False) -> Outgoing:
        """Draw a member, which may be refused."""
        flow = self.flows[flow_id]
        targets = [After(name) for name, phase in flow.phase.items() if phase not in FINAL] + [After("*", "all")]
        targets += [After(stage, "stage") for stage in sorted({member.stage or "" for member in flow.members.values()} - {""})]
        chosen = data.draw(st.lists(st.tuples(st.sampled_from(targets), st.booleans()), max_size=2))
        after = tuple(After(each.target, each.kind, ended) for each, ended in chosen)
        label = data.draw(st.sampled_from(["", "s", "t", None] if own else ["", "s", "t"]))
        key = UniqueKey(f"{self.prefix}-key") if data.draw(st.integers(0, 9)) == 0 else None
        job_id = self._new_id("job")
        member = Member(flow_id, label, after, data.draw(whens))
        return Outgoing(job_id, T, b"{}", unique=key, member=member)

    @rule(data=st.data(), count=st.integers(2, 6), last=st.sampled_from([True, True, False]), whole=st.booleans())
    def push_part(self, data: st.DataObject, count: int, last: bool, whole: bool) -> None:
        """Push a part of an open flow or of a new one; if it is refused, push its members one by one."""
        if not self.open and len(self.flows) < 4:
            flow_id = self._new_id("flow")
            self.flows[flow_id], self.open[flow_id] = Reference(closed=False), 0
        if not self.open:
            return
        flow_id = data.draw(st.sampled_from(sorted(self.open)))
        flow = self.flows[flow_id]
        jobs: list[Outgoing] = []
        for _ in range(count):
            jobs.append(self._outgoing(flow_id, data))
            flow.phase[jobs[-1].id] = Phase.WAITING  # the next ones may be after it
        for job in jobs:
            del flow.phase[job.id]
        if not (whole and self._push(flow_id, jobs, last)):
            for job in jobs:
                self._push(flow_id, [job], False)
            if last:
                self._push(flow_id, [], True)

    def _push(self, flow_id: str, jobs: list[Outgoing], last: bool) -> bool:
        if flow_id in self.lost:
            with pytest.raises(FlowLost):
                self.operator.push_part(Part(flow_id, self.open[flow_id], last), jobs, self.rig.request())
            return True
        part = Part(flow_id, self.open[flow_id], last, open_for=100.0)
        try:
            if self.operator.push_part(part, jobs, self.rig.request()):
                return False
        except BackendError:
            return False  # directed cases say which ones
        assert not self.operator.push_part(part, jobs, self.rig.request())
        for job in jobs:
            assert job.member is not None
            self.flows[flow_id].add(job.id, job.member)
            self.flow_of[job.id] = flow_id
        self.open[flow_id] += 1
        if last:
            del self.open[flow_id]
            self.flows[flow_id].closed = True
        self.flows[flow_id].settle_down()
        return True

    def _end(self, job_id: str, phase: Phase) -> None:
        flow_id = self.flow_of[job_id]
        self.flows[flow_id].phase[job_id] = phase
        self.flows[flow_id].settle_down()

    # -- runs --------------------------------------------------------------------------------------

    @rule(worker=st.sampled_from(WORKERS), limit=st.integers(1, 4))
    def reserve(self, worker: str, limit: int) -> None:
        for held in self.rig.take(self.workers[worker], limit):
            self._hold(worker, held)

    def _hold(self, worker: str, held: Delivery) -> None:
        if held.id not in self.plain:
            flow = self.flows[self.flow_of[held.id]]
            assert flow.phase[held.id] is Phase.ACTIVE, f"{held.id} was delivered, but is {flow.phase[held.id]}"
            assert not flow.barred(held.id)
            assert held.flow == self.flow_of[held.id]
        self.held[worker][held.id] = held

    @rule(worker=st.sampled_from(WORKERS), data=st.data(), outcome=outcomes, adds=st.integers(0, 2))
    def settle(self, worker: str, data: st.DataObject, outcome: Outcome, adds: int) -> None:
        if not self.held[worker]:
            self.reserve(worker, 1)
        if not self.held[worker]:
            return
        job_id = data.draw(st.sampled_from(sorted(self.held[worker])))
        held = self.held[worker].pop(job_id)
        followups: list[Outgoing] = []
        flow_id = self.flow_of.get(job_id, "")
        if flow_id and outcome in (Outcome.DONE, Outcome.DEAD, Outcome.EXPIRED):
            followups = [self._outgoing(flow_id, data, own=True) for _ in range(adds)]
        fields: dict[str, Any] = {"reason": "why", "error": ERROR, "result": b"1", "result_ttl": 1000.0}
        settlement = Settlement(job_id, held.token, outcome, followups=tuple(followups), **fields)
        self.last = worker, [settlement], self.rig.request()
        assert self.workers[worker].settle(*self.last[1:]) == [Answer.SETTLED]
        if not flow_id:
            if outcome not in (Outcome.RELEASE, Outcome.RETRY, Outcome.DEFER):
                self.plain.discard(job_id)
            return
        flow = self.flows[flow_id]
        for added in followups:
            self._joined(flow_id, added, job_id)
        if outcome in (Outcome.RELEASE, Outcome.RETRY, Outcome.DEFER):
            phase = Phase.GONE if flow.barred(job_id) else Phase.ACTIVE
        else:
            phase = {Outcome.DONE: Phase.DONE, Outcome.CANCELLED: Phase.GONE}.get(outcome, Phase.DEAD)
        self._end(job_id, phase)

    def _joined(self, flow_id: str, added: Outgoing, by: str) -> None:
        """Take over what became of a member that a running one added."""
        flow, place = self.flows[flow_id], added.member
        found = self.operator.get(added.id)
        if found is None:
            assert added.unique, f"{added.id} was not added"
            return
        assert place is not None
        self.flow_of[added.id] = flow_id
        if found.state is State.DEAD:
            assert "cannot be a member" in found.reason
            flow.add_dead(added.id, place, by)
            return
        label = flow.members[by].stage if place.stage is None else place.stage
        flow.add(added.id, Member(flow_id, label, place.after, place.when), by)
        if flow.barred(by):
            flow.phase[added.id] = Phase.GONE

    @rule(worker=st.sampled_from(WORKERS), count=st.integers(1, 3))
    def run(self, worker: str, count: int) -> None:
        """Run jobs to their end."""
        self.reserve(worker, count)
        held, self.held[worker] = self.held[worker], {}
        settlements = [Settlement(each.id, each.token, Outcome.DONE) for each in held.values()]
        assert self.workers[worker].settle(settlements, self.rig.request()) == [Answer.SETTLED] * len(held)
        for job_id in held:
            if job_id in self.flow_of:
                self._end(job_id, Phase.DONE)
        self.plain -= set(held)

    @precondition(lambda self: self.last)
    @rule()
    def repeat_settle(self) -> None:
        assert self.last
        assert Answer.SETTLED not in self.workers[self.last[0]].settle(*self.last[1:])

    @rule(worker=st.sampled_from(WORKERS), started=st.integers(0, 2))
    def release_owner(self, worker: str, started: int) -> None:
        held, self.held[worker] = list(self.held[worker]), {}
        assert self.operator.release_owner(f"{self.prefix}-{worker}", held[:started], ERROR) == len(held)
        self.workers[worker].close()
        self.workers[worker] = self._open(worker)
        self.last = None
        for job_id in held:
            flow = self.flows.get(self.flow_of.get(job_id, ""))
            if flow is not None and flow.barred(job_id):
                self._end(job_id, Phase.GONE)

    @precondition(lambda self: self.rig.has("claim"))
    @rule(worker=st.sampled_from(WORKERS), data=st.data())
    def claim(self, worker: str, data: st.DataObject) -> None:
        if not self.flow_of:
            return
        ids = data.draw(st.lists(st.sampled_from(sorted(self.flow_of)), max_size=3, unique=True))
        claimed = self.workers[worker].claim(ids, self.rig.request())
        for held in self.held.values():
            for each in claimed:
                held.pop(each.id, None)
        for each in claimed:
            self._hold(worker, each)
        expected = {
            job_id
            for job_id in ids
            if (flow := self.flows[self.flow_of[job_id]]).phase[job_id] is Phase.ACTIVE and not flow.barred(job_id)
        }
        assert {each.id for each in claimed} == expected

    # -- operators ---------------------------------------------------------------------------------

    @precondition(lambda self: self.flow_of)
    @rule(data=st.data(), verb=st.sampled_from(["cancel", "requeue", "discard", "drop"]))
    def operate(self, data: st.DataObject, verb: str) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.flow_of)))
        flow = self.flows[self.flow_of[job_id]]
        phase, reserved = flow.phase[job_id], any(job_id in held for held in self.held.values())
        queued = phase in (Phase.WAITING, Phase.STUCK) or (phase is Phase.ACTIVE and not reserved)
        if verb == "cancel":
            if reserved:
                return  # its owner decides
            self.operator.cancel(job_id)
            if queued:
                self._end(job_id, Phase.GONE)
        elif verb == "requeue":
            expected = phase is Phase.DEAD and not flow.cancelled
            assert self.operator.requeue([job_id]) == expected
            if expected:
                self._end(job_id, Phase.WAITING)
        elif verb == "discard":
            assert self.operator.discard([job_id], "not wanted") == queued
            if queued:
                self._end(job_id, Phase.DEAD)
        elif phase is Phase.DEAD and self.operator.drop([job_id]) and not flow.cancelled:
            self._end(job_id, Phase.GONE)

    @precondition(lambda self: self.flows)
    @rule(
        data=st.data(),
        what=st.sampled_from(
            ["retry", "retry", "cancel", "finale", "abandon", "housekeep", State.READY, State.WAITING, State.DEAD]
        ),
    )
    def operate_on_many(self, data: st.DataObject, what: str | State) -> None:
        """One rule for what happens rarely."""
        if isinstance(what, State):
            self._purge(what)
        elif what == "abandon":
            self._abandon()
        elif what == "housekeep":
            for worker in self.workers.values():
                worker.heartbeat()
            self.operator.housekeep(1000)
        else:
            flow_id = data.draw(st.sampled_from(sorted(self.flows)))
            if what == "retry":
                self._retry(flow_id)
            elif self.operator.cancel_flow(flow_id, finale=what == "finale"):
                self._cancelled(flow_id, what == "finale")

    def _purge(self, state: State) -> None:
        reserved = {job_id for held in self.held.values() for job_id in held}
        phases = {State.READY: (Phase.ACTIVE,), State.WAITING: (Phase.WAITING, Phase.STUCK), State.DEAD: (Phase.DEAD,)}[state]
        for flow in self.flows.values():
            for job_id in flow.named(*phases):
                if job_id not in reserved and not (state is State.DEAD and flow.cancelled):
                    flow.phase[job_id] = Phase.GONE
        self.operator.purge(T, state)
        if state is State.READY:
            self.plain &= reserved
        for flow_id in self.flows:
            self.flows[flow_id].settle_down()

    def _cancelled(self, flow_id: str, finale: bool) -> None:
        flow = self.flows[flow_id]
        flow.keeps_finale = finale and flow_id not in self.open and (flow.keeps_finale or not flow.cancelled)
        flow.cancelled = flow.closed = True
        reserved = {job_id for held in self.held.values() for job_id in held}
        for job_id in flow.named(Phase.ACTIVE):
            if flow.barred(job_id) and job_id not in reserved:
                flow.phase[job_id] = Phase.GONE
        if flow_id in self.open:
            self.lost.add(flow_id)
        flow.settle_down()

    def _retry(self, flow_id: str) -> None:
        flow = self.flows[flow_id]
        dead = [] if flow.cancelled else flow.named(Phase.DEAD)
        assert self.operator.retry_flow(flow_id) == len(dead)
        for job_id in dead:
            flow.phase[job_id] = Phase.WAITING
        self.flows[flow_id].settle_down()

    # -- others ------------------------------------------------------------------------------------

    @rule(dies=st.booleans())
    def push_plain(self, dies: bool) -> None:
        """Push a job that takes the key from members, or whose death trims dead letters."""
        job = Outgoing(self._new_id("plain"), T, b"{}", unique=UniqueKey(f"{self.prefix}-key", "queued", "replace"))
        holder = self.operator.push([job], self.rig.request()).get(job.id)
        if holder:
            assert holder not in self.plain or any(holder in held for held in self.held.values())
            return
        self.plain = {each for each in self.plain if self._is_live(each)} | {job.id}  # one may have been replaced
        if dies:
            self.operator.discard([job.id], "not wanted")
            self.plain.discard(job.id)

    def _is_live(self, job_id: str) -> bool:
        found = self.operator.get(job_id)
        return found is not None and found.state is not State.CANCELLED

    def _abandon(self) -> None:
        """Let the time of open flows run out."""
        if not self.rig.clock:
            return
        self.rig.advance(200.0)
        self.operator.housekeep(1000)
        for flow_id, parts in self.open.items():
            if parts and flow_id not in self.lost:
                self._cancelled(flow_id, False)

    @invariant()
    def nothing_differs(self) -> None:
        reserved = {job_id for held in self.held.values() for job_id in held}
        for flow_id, flow in self.flows.items():
            status = self.operator.flow(flow_id)
            if status is None:
                assert not flow.members
                continue
            counts = [len(flow.named(*phases)) for phases in ((Phase.WAITING, Phase.STUCK), (Phase.ACTIVE,), (Phase.DONE,))]
            assert [status.waiting, status.active, status.done] == counts, (flow_id, status, flow.phase)
            assert status.dead == len(flow.named(Phase.DEAD)), (flow_id, status, flow.phase)
            assert status.total == len(flow.members)
            assert status.state == self._state(flow_id, flow), (status, flow.phase)
            for job_id, phase in flow.phase.items():
                self._same(flow, job_id, phase, job_id in reserved)
            if flow_id not in self.open and not flow.named(Phase.ACTIVE):
                assert not flow.named(Phase.WAITING), "a flow waits for ever"
                assert self.operator.wait_flow(flow_id, 0.0) is not None

    def _state(self, flow_id: str, flow: Reference) -> str:
        if flow.cancelled:
            return "cancelled"
        if flow_id in self.open:
            return "open"
        if flow.named(Phase.DEAD):
            return "failed"
        return "running" if flow.named(Phase.WAITING, Phase.ACTIVE, Phase.STUCK) else "done"

    def _same(self, flow: Reference, job_id: str, phase: Phase, reserved: bool) -> None:
        found = self.operator.get(job_id)
        state = found.state if found else State.UNKNOWN
        if phase in FINAL or (phase is Phase.DEAD and flow.cancelled):  # its record may be gone
            ends = {Phase.DONE: State.DONE, Phase.DEAD: State.DEAD}
            assert state in (ends.get(phase, State.CANCELLED), State.UNKNOWN), (job_id, state, phase)
        else:
            active = State.RESERVED if reserved else State.READY
            assert state is _STATES.get(phase, active), (job_id, state, phase)

    def teardown(self) -> None:
        """Run all that is ready: it must be exactly what the definitions say."""
        if not sys.exc_info()[0]:
            self._run_all()
        for worker in WORKERS:
            self.operator.release_owner(f"{self.prefix}-{worker}", (), b"")
        for flow_id in self.flows:
            self.operator.cancel_flow(flow_id)
        for state in (State.READY, State.DEAD):
            self.operator.purge(T, state)
        self.rig.close()

    def _run_all(self) -> None:
        self.release_owner(WORKERS[0], 0)
        self.release_owner(WORKERS[1], 0)
        worker = self.workers[WORKERS[0]]
        for _ in range(self.number + 1):
            held = self.rig.take(worker, 1000)
            ready = {job_id for flow in self.flows.values() for job_id in flow.named(Phase.ACTIVE)}
            assert {each.id for each in held} == ready | self.plain
            self.plain.clear()
            if not held:
                break
            for each in held:
                self.rig.settle(worker, each, Outcome.DONE)
                if each.id in self.flow_of:
                    self._end(each.id, Phase.DONE)


__all__ = ["FlowMachine"]
