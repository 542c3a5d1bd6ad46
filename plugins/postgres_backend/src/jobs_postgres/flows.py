"""The calls about flows; sql/flows.sql has what follows from the ends of members."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from jobs_core.backend_kit import new_token
from jobs_core.backends.base import Backend, BackendOptions, Delivery, Outgoing, State
from jobs_core.backends.flow_plan import Planned
from jobs_core.backends.flows import (
    MOST_LISTED,
    SLICE,
    After,
    FlowStatus,
    Member,
    MemberStatus,
    Part,
    held_key,
    refusal,
)
from jobs_core.errors import BackendError, FlowLost

from .connection import ServerConnection
from .joining import Joining, KnownMember, ids_of, labels_of
from .listener import CANCEL, LONGEST_SLEEP, Listener, channel_of
from .polling import look_until
from .rows import facts

WAITING_FOR = 10
"""Most targets that a record names of those for which a member still waits."""

T = TypeVar("T")

_STATE = """
CASE WHEN cancelled > 0 THEN 'cancelled' WHEN open_until IS NOT NULL THEN 'open' WHEN dead > 0 THEN 'failed'
     WHEN ended_at IS NOT NULL THEN 'done' ELSE 'running' END
"""
_STATUS = f"""
SELECT id, {_STATE} AS state, name, total, waiting + stuck, active, done, dead, gone, created_at, ended_at, {{s}}.now_()
  FROM {{s}}.flow
"""
_RANK = "CASE state WHEN 'failed' THEN 0 WHEN 'open' THEN 1 WHEN 'running' THEN 1 ELSE 2 END"
_AT_REST = """
SELECT open_until IS NULL AND waiting + active = 0 AND NOT EXISTS (SELECT FROM {s}.flow_work AS w WHERE w.flow = flow.n)
  FROM {s}.flow WHERE id = %s
"""
_MEMBERS = """
SELECT m.id, m.topic, coalesce(g.label, ''), m.finale, m.phase, m.place, m.reason,
       CASE WHEN m.phase = 2 THEN
            CASE WHEN EXISTS (SELECT FROM {s}.reserved AS r WHERE r.seq = m.seq) THEN 'reserved'
                 WHEN EXISTS (SELECT FROM {s}.scheduled AS p WHERE p.seq = m.seq AND p.due > {s}.now_()) THEN 'scheduled'
                 WHEN EXISTS (SELECT FROM {s}.lined AS l JOIN {s}.line AS i ON i.id = l.line
                               WHERE l.seq = m.seq AND i.filed_under IS NOT NULL) THEN 'limited'
                 ELSE 'ready' END END
  FROM {s}.flow AS f JOIN {s}.flow_member AS m ON m.flow = f.n LEFT JOIN {s}.flow_group AS g ON g.n = m.stage
 WHERE f.id = %(flow)s
"""
_ALL_MEMBERS = _MEMBERS + f"   AND (f.total <= {MOST_LISTED} OR m.phase IN (0, 1, 2, 4))"
_DEAD_MEMBERS = _MEMBERS + "   AND m.phase = 4"
_PAGE = " ORDER BY m.seq LIMIT %(most)s OFFSET %(offset)s"
_STATES = {
    0: State.WAITING,
    1: State.WAITING,
    3: State.DONE,
    4: State.DEAD,
    5: State.CANCELLED,
    6: State.CANCELLED,
    7: State.DEAD,
}
_STUCK = 1
_RESULTS = """
SELECT r.id, r.result FROM (
       SELECT i.id, i.n, r.result, sum(length(r.result)) OVER (ORDER BY i.n) AS size,
              row_number() OVER (ORDER BY i.n) = 1 AS first
         FROM {s}.flow AS f CROSS JOIN unnest(%s::text[]) WITH ORDINALITY AS i (id, n)
         JOIN {s}.flow_result AS r ON r.flow = f.n AND r.id = i.id
        WHERE f.id = %s AND r.result IS NOT NULL) AS r
 WHERE size <= %s OR first ORDER BY n
"""
_PLACE = """
SELECT m.seq, f.n, f.id, m.place, m.inputs, m.phase, f.open_until IS NOT NULL,
       (SELECT b.ended FROM {s}.flow_group AS b WHERE b.n = f.body)
  FROM {s}.flow_member AS m JOIN {s}.flow AS f ON f.n = m.flow WHERE m.seq = ANY (%s)
"""
_OPEN_TARGETS = """
SELECT 'job', j.id, m.phase FROM {s}.job AS j JOIN {s}.flow_member AS m ON m.seq = j.seq
 WHERE j.id = ANY (%(jobs)s) AND m.flow = %(flow)s AND m.phase IN (0, 1, 2, 4)
UNION ALL
SELECT 'stage', label, ended FROM {s}.flow_group
 WHERE flow = %(flow)s AND label = ANY (%(stages)s) AND coalesce(ended, 0) NOT IN (3, 5, 6)
"""
_KNOWN = """
SELECT EXISTS (SELECT FROM {s}.job WHERE id = %s) OR %s AND EXISTS (SELECT FROM {s}.ended WHERE id = %s AND until > {s}.now_())
"""
_BY = """
SELECT m.id, m.seq, m.phase, m.finale, coalesce(g.label, ''), coalesce(m.seal, 4 * m.seq), m.flow, f.id
  FROM {s}.flow_member AS m JOIN {s}.flow AS f ON f.n = m.flow LEFT JOIN {s}.flow_group AS g ON g.n = m.stage WHERE m.seq = %s
"""


def part_rows(part: Part, messages: Sequence[Outgoing], begun: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the parameters of `end_part`, but for the last, from what `begin_part` returned. Raises FlowLost, BackendError."""
    if "lost" in begun:
        raise FlowLost.of(part.flow, begun["lost"])
    if "parts" in begun:
        raise BackendError(f"part {part.number} of flow {part.flow} came before part {begun['parts']}: push them in order")
    for message in messages:
        if message.member is None or message.member.flow != part.flow:
            raise BackendError(f"{message.id} is in a part of flow {part.flow}, but is not a member of it")
    joining = Joining(part.flow, messages, begun)
    new = joining.rows(joining.plan())
    about = {
        "id": part.flow, "name": part.name, "ttl": part.ttl, "open_for": part.open_for, "number": part.number,
        "last": part.last,
    }  # fmt: skip
    keyed, *_ = facts([message for message in messages if message.unique], members=True)
    return joining.flow.n, joining.new, json.dumps(about), keyed, *new


class PostgresFlowCalls(Backend):
    """The calls about flows, a base class of `PostgresBackend`."""

    _connection: ServerConnection
    _options: BackendOptions

    # -- parts -------------------------------------------------------------------------------------

    def push_part(self, part: Part, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        woken: list[str] = []

        def push() -> Mapping[str, str]:
            woken.clear()
            return self._push_part(part, messages, request, woken)

        answer = self._connection.transaction(push)
        self._wake(woken)
        return answer

    def _push_part(self, part: Part, messages: Sequence[Outgoing], request: str, woken: list[str]) -> Mapping[str, str]:
        rows, *_ = facts(messages, members=True)
        begun = self._connection.function(
            "begin_part", request, part.flow, part.number, rows, ids_of(messages), labels_of(messages)
        )
        if "answer" in begun:
            answer: Mapping[str, str] = begun["answer"]
            return answer
        stored = part_rows(part, messages, begun)
        woken += self._connection.function("end_part", *stored, self._options.cancelled_ttl)
        return {}

    # -- what running members add ------------------------------------------------------------------

    def _join(self, message: Outgoing, by: int, woken: list[str]) -> None:
        """Add a job that a member adds at its end; make it a dead letter if it cannot be in that flow.

        The settlement of the member stands whatever it adds, so an error would be seen by nobody.
        """
        place = message.member
        assert place is not None
        if self._connection.value(self._connection.sql(_KNOWN), (message.id, message.chosen, message.id)):
            return
        found = self._connection.rows(self._connection.sql(_BY), (by,))
        if not found or found[0][-1] != place.flow:
            reason = f"it was added to flow {place.flow} by a job that is not a member of it"
            alone = replace(message, unique=None, member=None)
            self._connection.function(
                "add_stranger", *facts([alone])[:2], reason, self._options.retention(message.topic).dead_max
            )
            return
        *adder, flow, _ = found[0]
        known_adder = KnownMember(*adder)
        labels = labels_of([message], known_adder.stage)
        about = self._connection.function("place_facts", flow, ids_of([message]), labels, 1)
        ttl = self._options.cancelled_ttl
        joining = Joining(place.flow, [message], about, known_adder)
        try:
            planned = joining.plan()
            holder = self._connection.function("take_key", json.dumps(json.loads(facts([message], members=True)[0])[0]), ttl)
            if holder:
                raise refusal(message.id, place.flow, held_key(holder))
        except BackendError as error:
            if error.__cause__ is not None:  # of the server
                raise
            alone = replace(message, unique=None)
            joining = Joining(place.flow, [alone], about, known_adder)
            new = joining.rows([Planned(message.id, Member(place.flow, label=place.label), "", known_adder.finale)])
            self._connection.function("add_members", flow, *new[:-1], [], ttl)
            dead_max = self._options.retention(message.topic).dead_max
            self._connection.function("refuse_member", about["seqs"][0], str(error), dead_max)
            return
        woken += self._connection.function("add_members", flow, *joining.rows(planned), ttl)
        if joining.flow.cancelled == 1 or (joining.flow.cancelled and not known_adder.finale):
            self._connection.function("bar_member", about["seqs"][0], ttl)

    # -- deliveries --------------------------------------------------------------------------------

    def _with_flows(self, deliveries: dict[int, Delivery], request: str, owner: str) -> None:
        """Add their flows and inputs to the deliveries of members, by number; remove those that must not start."""
        members = [seq for seq in deliveries if seq < 0]
        statement = self._connection.call("deliver_members", 2)
        barred = []
        for seq, flow, is_barred, ids, results in self._connection.rows(statement, (members, self._options.max_message)):
            if is_barred:
                barred.append(seq)
                del deliveries[seq]
            else:
                inputs = tuple(zip(ids or (), results or (), strict=True))
                deliveries[seq] = replace(deliveries[seq], flow=flow, inputs=inputs)
        if barred:
            self._wake(self._connection.function("drop_barred", owner, request, barred, self._options.cancelled_ttl))
            self._connection.function("tidy_lines")

    def _carry_on(self) -> None:
        """Take a step of what follows in flows, if an earlier one has left something."""
        self._wake(self._connection.function("carry_on", SLICE, self._options.cancelled_ttl))
        self._connection.function("tidy_lines")

    # -- operators ---------------------------------------------------------------------------------

    def cancel_flow(self, flow_id: str, *, finale: bool = False) -> bool:
        owners = self._connection.function("cancel_flow", flow_id, finale)
        if owners is None:
            return False
        self._call(owners)
        self._wake(self._connection.function("proceed_flow", flow_id, SLICE, self._options.cancelled_ttl))
        self._connection.function("tidy_lines")
        return True

    def _call(self, owners: Sequence[str]) -> None:
        """Tell owners that a job of theirs is to be cancelled."""
        for owner in owners:
            channel = channel_of(self._connection.target.schema, owner)
            self._connection.rows("SELECT pg_notify(%s, %s)", (channel, CANCEL.decode()))

    def retry_flow(self, flow_id: str) -> int:
        statement = self._connection.call("retry_flow", 3)
        ((count, woken),) = self._connection.rows(statement, (flow_id, SLICE, self._options.cancelled_ttl))
        self._wake(woken)
        return int(count)

    def _of_members(self, name: str, *parameters: Any) -> int:
        """Call a function about members of flows; return how many it was about."""
        statement = self._connection.call(name, len(parameters) + 1)
        ((count, woken),) = self._connection.rows(statement, (*parameters, self._options.cancelled_ttl))
        self._wake(woken)
        return int(count)

    # -- views -------------------------------------------------------------------------------------

    def flow(self, flow_id: str) -> FlowStatus | None:
        rows = self._connection.rows(self._connection.sql(_STATUS + " WHERE id = %s"), (flow_id,))
        return FlowStatus(*rows[0]) if rows else None

    def flows(self, most: int, offset: int = 0) -> list[FlowStatus]:
        statement = f"SELECT * FROM ({_STATUS}) AS f ORDER BY {_RANK}, created_at DESC LIMIT %s OFFSET %s"
        return [FlowStatus(*row) for row in self._connection.rows(self._connection.sql(statement), (most, offset))]

    def flow_members(self, flow_id: str, most: int, offset: int = 0, *, dead: bool = False) -> list[MemberStatus]:
        statement = self._connection.sql((_DEAD_MEMBERS if dead else _ALL_MEMBERS) + _PAGE)
        facts = {"flow": flow_id, "most": min(most, MOST_LISTED), "offset": offset}
        return [_member(row) for row in self._connection.rows(statement, facts)]

    def flow_results(self, flow_id: str, job_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        parameters = (list(job_ids), flow_id, self._options.max_message)
        rows = self._connection.rows(self._connection.sql(_RESULTS), parameters)
        return [(job_id, result) for job_id, result in rows]

    def wait_flow(self, flow_id: str, timeout: float) -> FlowStatus | None:
        def look() -> tuple[bool, FlowStatus | None]:
            rows = self._connection.rows(self._connection.sql(_AT_REST), (flow_id,))
            return (not rows or rows[0][0], self.flow(flow_id) if rows and rows[0][0] else None)

        return self._wait_for(flow_id, look, timeout)

    def _wait_for(self, awaited: str, look: Callable[[], tuple[bool, T | None]], timeout: float) -> T | None:
        """Look when a job or flow has ended, until there is an answer (True, answer); return None after `timeout` seconds."""
        found, answer = look()
        if found or timeout <= 0:
            return answer if found else None
        deadline = time.monotonic() + timeout
        if self._connection.target.pooling:
            return look_until(deadline, look)
        listener = Listener(self._connection.target, new_token())
        try:
            listener.connect()
            insert = "WITH new AS (INSERT INTO {s}.waiter VALUES (%s, %s, {s}.now_())) SELECT 1"
            self._connection.value(self._connection.sql(insert), (awaited, listener.channel))
            while True:
                found, answer = look()
                left = deadline - time.monotonic()
                if found or left <= 0:
                    return answer if found else None
                listener.sleep(min(left, LONGEST_SLEEP))
        finally:
            listener.close()
            if self._connection.connected:
                gone = "WITH gone AS (DELETE FROM {s}.waiter WHERE channel = %s) SELECT 1"
                self._connection.value(self._connection.sql(gone), (listener.channel,))

    def _places(self, seqs: Sequence[int]) -> dict[int, tuple[Member, tuple[str, ...], bool]]:
        """Return the places of members in their flows, what they still wait for, and whether they wait."""
        found = {}
        for seq, n, flow_id, place, inputs, phase, is_open, body_ended in self._connection.rows(
            self._connection.sql(_PLACE), (list(seqs),)
        ):
            stage, after, when, label = json.loads(place)
            member = Member(flow_id, stage, tuple(After(*each) for each in after), when, tuple(inputs or ()), label)
            waits = phase <= _STUCK
            found[seq] = (member, self._waiting_for(n, member, is_open, body_ended) if waits else (), waits)
        return found

    def _waiting_for(self, flow: int, place: Member, is_open: bool, body_ended: int | None) -> tuple[str, ...]:
        """Return some of the targets that a member still waits for, dead ones first."""
        if is_open:
            return ("the last part of the flow",)
        named = {"flow": flow} | {
            f"{kind}s": [after.target for after in place.after if after.kind == kind] for kind in ("job", "stage")
        }
        rows = self._connection.rows(self._connection.sql(_OPEN_TARGETS), named)
        ends: dict[tuple[str, str], int | None] = {(kind, target): end for kind, target, end in rows}
        if body_ended is None or body_ended in (1, 4):
            ends["all", "*"] = body_ended
        open_ = [after for after in place.after if (after.kind, after.target) in ends]
        open_.sort(key=lambda after: ends[after.kind, after.target] not in (1, 4))
        return tuple(after.target for after in open_)[:WAITING_FOR]

    def _wake(self, topics: Sequence[str]) -> None:
        """Wake a worker for each of these jobs, named by their topics."""
        if topics:
            names = sorted({*topics})
            self._connection.function("wake_after", names, [topics.count(name) for name in names])


def _member(row: Sequence[Any]) -> MemberStatus:
    job_id, topic, stage, finale, phase, place, reason, active = row
    _, after, when, label = json.loads(place)
    targets = tuple(After(*each) for each in after)
    state = active or _STATES[phase].value
    return MemberStatus(job_id, state, label, topic, stage, finale, targets, when, phase == _STUCK, reason or "")
