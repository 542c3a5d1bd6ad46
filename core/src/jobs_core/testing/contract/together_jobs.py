"""The base of the machine in `together.py`: what it pushes, and what the references know of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ...backends.base import Backend, Delivery, Outgoing, State
from ...backends.flows import After, Member, Part, When
from ...errors import BackendError, FlowLost
from ...message import UniqueKey
from .flow_reference import FINAL, Phase, Reference
from .line_reference import Entry, LineReference
from .rig import Rig, retention

WORKERS = ("one", "two")
LONG = 2.0**20
"""Seconds between the tokens of a rate whose time does not come. Doubles add it to a time without an error."""

whens: st.SearchStrategy[When] = st.sampled_from(["done", "done", "ended", "failed"])
kinds_of_limits = st.sampled_from([(), (), ("a",), ("a:1",), ("a:2", "b"), ("b",), ("r",), ("a", "r:1"), ("undefined",)])
keys = st.sampled_from(["", "", "k", "l", "m"])


class TogetherJobs(RuleBasedStateMachine):
    """Pushes jobs and parts of flows, and compares what the backend says of them with the references."""

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self.rig = rig
        self.prefix = rig.request()
        self.number = self.steps = 0
        self.lines = LineReference()
        self.topics = [f"{self.prefix}-{topic}" for topic in ("x", "y")]
        self.flows: dict[str, Reference] = {}
        self.open: dict[str, int] = {}  # flows whose last part is missing → parts that are there
        self.lost: set[str] = set()
        self.flow_of: dict[str, str] = {}
        self.sent: dict[str, Outgoing] = {}
        self.letters: set[str] = set()  # jobs of no flow that died, unless they were trimmed
        self.cancelling: set[str] = set()
        self.held: dict[str, dict[str, Delivery]] = {worker: {} for worker in WORKERS}
        self.workers: dict[str, Backend] = {worker: self._open(worker) for worker in WORKERS}
        self.operator = rig.producer(retention=retention(keep=50_000.0, most=2))
        self.step()

    def _open(self, worker: str) -> Backend:
        """Open an owner. Without a movable clock none expires, however long the machine takes for a step."""
        lease = self.rig.lease if self.rig.clock else 3600.0
        return self.rig.worker(f"{self.prefix}-{worker}", lease=lease, retention=retention(keep=50_000.0, most=2))

    def _new_id(self, kind: str) -> str:
        self.number += 1
        return f"{self.prefix}-{kind}-{self.number}"

    def named(self, limits: Iterable[str]) -> tuple[str, ...]:
        """Return names of limits that no other example uses."""
        return tuple(sorted(f"{self.prefix}-{limit}" for limit in limits))

    def step(self) -> None:
        """Begin a call: what becomes ready in it is younger than what was there."""
        self.steps += 1
        if self.rig.clock:
            self.rig.advance(2.0**-10)
        self.lines.new_step(self.rig.clock.time if self.rig.clock else 1e9 + self.steps * 2.0**-10)

    # -- jobs --------------------------------------------------------------------------------------

    def _fields(self, data: st.DataObject) -> dict[str, Any]:
        """Draw what a job has besides its place in a flow."""
        fields: dict[str, Any] = {"priority": data.draw(st.sampled_from([0, 0, 0, 5]))}
        if self.rig.has("limits", "fairness"):
            fields |= {"limits": self.named(data.draw(kinds_of_limits)), "key": data.draw(keys)}
        if self.rig.clock:
            fields["delay"] = data.draw(st.sampled_from([0.0, 0.0, 0.0, 5.0]))
        return fields

    def _entry(self, job: Outgoing) -> Entry:
        seq = 0 if job.member else int(job.id.rpartition("-")[2])
        return Entry(job.id, job.topic, -job.priority, job.key, job.limits, seq)

    @rule(data=st.data(), count=st.integers(1, 5))
    def push(self, data: st.DataObject, count: int) -> None:
        self.step()
        topics = st.sampled_from(self.topics)
        jobs = [Outgoing(self._new_id("job"), data.draw(topics), b"{}", **self._fields(data)) for _ in range(count)]
        request = self.rig.request()
        for _ in range(2):
            assert not self.operator.push(jobs, request), "a repeated push adds nothing"
        self.sent |= {job.id: job for job in jobs}
        self.lines.start([(self._entry(job), job.delay) for job in jobs])

    @rule(data=st.data(), dies=st.booleans())
    def push_with_a_key(self, data: st.DataObject, dies: bool) -> None:
        """Push a job that takes the unique key of another, or whose death trims dead letters."""
        self.step()
        unique = UniqueKey(f"{self.prefix}-key", "queued", "replace")
        topic, fields = data.draw(st.sampled_from(self.topics)), self._fields(data)
        job = Outgoing(self._new_id("job"), topic, b"{}", unique=unique, **fields)
        holder = self.operator.push([job], self.rig.request()).get(job.id)
        if holder:
            assert holder in self.flow_of or self.lines.entries[holder].state == "reserved"
            return
        replaced = [each for each in self.lines.entries if each not in self.flow_of and not self._is_live(each)]
        assert len(replaced) <= 1
        for each in replaced:
            del self.lines.entries[each]
        self.sent[job.id] = job
        self.lines.start([(self._entry(job), job.delay)])
        if dies:
            self.step()
            assert self.operator.discard([job.id], "not wanted") == 1
            self.died(job.id)

    def _is_live(self, job_id: str) -> bool:
        found = self.operator.get(job_id)
        return found is not None and found.state is not State.CANCELLED

    def died(self, job_id: str) -> None:
        """Note that a job became a dead letter."""
        del self.lines.entries[job_id]
        if job_id in self.flow_of:
            self.ended(job_id, Phase.DEAD)
        else:
            self.letters.add(job_id)

    # -- parts -------------------------------------------------------------------------------------

    def outgoing(self, flow_id: str, data: st.DataObject, own: bool = False) -> Outgoing:
        """Draw a member, which may be refused."""
        flow = self.flows[flow_id]
        targets = [After(name) for name, phase in flow.phase.items() if phase not in FINAL] + [After("*", "all")]
        targets += [After(stage, "stage") for stage in sorted({member.stage or "" for member in flow.members.values()} - {""})]
        chosen = data.draw(st.lists(st.tuples(st.sampled_from(targets), st.booleans()), max_size=2))
        after = tuple(After(each.target, each.kind, ended) for each, ended in chosen)
        label = data.draw(st.sampled_from(["", "s", "t", None] if own else ["", "s", "t"]))
        key = UniqueKey(f"{self.prefix}-key") if data.draw(st.integers(0, 9)) == 0 else None
        member = Member(flow_id, label, after, data.draw(whens))
        topic, fields = data.draw(st.sampled_from(self.topics)), self._fields(data)
        return Outgoing(self._new_id("member"), topic, b"{}", unique=key, member=member, **fields)

    @initialize(data=st.data(), count=st.integers(3, 6))
    def first_flow(self, data: st.DataObject, count: int) -> None:
        self.push_part(data, count, True, False)

    @rule(data=st.data(), count=st.integers(2, 6), last=st.sampled_from([True, True, False]), whole=st.booleans())
    def push_part(self, data: st.DataObject, count: int, last: bool, whole: bool) -> None:
        """Push a part of an open flow or of a new one; if it is refused, push its members one by one."""
        if not self.rig.has("flows"):
            return
        if not self.open and len(self.flows) < 4:
            flow_id = self._new_id("flow")
            self.flows[flow_id], self.open[flow_id] = Reference(closed=False), 0
        if not self.open:
            return
        flow_id = data.draw(st.sampled_from(sorted(self.open)))
        flow = self.flows[flow_id]
        jobs: list[Outgoing] = []
        for _ in range(count):
            jobs.append(self.outgoing(flow_id, data))
            flow.phase[jobs[-1].id] = Phase.WAITING  # the next ones may be after it
        for job in jobs:
            del flow.phase[job.id]
        if not (whole and self._push(flow_id, jobs, last)):
            for job in jobs:
                self._push(flow_id, [job], False)
            if last:
                self._push(flow_id, [], True)

    def _push(self, flow_id: str, jobs: list[Outgoing], last: bool) -> bool:
        self.step()
        if flow_id in self.lost:
            with pytest.raises(FlowLost):
                self.operator.push_part(Part(flow_id, self.open[flow_id], last), jobs, self.rig.request())
            return True
        part = Part(flow_id, self.open[flow_id], last, ttl=1e9, open_for=20_000.0)
        try:
            if self.operator.push_part(part, jobs, self.rig.request()):
                return False
        except BackendError:
            return False  # directed cases say which ones
        assert not self.operator.push_part(part, jobs, self.rig.request()), "a repeated part adds nothing"
        for job in jobs:
            assert job.member is not None
            self.flows[flow_id].add(job.id, job.member)
            self.flow_of[job.id], self.sent[job.id] = flow_id, job
        self.open[flow_id] += 1
        if last:
            del self.open[flow_id]
            self.flows[flow_id].closed = True
        self.follow(flow_id)
        return True

    # -- what follows ------------------------------------------------------------------------------

    def ended(self, job_id: str, phase: Phase, *, at_once: bool = False) -> None:
        """Note that a member has another phase, and what follows; `at_once` if it is ready without its delay then."""
        flow_id = self.flow_of[job_id]
        self.flows[flow_id].phase[job_id] = phase
        self.follow(flow_id, (job_id,) if at_once else ())

    def follow(self, flow_id: str, at_once: Iterable[str] = ()) -> None:
        """Note what follows in a flow: which members start, and which ones run no more."""
        flow = self.flows[flow_id]
        flow.settle_down()
        active = set(flow.named(Phase.ACTIVE))
        for job_id in [each for each in self.lines.entries if self.flow_of.get(each) == flow_id and each not in active]:
            del self.lines.entries[job_id]
        started = [self.sent[job_id] for job_id in flow.named(Phase.ACTIVE) if job_id not in self.lines.entries]
        delays = [0.0 if job.id in at_once else job.delay for job in started]
        self.lines.start(zip(map(self._entry, started), delays, strict=True), together=True)

    # -- what is compared --------------------------------------------------------------------------

    def reserved(self) -> set[str]:
        return {job_id for held in self.held.values() for job_id in held}

    @invariant()
    def no_slot_is_counted_twice_or_lost(self) -> None:
        if not self.rig.has("limits"):
            return
        states = {state.limit: state for state in self.operator.limits(10_000)}
        for limit in self.named(("a", "a:1", "a:2", "b", "r", "r:1", "undefined")):
            used, expected = states[limit].used if limit in states else 0, self.lines.used(limit)
            assert used == expected, f"{used} slots of {limit} are used instead of {expected}"

    @invariant()
    def counts_agree(self) -> None:
        for topic, counts in self.operator.counts(self.topics).items():
            expected = self.lines.counts(topic)
            found = {"ready": counts.ready + counts.limited, "scheduled": counts.scheduled, "reserved": counts.reserved}
            assert found == expected, f"{topic} has {found} instead of {expected}"

    @invariant()
    def flows_agree(self) -> None:
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
                self._same(flow, job_id, phase)
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

    def _same(self, flow: Reference, job_id: str, phase: Phase) -> None:
        found = self.operator.get(job_id)
        state = found.state if found else State.UNKNOWN
        if phase in FINAL or (phase is Phase.DEAD and flow.cancelled):  # its record may be gone
            ends = {Phase.DONE: State.DONE, Phase.DEAD: State.DEAD}
            expected: tuple[State, ...] = (ends.get(phase, State.CANCELLED), State.UNKNOWN)
        elif phase is Phase.ACTIVE:
            ready = (State.READY, State.LIMITED)
            lines = {"ready": ready, "scheduled": (State.SCHEDULED,), "reserved": (State.RESERVED,)}
            expected = lines[self.lines.entries[job_id].state]
        else:
            expected = (State.DEAD if phase is Phase.DEAD else State.WAITING,)
        assert state in expected, (job_id, state, phase)
        if found and state is State.LIMITED:
            counted = self.lines.counted(self.lines.entries[job_id])
            assert found.blocked_by in counted or self.sent[job_id].topic in self.lines.murky, (job_id, found.blocked_by)


__all__ = ["LONG", "WORKERS", "TogetherJobs"]
