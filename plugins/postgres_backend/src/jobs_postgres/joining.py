"""Work out the rows of new members of a flow: of those of a part, and of those that a running member adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from jobs_core.backends.base import Outgoing
from jobs_core.backends.flow_plan import Plan, Planned

from .rows import stored

DONE, DEAD, GONE, LET = 3, 4, 5, 7  # phases, see sql/flows.sql
BAD = (1, DEAD)
FAILED = (*BAD, GONE)

_encode = msgspec.json.Encoder().encode


class Flow(NamedTuple):
    """The row of a flow, with the end of its body; without a number if it is not stored yet."""

    n: int = 0
    id: str = ""
    closed: bool = False
    cancelled: int = 0
    body: int = 0
    opening: int = 0
    body_ended: int | None = None


class KnownMember(NamedTuple):
    """A member that has not ended for good; its order comes after that of all that it is after: see `flow_plan.Plan`."""

    id: str
    seq: int
    phase: int
    finale: bool
    stage: str
    order: int


class Stage(msgspec.Struct):
    """A stage, as it is or is to be in the store, and what changes in it."""

    label: str
    n: int
    finale: bool
    ended: int | None = None
    seal: int | None = None
    live: int = 0
    changed: bool = False


class NewRows(NamedTuple):
    """The parameters of `add_members`, after the flow."""

    members: str
    payloads: list[bytes]
    groups: str
    edges: str
    takers: str
    at_once: list[int]


def ids_of(messages: Sequence[Outgoing]) -> list[str]:
    """Return the ids of new members, and of those that they name."""
    ids = {message.id for message in messages}
    for message in messages:
        if message.member is not None:
            ids.update(after.target for after in message.member.after if after.kind == "job")
            ids.update(message.member.inputs)
    return [*ids]


def labels_of(messages: Sequence[Outgoing], by_stage: str = "") -> list[str]:
    """Return the labels of stages of new members, and of those that they name."""
    places = [message.member for message in messages if message.member is not None]
    labels = {after.target for place in places for after in place.after if after.kind == "stage"}
    labels |= {by_stage if place.stage is None else place.stage for place in places}
    return [*(labels - {""})]


class Joining:
    """New members of a flow, of which `plan` says whether they can be, and `rows` how they are stored.

    `facts` is what `place_facts` returns.
    """

    def __init__(
        self, flow_id: str, messages: Sequence[Outgoing], facts: Mapping[str, Any], by: KnownMember | None = None
    ) -> None:
        self._messages, self._by = messages, by
        self._numbers = iter(facts["groups"])
        self._seqs: list[int] = facts["seqs"]
        self.new: list[int] | None = None
        if facts["flow"] is None:
            n, *self.new = (next(self._numbers) for _ in range(3))
            self.flow = Flow(n, flow_id, False, 0, *self.new)
        else:
            self.flow = Flow(*facts["flow"])
        self._known = {row[0]: KnownMember(*row) for row in facts["members"] or ()}
        if by is not None:
            self._known[by.id] = by
        self._stages = {row[0]: Stage(*row) for row in facts["stages"] or ()}
        self._gone = frozenset(facts["gone"] or ())

    def _ended_early(self, job_id: str) -> bool:
        """Return whether a member was gone before its flow was closed."""
        return not self.flow.closed and job_id in self._gone

    def plan(self) -> list[Planned]:
        """Check the members, in their order; raise BackendError if one cannot be."""
        plan = Plan(self.flow.id, self._known.get, self._stages.get, self._ended_early, self._by)
        return [plan.add(each.id, each.member) for each in self._messages if each.member is not None]

    def rows(self, planned: Sequence[Planned]) -> NewRows:
        """Return the rows of members."""
        self._seq_of = dict(zip((member.id for member in planned), self._seqs, strict=True))
        self._edges: list[tuple[int, int, bool]] = []
        self._body_live = 0
        members = [self._row(*both) for both in zip(planned, self._messages, strict=True)]
        groups = [
            {"n": each.n, "label": each.label, "finale": each.finale, "live": each.live, "seal": each.seal}
            for each in self._stages.values()
            if each.changed
        ]
        if self._body_live:
            groups.append({"n": self.flow.body, "label": "", "finale": False, "live": self._body_live, "seal": None})
        takers = Counter(job_id for member in planned for job_id in member.place.inputs)
        at_once = [
            row["seq"] for row in members if not row["awaits"] or row["stuck"] or row["lost"] is not None or self.flow.cancelled
        ]
        parts = (_encode(part).decode() for part in (members, groups, self._edges, takers))
        rows, changed, edges, taken = parts
        return NewRows(rows, [message.payload for message in self._messages], changed, edges, taken, at_once)

    def _row(self, member: Planned, message: Outgoing) -> dict[str, Any]:
        """Return the facts of a member and its job, and note its edges and what it counts in."""
        place, order, seq = member.place, None, self._seq_of[member.id]
        stage = None
        if member.stage:
            stage = self._stages.get(member.stage)
            if stage is None:
                stage = self._stages[member.stage] = Stage(member.stage, next(self._numbers), member.finale)
            if stage.seal is not None:
                order = stage.seal - 1
            stage.live += 1
            stage.changed = True
        self._body_live += not member.finale
        waits = _Waits(seq)
        for after in place.after:
            target, end = self._target(seq, after.kind, after.target)
            waits.add(target, end, after.ended or place.when != "done")
        if not self.flow.closed and not waits.edges and waits.lost is None:
            waits.add(self.flow.opening, None, False)
        self._edges += waits.edges
        facts = (place.stage, [(each.target, each.kind, each.ended) for each in place.after], place.when, place.label)
        return {
            "seq": seq, "id": member.id, "topic": message.topic, "rank": -message.priority,
            "u": stored(message.unique.key) if message.unique else None, "k": stored(message.key) if message.key else None,
            "l": message.limits or None, "stage": stage.n if stage else None, "finale": member.finale,
            "awaits": len(waits.edges) + (waits.lost is not None), "stuck": waits.stuck, "failed": waits.failed,
            "lost": waits.lost, "if_failed": place.when == "failed", "delay": message.delay,
            "place": _encode(facts).decode(), "inputs": place.inputs or None, "seal": order,
        }  # fmt: skip

    def _target(self, seq: int, kind: str, target: str) -> tuple[int | None, int | None]:
        """Return the number of a target, None if it is not there any more, and its end; seal a stage."""
        if kind == "all":
            return self.flow.body, self.flow.body_ended
        if kind == "stage":
            stage = self._stages[target]
            if stage.seal is None:
                stage.seal, stage.changed = 4 * seq - 1, True
            return stage.n, stage.ended
        if target in self._seq_of:
            return self._seq_of[target], None
        known = self._known.get(target)
        if known is None:
            return None, GONE if self._ended_early(target) else DONE
        if known.phase == LET:
            return None, GONE
        return known.seq, known.phase if known.phase in BAD else None


class _Waits:
    """What a new member waits for."""

    def __init__(self, seq: int) -> None:
        self.edges: list[tuple[int, int, bool]] = []
        self.stuck = 0
        self.failed = False
        self.lost: int | None = None
        self._seq = seq

    def add(self, target: int | None, end: int | None, any_end: bool) -> None:
        if end is not None and (any_end or end == DONE):
            self.failed |= end in FAILED
        elif end is None or end in BAD:
            assert target is not None
            edge = (target, self._seq, any_end)
            if edge not in self.edges:
                self.edges.append(edge)
                self.stuck += end is not None
        elif self.lost is None:
            self.lost = end
