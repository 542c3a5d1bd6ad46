"""The members of flows in a memory store: their parts, additions and ends, and the calls of operators on flows."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ...errors import BackendError, FlowLost
from ..base import Outgoing, State
from ..flows import MOST_LISTED, SLICE, FlowStatus, Member, MemberStatus, Part, held_key, refusal
from .flows import CANCELLED, Flow, Node, Phase
from .records import Job, Moment

if TYPE_CHECKING:
    from .store import MemoryStore

_STATES = {Phase.DONE: State.DONE, Phase.DEAD: State.DEAD, Phase.GONE: State.CANCELLED, Phase.SKIPPED: State.CANCELLED}
_RANK = {"failed": 0, "open": 1, "running": 1}


class Members:
    """All flows of a store. Callers hold its lock."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.flows: dict[str, Flow] = {}
        self.work: deque[Flow] = deque()  # flows in which more is to be decided
        self.budget = SLICE  # decisions that are left to the current call
        self._events: deque[tuple[Node, Phase, str]] = deque()
        self._kept: list[tuple[float, str]] = []  # a heap: until when flows that have ended are kept
        self._open: dict[str, Flow] = {}
        self._failed: dict[str, Flow] = {}  # that may have dead members, those that were looked at longest ago first

    # -- parts and additions -----------------------------------------------------------------------

    def push_part(self, at: Moment, part: Part, messages: Sequence[Outgoing]) -> dict[str, str]:
        """Add a part, unless it was added before or a message is refused; close the flow with the last one."""
        flow = self.flows.get(part.flow)
        if flow is None:
            if part.number:
                raise FlowLost.of(part.flow, "is unknown: it was dropped, because its parts came too slowly")
            flow = Flow(part, at.now)
        if flow.lost:
            raise FlowLost.of(part.flow, flow.lost)
        if flow.closed or part.number < flow.parts:
            return {}
        if part.number > flow.parts:
            raise BackendError(f"part {part.number} of flow {part.flow} came before part {flow.parts}: push them in order")
        conflicts = self._store.conflicts(at, messages)
        if conflicts:
            return conflicts
        nodes = flow.plan([(message.id, _place(message, part.flow)) for message in messages])
        for message, node in zip(messages, nodes, strict=True):
            flow.add(node)
            self._store.take_key(at, message)
            self._store.add_member(at, message, node)
        self.flows[part.flow] = self._open[part.flow] = flow
        flow.parts, flow.touched = part.number + 1, at.now
        if part.last:
            del self._open[part.flow]
            flow.close()
        self._queue(flow)
        self.proceed(at, SLICE)
        return {}

    def join(self, at: Moment, message: Outgoing, by: Job | None) -> None:
        """Add a job that a member added when it ended; make it a dead letter if it cannot be in that flow.

        The settlement of the member stands whatever it adds, so an error would be seen by nobody.
        """
        place, adder = message.member, by.node if by is not None else None
        assert place is not None
        if adder is None or adder.flow.part.flow != place.flow:
            job = self._store.add_member(at, replace(message, unique=None), None)
            self._store.make_dead(at, job, f"it was added to flow {place.flow} by a job that is not a member of it")
            return
        flow = adder.flow
        try:
            (node,) = flow.plan([(message.id, place)], adder)
            if holder := self._store.take_key(at, message):
                raise refusal(message.id, place.flow, held_key(holder))
        except BackendError as error:
            node = Node(flow, message.id, place, "", finale=adder.finale)
            job = self._store.add_member(at, replace(message, unique=None), node)
            flow.add_dead(node, str(error))
            self._has_failed(flow, at.now)
            self._store.make_dead(at, job, str(error))
        else:
            flow.add(node)
            job = self._store.add_member(at, message, node)
            flow.begin()
            if adder.barred or node.barred:
                self._store.end(at, job, State.CANCELLED, at.options.cancelled_ttl, reason=CANCELLED)
        self._queue(flow)

    # -- ends --------------------------------------------------------------------------------------

    def note(self, node: Node, state: State, reason: str) -> None:
        """Note that a member was removed or died; `proceed` makes its flow know."""
        phase = {State.DONE: Phase.DONE, State.DEAD: Phase.DEAD}.get(state, Phase.GONE)
        self._events.append((node, phase, reason))

    def proceed(self, at: Moment, most: int | None = None) -> None:
        """Tell flows of ends, and decide what follows for up to `most` members, or as many as the call has left."""
        self.budget = self.budget if most is None else most
        host = _Host(self._store, at)
        while True:
            while self._events:
                node, phase, reason = self._events.popleft()
                flow = node.flow
                if node.phase is not phase and flow.node(node.id) is node:
                    flow.enter(node, phase, reason)
                    if phase is Phase.DEAD:
                        self._has_failed(flow, at.now)
                    self._queue(flow)
            if not self.work or self.budget <= 0:
                return
            flow = self.work.popleft()
            flow.queued = False
            self.budget -= flow.proceed(host, self.budget)
            if flow.has_work:
                self._queue(flow)
            elif flow.ended_at is None and flow.is_over:
                flow.ended_at = at.now
                heapq.heappush(self._kept, (at.now + flow.part.ttl, flow.part.flow))
                self._store.changed.notify_all()

    def _has_failed(self, flow: Flow, now: float) -> None:
        flow.failed_at = now
        self._failed[flow.part.flow] = flow

    def _queue(self, flow: Flow) -> None:
        if not flow.queued:
            flow.queued = True
            self.work.append(flow)

    def retry(self, at: Moment, job: Job) -> None:
        """Let a dead member run or wait again; its job is in no container."""
        assert job.node is not None
        job.state = State.WAITING
        job.delay = job.delay if job.node.left else 0.0  # an operator wants it now
        job.node.flow.retry(job.node, _Host(self._store, at))
        self._queue(job.node.flow)

    def inputs(self, node: Node, most: int) -> tuple[tuple[str, bytes], ...]:
        """Return the results that a member takes."""
        return tuple(self._results(node.flow, node.place.inputs, most, first=False))

    def _results(self, flow: Flow, job_ids: Iterable[str], most: int, *, first: bool) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        for job_id in job_ids:
            result = flow.results.get(job_id)
            if result is None:
                continue
            most -= len(result)
            if most < 0 and (found or not first):
                break
            found.append((job_id, result))
        return found

    # -- housekeeping ------------------------------------------------------------------------------

    def housekeep(self, at: Moment) -> bool:
        """Drop open flows and forget old ones; return whether there is more to do."""
        for flow in [flow for flow in self._open.values() if flow.touched + flow.part.open_for <= at.now][:SLICE]:
            self._cancel(at, flow, finale=False)
            flow.lost = "was dropped, because its parts came too slowly"
        self.proceed(at, SLICE)
        forgotten = 0
        while self._kept and self._kept[0][0] <= at.now and forgotten < SLICE:
            flow = self.flows[self._kept[0][1]]
            forgotten += 1 + len(flow.stages)
            if not flow.dismantle(SLICE):
                del self.flows[heapq.heappop(self._kept)[1]]
        return bool(self.work) or forgotten >= SLICE

    def old_letters(self, at: Moment, most: int) -> list[str]:
        """Return dead members of flows that failed too long ago; a call looks at about SLICE, and the next at others."""
        old: list[str] = []
        looks = SLICE
        for flow_id in list(islice(self._failed, SLICE)):
            if looks <= 0 or len(old) >= most:
                break
            flow = self._failed.pop(flow_id)
            dead = list(islice(flow.dead.values(), most - len(old)))
            looks -= 1 + len(dead)
            old += [node.id for node in dead if flow.failed_at <= at.now - at.options.retention(node.topic).dead_keep]
            if flow.dead:
                self._failed[flow_id] = flow
        return old

    # -- operators ---------------------------------------------------------------------------------

    def status(self, flow_id: str, now: float) -> FlowStatus | None:
        flow = self.flows.get(flow_id)
        return flow.status(now) if flow else None

    def listed(self, most: int, offset: int, now: float) -> list[FlowStatus]:
        flows = [flow.status(now) for flow in self.flows.values()]
        flows.sort(key=lambda flow: (_RANK.get(flow.state, 2), -flow.created_at))
        return flows[offset : offset + most]

    def members(self, flow_id: str, most: int, offset: int, *, dead: bool) -> list[MemberStatus]:
        flow = self.flows.get(flow_id)
        if flow is None:
            return []
        nodes = flow.nodes if flow.listed is None else flow.listed
        found = (flow.dead if dead else nodes).values()
        return [self._member_status(node) for node in islice(found, offset, offset + min(most, MOST_LISTED))]

    def _member_status(self, node: Node) -> MemberStatus:
        job = self._store.jobs.get(node.id)
        place = node.place
        return MemberStatus(
            node.id,
            (_STATES.get(node.phase) or (job.seen_state if job else State.UNKNOWN)).value,
            place.label,
            node.topic,
            node.stage,
            node.finale,
            place.after,
            place.when,
            node.phase is Phase.STUCK,
            node.reason,
        )

    def results(self, flow_id: str, job_ids: Sequence[str], most: int) -> list[tuple[str, bytes]]:
        flow = self.flows.get(flow_id)
        return self._results(flow, job_ids, most, first=True) if flow else []

    def cancel(self, at: Moment, flow_id: str, *, finale: bool) -> bool:
        flow = self.flows.get(flow_id)
        if flow is None or flow.ended_at is not None:
            return False
        self._cancel(at, flow, finale=finale)
        self.proceed(at, SLICE)
        self._store.changed.notify_all()
        return True

    def _cancel(self, at: Moment, flow: Flow, *, finale: bool) -> None:
        if flow.counts[Phase.ACTIVE]:
            self._store.call_owners()
        flow.cancel(finale=finale)
        self._open.pop(flow.part.flow, None)
        self._queue(flow)

    def dead_ids(self, flow_id: str, most: int) -> Sequence[str]:
        """Return dead members that can be retried."""
        flow = self.flows.get(flow_id)
        return list(islice((node.id for node in flow.dead.values() if not node.refused), most)) if flow else []


def _place(message: Outgoing, flow_id: str) -> Member:
    if message.member is None or message.member.flow != flow_id:
        raise BackendError(f"{message.id} is in a part of flow {flow_id}, but is not a member of it")
    return message.member


class _Host:
    """Carries out what a flow decides about its members."""

    def __init__(self, store: MemoryStore, at: Moment) -> None:
        self._store, self._at = store, at

    def start(self, job_id: str) -> None:
        self._store.start_member(self._at, self._store.jobs[job_id])

    def remove(self, job_id: str, reason: str) -> None:
        job = self._store.jobs.get(job_id)
        if job is not None:
            self._store.end(self._at, job, State.CANCELLED, self._at.options.cancelled_ttl, reason=reason)

    def is_reserved(self, job_id: str) -> bool:
        return self._store.jobs[job_id].state is State.RESERVED

    def release(self, job_id: str) -> None:
        self._store.release_letter(self._store.jobs[job_id])
