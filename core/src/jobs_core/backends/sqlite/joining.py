"""Add members to flows: those of a part, and those that a running member adds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from ...errors import BackendError
from ..base import Outgoing
from ..flow_plan import Plan, Planned
from ..flows import Member, Part, held_key, refusal
from . import members, removal
from .connection import Transaction
from .members import BAD, FAILED, Phase

_FLOW = """
SELECT flow.n, id, open_until IS NULL, cancelled, body, opening, ended FROM flow JOIN flow_group ON flow_group.n = body
"""
_KNOWN = """
SELECT flow_member.id, seq, phase, flow_member.finale, coalesce(label, ''), coalesce(flow_member.seal, 4 * seq)
  FROM {0} LEFT JOIN flow_group ON flow_group.n = stage WHERE {1}
"""
_OF_IDS = _KNOWN.format(
    "json_each(?) AS named CROSS JOIN job ON job.id = named.value CROSS JOIN flow_member USING (seq)", "flow_member.flow = ?"
)
_OF_NUMBER = _KNOWN.format("flow_member", "seq = ?")
_INSERT_JOB = """
INSERT INTO job (seq, id, topic, rank, pushed_at, unique_key, payload, key, limits) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_INSERT_MEMBER = """
INSERT INTO flow_member (seq, flow, id, topic, stage, finale, awaits, stuck, failed, lost, if_failed, delay, place,
                         inputs, seal)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_COUNT_TAKER = """
INSERT INTO flow_result (flow, id, takers) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET takers = takers + excluded.takers
"""


class Flow(NamedTuple):
    """The row of a flow, with the end of its body; without a number if it is not stored yet."""

    n: int = 0
    id: str = ""
    closed: int = 0
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


class Stage:
    """A stage, as it is or is to be in the store."""

    def __init__(self, n: int, finale: bool, ended: int | None = None, seal: int | None = None) -> None:
        self.n, self.finale, self.ended, self.seal = n, finale, ended, seal
        self.sealed_now = False


def create(tx: Transaction, part: Part) -> Flow:
    """Store a new flow, with its body and its opening."""
    tx.exclude_older_releases(4)
    sql = "INSERT INTO flow (id, name, ttl, created_at, open_until, body, opening) VALUES (?, ?, ?, ?, ?, 0, 0)"
    row = (part.flow, part.name, part.ttl, tx.now, tx.now + part.open_for)
    n = tx.db.execute(sql, row).lastrowid or 0
    body, opening = _insert_group(tx, n, "", False), _insert_group(tx, n, None, False)
    tx.db.execute("UPDATE flow SET body = ?, opening = ? WHERE n = ?", (body, opening, n))
    return Flow(n, part.flow, body=body, opening=opening)


def find(tx: Transaction, flow_id: str) -> Flow | None:
    """Return a flow by its id."""
    row = tx.db.execute(f"{_FLOW} WHERE id = ?", (flow_id,)).fetchone()
    return None if row is None else Flow(*row)


def _insert_group(tx: Transaction, flow: int, label: str | None, finale: bool) -> int:
    sql = "INSERT INTO flow_group (flow, label, finale) VALUES (?, ?, ?)"
    return tx.db.execute(sql, (flow, label, finale)).lastrowid or 0


# -- what a running member adds ----------------------------------------------------------------------


def join(tx: Transaction, message: Outgoing, by: int, take_key: Callable[[], str | None]) -> None:
    """Add a job that a member adds at its end; make it a dead letter if it cannot be in that flow.

    `take_key` gives it its unique key, or returns the holder.

    The settlement of the member stands whatever it adds, so an error would be seen by nobody.
    """
    place = message.member
    assert place is not None
    row = tx.db.execute(f"{_FLOW} WHERE flow.n = (SELECT flow FROM flow_member WHERE seq = ?)", (by,)).fetchone()
    flow = None if row is None else Flow(*row)
    if flow is None or flow.id != place.flow:
        _insert_stranger(tx, message)
        return
    adder = KnownMember(*tx.db.execute(_OF_NUMBER, (by,)).fetchone())
    joining = Joining(tx, flow, [message], adder)
    try:
        (planned,) = joining.plan()
        if holder := take_key():
            raise refusal(message.id, flow.id, held_key(holder))
    except BackendError as error:
        joining = Joining(tx, flow, [replace(message, unique=None)], adder)
        seq = joining.add([Planned(message.id, Member(place.flow, label=place.label), "", adder.finale)], decides=False)
        members.refuse(tx, seq, str(error))
        removal.make_dead(tx, seq, str(error), None, 0)
        return
    seq = joining.add([planned])
    if flow.cancelled == 1 or (flow.cancelled and not adder.finale):
        members.remove(tx, json.dumps([seq]), Phase.GONE, members.CANCELLED)


def _insert_stranger(tx: Transaction, message: Outgoing) -> None:
    """Store a job as a dead letter that is in no flow."""
    assert message.member is not None
    seq = tx.numbers(1) + 1
    _insert_jobs(tx, [replace(message, unique=None)], seq)
    removal.make_dead(tx, seq, f"it was added to flow {message.member.flow} by a job that is not a member of it", None, 0)


def _insert_jobs(tx: Transaction, messages: Sequence[Outgoing], first: int) -> None:
    tx.db.executemany(
        _INSERT_JOB,
        [
            (seq, each.id, each.topic, -each.priority, tx.now, each.unique.key if each.unique else None, each.payload,
             each.key or None, json.dumps(each.limits) if each.limits else "[]" if seq < 0 else None)
            for seq, each in enumerate(messages, first)
        ],
    )  # fmt: skip


# -- new members -------------------------------------------------------------------------------------


class Joining:
    """New members of a flow, of which `plan` says whether they can be, and which `add` stores."""

    def __init__(self, tx: Transaction, flow: Flow, messages: Sequence[Outgoing], by: KnownMember | None = None) -> None:
        self._tx, self.flow, self._messages, self._by = tx, flow, messages, by
        places = [message.member for message in messages if message.member is not None]
        ids = {each.id for each in messages}
        for place in places:
            ids.update(after.target for after in place.after if after.kind == "job")
            ids.update(place.inputs)
        self._known = self._find_members(ids)
        labels = {after.target for place in places for after in place.after if after.kind == "stage"}
        labels |= {by.stage if by and place.stage is None else place.stage or "" for place in places}
        self._stages = self._find_stages(labels - {""})

    def _find_members(self, ids: set[str]) -> dict[str, KnownMember]:
        rows = self._tx.db.execute(_OF_IDS, (json.dumps([*ids]), self.flow.n))
        found = {row[0]: KnownMember(*row) for row in rows}
        return found | {self._by.id: self._by} if self._by else found

    def _find_stages(self, labels: set[str]) -> dict[str, Stage]:
        if not labels:
            return {}
        sql = (
            "SELECT label, n, finale, ended, seal FROM flow_group WHERE flow = ? AND label IN (SELECT value FROM json_each(?))"
        )
        rows = self._tx.db.execute(sql, (self.flow.n, json.dumps([*labels])))
        return {label: Stage(n, bool(finale), ended, seal) for label, n, finale, ended, seal in rows}

    def _ended_early(self, job_id: str) -> bool:
        """Return whether a member was gone before its flow was closed."""
        sql = "SELECT EXISTS (SELECT 1 FROM flow_member WHERE flow = ? AND id = ? AND phase = 5)"
        return not self.flow.closed and bool(self._tx.first(sql, (self.flow.n, job_id)))

    def plan(self) -> list[Planned]:
        """Check the members, in their order; raise BackendError if one cannot be, and change nothing."""
        plan = Plan(self.flow.id, self._known.get, self._stages.get, self._ended_early, self._by)
        return [plan.add(each.id, each.member) for each in self._messages if each.member is not None]

    def add(self, planned: Sequence[Planned], *, decides: bool = True) -> int:
        """Store the members, which wait, and decide about those that wait for nothing; return the number of the first."""
        tx, flow = self._tx, self.flow
        first = tx.numbers(len(planned), "members") + 1
        _insert_jobs(tx, self._messages, first)
        self._numbers = {member.id: seq for seq, member in enumerate(planned, first)}
        self._edges: list[tuple[int, int, int]] = []
        self._live: Counter[int] = Counter()
        rows = [self._row(seq, *both) for seq, both in enumerate(zip(planned, self._messages, strict=True), first)]
        tx.db.executemany(_INSERT_MEMBER, rows)
        tx.db.executemany("INSERT INTO flow_edge VALUES (?, ?, ?)", self._edges)
        groups = [(count, group) for group, count in self._live.items()]
        tx.db.executemany("UPDATE flow_group SET live = live + ?, ended = NULL WHERE n = ?", groups)
        seals = [(stage.seal, stage.n) for stage in self._stages.values() if stage.sealed_now]
        tx.db.executemany("UPDATE flow_group SET seal = ? WHERE n = ?", seals)
        takers = Counter(job_id for member in planned for job_id in member.place.inputs)
        tx.db.executemany(_COUNT_TAKER, [(flow.n, job_id, count) for job_id, count in takers.items()])
        count = len(planned)
        tx.db.execute("UPDATE flow SET total = total + ?, waiting = waiting + ? WHERE n = ?", (count, count, flow.n))
        tx.flows[flow.n] = False
        at_once = [row[0] for row in rows if not row[6] or row[7] or row[9] or flow.cancelled]
        if at_once and decides:
            members.decide(tx, "SELECT value FROM json_each(:seqs)", {"seqs": json.dumps(at_once)})
        return first

    def _row(self, seq: int, member: Planned, message: Outgoing) -> tuple[Any, ...]:
        """Return the row of a member, and note its edges and what it counts in."""
        place, order = member.place, None
        stage = None
        if member.stage:
            stage = self._stages.get(member.stage)
            if stage is None:
                n = _insert_group(self._tx, self.flow.n, member.stage, member.finale)
                stage = self._stages[member.stage] = Stage(n, member.finale)
            if stage.seal is not None:
                order = stage.seal - 1
            self._live[stage.n] += 1
        if not member.finale:
            self._live[self.flow.body] += 1
        waits = _Waits(seq)
        for after in place.after:
            target, end = self._target(seq, after.kind, after.target)
            waits.add(target, end, after.ended or place.when != "done")
        if not self.flow.closed and not waits.edges and waits.lost is None:
            waits.add(self.flow.opening, None, False)
        self._edges += waits.edges
        facts = msgspec.json.encode((place.stage, [(each.target, each.kind, each.ended) for each in place.after], place.when,
                                     place.label)).decode()  # fmt: skip
        return (
            seq, self.flow.n, member.id, message.topic, stage.n if stage else None, member.finale,
            len(waits.edges) + (waits.lost is not None), waits.stuck, waits.failed, waits.lost, place.when == "failed",
            message.delay, facts, json.dumps(place.inputs) if place.inputs else None, order,
        )  # fmt: skip

    def _target(self, seq: int, kind: str, target: str) -> tuple[int | None, int | None]:
        """Return the number of a target, None if it is not there any more, and its end; seal a stage."""
        if kind == "all":
            return self.flow.body, self.flow.body_ended
        if kind == "stage":
            stage = self._stages[target]
            if stage.seal is None:
                stage.seal, stage.sealed_now = 4 * seq - 1, True
            return stage.n, stage.ended
        if target in self._numbers:
            return self._numbers[target], None
        known = self._known.get(target)
        if known is None:
            return None, Phase.GONE if self._ended_early(target) else Phase.DONE
        if known.phase == Phase.LET:
            return None, Phase.GONE
        return known.seq, known.phase if known.phase in BAD else None


class _Waits:
    """What a new member waits for."""

    def __init__(self, seq: int) -> None:
        self.edges: list[tuple[int, int, int]] = []
        self.stuck = 0
        self.failed = False
        self.lost: int | None = None
        self._seq = seq

    def add(self, target: int | None, end: int | None, any_end: bool) -> None:
        if end is not None and (any_end or end == Phase.DONE):
            self.failed |= end in FAILED
        elif end is None or end in BAD:
            assert target is not None
            edge = (target, self._seq, int(any_end))
            if edge not in self.edges:
                self.edges.append(edge)
                self.stuck += end is not None
        elif self.lost is None:
            self.lost = end
