"""Convert messages and settlements to the scripts' arguments, and the scripts' answers to the core's types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from jobs_core import UniqueKey
from jobs_core.backend_kit import MAX_SECONDS
from jobs_core.backends.base import ENDS, Answer, Delivery, JobRecord, Outcome, Outgoing, Retention, Settlement, State
from jobs_core.backends.documents import Document
from jobs_core.backends.flows import After, FlowState, FlowStatus, Member, MemberStatus, When
from jobs_core.backends.letters import DeadGroup, Fingerprint
from jobs_core.backends.limits import Limit, LimitState, Lines
from jobs_core.backends.notes import NONE, Note, Notes
from jobs_core.backends.statistics import StatisticsRow

_MICRO = 1_000_000
_DONE = Outcome.DONE
_ANSWERS = {ord("s"): Answer.SETTLED, ord("a"): Answer.ALREADY}
_PLAIN = (0, 0, 0, 0)
_KINDS: dict[str, Literal["job", "stage", "all"]] = {"j": "job", "s": "stage", "a": "all"}
_WHENS: dict[str, When] = {"d": "done", "e": "ended", "f": "failed"}


def micro(seconds: float) -> int:
    """Convert seconds to microseconds, limited to those of 31 years."""
    return round(min(MAX_SECONDS, seconds) * _MICRO)


# -- arguments ---------------------------------------------------------------------------------------

_heads: dict[tuple[int, str], bytes] = {}
_FEW = 10_000  # the number of record heads that are cached


def plain(messages: Sequence[Outgoing]) -> list[Any] | None:
    """Return the arguments of push_plain.lua from the fourth on; None if it cannot store these messages."""
    first = messages[0]
    topic, priority = first.topic, first.priority
    group: list[Any] = [topic, priority, 0]
    groups = {(topic, priority): group}
    for one in messages:
        if one.unique is not None or one.delay > 0 or one.chosen or one.limits or one.key or one.member is not None:
            return None
        if one.topic != topic or one.priority != priority:
            topic, priority = one.topic, one.priority
            group = groups.setdefault((topic, priority), [topic, priority, 0])
        group += (one.id, one.payload)
    ids: set[str] = set()
    for group in groups.values():
        ids.update(group[3::2])
        group[2] = len(group) // 2 - 1
    if len(ids) < len(messages):
        return None
    return group if len(groups) == 1 else [value for group in groups.values() for value in group]


def message(arguments: list[Any], outgoing: Outgoing, *, loosely: bool = False) -> None:
    """Append the four values of a message: see add in scripts/queue.lua."""
    unique = outgoing.unique
    if outgoing.limits or outgoing.key or outgoing.member is not None:
        _lined_message(arguments, outgoing, unique, loosely)
        return
    if unique is None:
        extra: bytes | str = b"" if outgoing.delay <= 0 and not outgoing.chosen else _extra(outgoing, 0, 0)
        arguments += (outgoing.id, outgoing.topic, _record(outgoing), extra)
        return
    topic, key = outgoing.topic.encode(), unique.key.encode()
    scope = "t" if isinstance(unique.scope, float | int) else unique.scope[0]
    record = f"{outgoing.priority} {len(topic)} {len(key)} {scope}|".encode() + topic + key + outgoing.payload
    extra = _extra(outgoing, int(unique.conflict == "replace"), held_for(unique)) + "?" * loosely
    arguments += (outgoing.id, outgoing.topic, record, extra)


def _lined_message(arguments: list[Any], outgoing: Outgoing, unique: UniqueKey | None, loosely: bool) -> None:
    """Append the four values of a message with a key, limits or a place in a flow, whose record names them."""
    topic, key = outgoing.topic.encode(), unique.key.encode() if unique else b""
    scope = "n" if unique is None else "t" if isinstance(unique.scope, float | int) else unique.scope[0]
    member = outgoing.member
    if member is None:
        lined = msgspec.msgpack.encode([outgoing.key, *outgoing.limits])
    else:
        lined, scope = _member(outgoing, member), scope.upper()
    head = f"{outgoing.priority} {len(topic)} {len(key)} {scope} {len(lined)}|".encode()
    replaces = int(unique is not None and unique.conflict == "replace")
    extra = _extra(outgoing, replaces, held_for(unique) if unique else 0) + "?" * loosely
    arguments += (outgoing.id, outgoing.topic, head + topic + key + lined + outgoing.payload, extra)


def _member(outgoing: Outgoing, member: Member) -> bytes:
    """Return what the record of a member of a flow says besides: see parse in scripts/common.lua."""
    stage = False if member.stage is None else member.stage
    after = [(each.target, each.kind[0], each.ended) for each in member.after]
    place = msgspec.msgpack.encode((stage, after, member.when[0], member.inputs, member.label))
    facts = msgspec.msgpack.encode((outgoing.key, *outgoing.limits, ">"))
    head = msgspec.msgpack.encode((member.flow, micro(max(0.0, outgoing.delay))))
    return b"".join((facts, head, place, _length(facts), _length(head)))


def _length(part: bytes) -> bytes:
    return b"\xce" + len(part).to_bytes(4, "big")


def _member_facts(lined: bytes) -> tuple[list[str], Member]:
    """Return key and limits of a member of a flow, and its place."""
    facts, head = int.from_bytes(lined[-9:-5], "big"), int.from_bytes(lined[-4:], "big")
    flow, _ = msgspec.msgpack.decode(lined[facts : facts + head])
    return _lined.decode(lined[:facts])[:-1], place(flow, lined[facts + head :])


def place(flow: str, packed: bytes) -> Member:
    """Return the place of a member of a flow from its record."""
    stage, after, when, inputs, label = msgspec.msgpack.decode(packed[:-10])
    targets = tuple(After(target, _KINDS[kind], ended) for target, kind, ended in after)
    return Member(flow, None if stage is False else stage, targets, _WHENS[when], tuple(inputs), label)


def _extra(outgoing: Outgoing, replaces: int, timed: int) -> str:
    return f"{micro(max(0.0, outgoing.delay))} {replaces} {timed} {int(outgoing.chosen)}"


def held_for(unique: UniqueKey) -> int:
    """Return for how many microseconds a key is held, successors in a chain of replacements included; 0: as long as its job."""
    lasts = unique.bound if isinstance(unique.scope, str) else float(unique.scope)
    return 0 if lasts is None else micro(lasts)


def _record(outgoing: Outgoing) -> bytes:
    """Return the record of a message without a unique key, except for its time."""
    priority, topic = outgoing.priority, outgoing.topic
    return (_heads.get((priority, topic)) or _head(priority, topic)) + outgoing.payload


def _head(priority: int, topic: str) -> bytes:
    name = topic.encode()
    if len(_heads) > _FEW:
        _heads.clear()
    head = _heads[priority, topic] = f"{priority} {len(name)} 0 n|".encode() + name
    return head


def settlements(batch: Sequence[Settlement], retention: Callable[[str], Retention]) -> tuple[list[Any], list[int]]:
    """Return the arguments of settle.lua from the fifth on, and the order of its answers."""
    groups: dict[str, tuple[list[str], list[str], list[int]]] = {}
    others: list[Any] = []
    order: list[int] = []
    for n, settlement in enumerate(batch):
        token = str(settlement.token)
        topic = token.split(":", 2)[-1]  # and, after a line break, the limits that the reservation counts
        if (
            settlement.outcome is _DONE
            and settlement.result is None
            and not settlement.followups
            and not settlement.timeline
            and not settlement.close_limits
            and settlement.ran
        ):
            group = groups.get(topic)
            if group is None:
                group = groups[topic] = [], [], []
            group[0].append(settlement.id)
            group[1].append(token)
            group[2].append(n)
        else:
            others += _settlement(settlement, token, topic.partition("\n")[0], retention)
            order.append(n)
    arguments: list[Any] = [len(groups)]
    answered: list[int] = []
    for topic, (ids, tokens, places) in groups.items():
        arguments += (topic, len(ids), *ids, *tokens)
        answered += places
    arguments.append(len(order))
    arguments += others
    return arguments, answered + order


def _settlement(settlement: Settlement, token: str, topic: str, retention: Callable[[str], Retention]) -> list[Any]:
    outcome = settlement.outcome
    values: list[Any] = [
        settlement.id,
        token,
        topic,
        outcome.value,
        micro(max(0.0, settlement.after)),
        int(settlement.counts),
        settlement.reason or outcome.value,
        settlement.error,
        int(settlement.result is not None),
        settlement.result or b"",
        micro(max(0.0, settlement.result_ttl)),
        _dead_max(settlement, topic, retention),
        int(settlement.cursor is not None),
        settlement.cursor or b"",
        _concerns(settlement),
        retention(topic).done_max if _is_kept(settlement) else b"",
    ]
    if outcome is Outcome.CANCELLED or (outcome is _DONE and not _is_kept(settlement)):
        values.append(0)  # what it tells would be deleted in the same step
    elif settlement.notes is None and not settlement.timeline:
        values.append(0)
    else:
        tells: list[Any] = [settlement.timeline]
        note(tells, settlement.notes or Note(settlement.id, settlement.token))
        values += (len(tells), *tells)
    values.append(len(settlement.followups) if outcome in ENDS else 0)
    if outcome in ENDS:
        for followup in settlement.followups:
            message(values, followup)
    return values


def _is_kept(settlement: Settlement) -> bool:
    """Return whether the job itself is kept: see scripts/done.lua."""
    return settlement.outcome is _DONE and bool(settlement.timeline) and settlement.result_ttl > 0


def note(values: list[Any], told: Note) -> None:
    """Append what a job tells: see told_by in scripts/telling.lua."""
    values += (int(told.progress is not None), told.progress or b"", told.first, len(told.lines), *told.lines)


def _dead_max(settlement: Settlement, topic: str, retention: Callable[[str], Retention]) -> int:
    """Return how many dead letters are kept in the topic of a job that dies, or may die because it cannot join a flow."""
    if settlement.outcome in (Outcome.DEAD, Outcome.EXPIRED):
        return retention(topic).dead_max
    return max((retention(one.topic).dead_max for one in settlement.followups if one.member is not None), default=0)


def _concerns(settlement: Settlement) -> bytes:
    """Return what a settlement says about limits, and what its job died of, as settle.lua unpacks it; empty for most."""
    of = settlement.fingerprint
    if settlement.ran and settlement.limits is None and not settlement.close_limits and of is None:
        return b""
    limits = False if settlement.limits is None else settlement.limits
    closes = [value for limit, seconds in settlement.close_limits for value in (limit, micro(max(0.0, seconds)))]
    return msgspec.msgpack.encode([settlement.ran, limits, closes, *([] if of is None else [fingerprint(of)])])


def fingerprint(of: Fingerprint) -> list[str]:
    """Return a fingerprint as the scripts unpack it."""
    return [of.id, of.kind, of.place, of.message]


def dead_groups(found: Sequence[Any]) -> list[DeadGroup]:
    """Convert the answer of dead_groups.lua."""
    return [
        DeadGroup(topic.decode(), _fingerprint(cause), letters, int(first) / _MICRO, int(last) / _MICRO, newest.decode())
        for topic, cause, letters, first, last, newest in zip(*(found[n::6] for n in range(6)), strict=True)
    ]


def _fingerprint(packed: bytes) -> Fingerprint:
    return Fingerprint(*msgspec.msgpack.decode(packed, type=list[str]))


def answers(letters: bytes, order: Sequence[int]) -> list[Answer]:
    """Return the script's answers in the order of the settlements."""
    found = [Answer.STALE] * len(order)
    for letter, n in zip(letters, order, strict=True):
        found[n] = _ANSWERS.get(letter, Answer.STALE)
    return found


# -- answers -----------------------------------------------------------------------------------------

_FlowState = tuple[str, FlowState, str, int, tuple[int, int, int, int, int], float, float]
_MemberState = tuple[str, str, str, str, bool, bool, str]
_shapes: dict[bytes, tuple[int, int, int, int, bool]] = {}
_lined = msgspec.msgpack.Decoder(list[str])


def _unpacked(record: bytes) -> tuple[float, int, str, bytes, bytes, bool]:
    """Return time of the push, priority, topic, payload, packed key and limits, and whether it is a member of a flow.

    Raises ValueError for a record that another program wrote.
    """
    head, _, rest = record.partition(b"|")
    pushed, _, shape = head.partition(b" ")
    known = _shapes.get(shape)
    if known is None:
        priority, topic_length, key_length, scope, *lined = shape.split(b" ")
        if len(_shapes) > _FEW:
            _shapes.clear()
        start = int(topic_length) + int(key_length)
        end = start + (int(lined[0]) if lined else 0)
        known = _shapes[shape] = int(priority), int(topic_length), end, start, scope.isupper()
    return int(pushed) / _MICRO, known[0], rest[: known[1]].decode(), rest[known[2] :], rest[known[3] : known[2]], known[4]


def deliveries(found: Sequence[Any], strays: list[Settlement] | None = None) -> list[Delivery]:
    """Convert the answer of reserve.lua, from its third value on; the first is the broker's time.

    `strays` gets the settlements that return jobs with limits, and members of flows, to their own lines from the plain one,
    where a housekeeper of the previous release has put them.
    """
    now = int(found[0]) / _MICRO
    made = []
    for n in range(2, len(found), 4):
        attempt, redeliveries, crashes, deferrals, *cursor = found[n + 3] or _PLAIN
        token = found[n + 1].decode()
        try:
            pushed, _, topic, payload, lined, is_member = _unpacked(found[n + 2])
        except ValueError:  # passed on: its worker will find that it is not a message, and dead-letter it
            pushed, topic, payload, lined, is_member = now, token.split(":", 2)[-1], found[n + 2], b"", False
        delivery = Delivery(found[n].decode(), topic, payload, token, attempt, redeliveries, crashes, deferrals, pushed, now)
        if cursor:
            delivery = replace(delivery, cursor=cursor[0])
        if lined and is_member:
            (key, *limits), member = _member_facts(lined)
            taken = cursor[1] if len(cursor) > 1 else ()
            inputs = tuple((job_id.decode(), bytes(result)) for job_id, result in zip(taken[::2], taken[1::2], strict=True))
            delivery = replace(delivery, key=key, limits=tuple(limits), flow=member.flow, inputs=inputs)
        elif lined:
            key, *limits = _lined.decode(lined)
            delivery = replace(delivery, key=key, limits=tuple(limits))
            if (limits or is_member) and strays is not None and "\n" not in token:
                strays.append(Settlement(delivery.id, token, Outcome.RELEASE, ran=False))
                continue
        made.append(delivery)
    return made


def document(kind: str, found: list[Any], now: int) -> Document:
    """Convert the answer of documents.lua about one document."""
    name, version, changed, ends, data = found
    expires_in = (int(ends) - now) / _MICRO if int(ends) else None
    return Document(kind, name.decode(), data, int(version), int(changed) / _MICRO, expires_in)


def statistics_arguments(row: StatisticsRow) -> tuple[Any, ...]:
    """Return the arguments of add_statistics.lua for one row."""
    return row.span, row.at, row.topic, row.job, _numbers(row.sums), _numbers(row.peaks)


def _numbers(numbers: Sequence[int]) -> str:
    return ",".join(str(number) if number else "" for number in numbers)


def statistics_row(found: bytes, span: int) -> StatisticsRow:
    """Convert a row as statistics.lua keeps it."""
    at, topic, job, numbers = found.decode().split("\n")
    sums, _, peaks = numbers.partition("|")
    return StatisticsRow(int(at), topic, job, _parsed(sums), _parsed(peaks), span)


def _parsed(numbers: str) -> tuple[int, ...]:
    return tuple(int(number or 0) for number in numbers.split(",")) if numbers else ()


def job_record(found: Sequence[Any], now: bytes) -> JobRecord | None:
    """Convert the answer of describe.lua; return None for an empty one."""
    if not found:
        return None
    broker_now = int(now) / _MICRO
    state, job_id = State(found[0].decode()), found[1].decode()
    if state not in (State.DONE, State.CANCELLED):
        return _described(state, job_id, found[2:], broker_now)
    topic, at, has_result, result, reason, *kept = found[2:]
    kept_result = bytes(result) if has_result else None
    if kept:
        record, cursor, told, history = kept
        whole = _described(state, job_id, (record, at, b"", b"", 0, cursor, b"", told, *history), broker_now)
        return replace(whole, result=kept_result)
    since, why = int(at) / _MICRO, reason.decode()
    return JobRecord(job_id, topic.decode(), state, since=since, reason=why, result=kept_result, broker_now=broker_now)


def _described(state: State, job_id: str, found: Sequence[Any], broker_now: float) -> JobRecord:
    """Convert a description from its third value on; see describe in scripts/describe.lua."""
    record, since, due, owner, cancel, cursor, limit, told, *history = found
    attempt, redeliveries, crashes, deferrals, reason, *errors = history
    progress, lines, runs = told or (b"", (), ())
    try:
        pushed_at, priority, topic, payload, lined, is_member = _unpacked(record)
    except ValueError:
        pushed_at, priority, topic, payload, lined, is_member = 0.0, 0, "", record, b"", False
    member: Member | None = None
    if is_member:
        (key, *limits), member = _member_facts(lined)
    else:
        key, *limits = _lined.decode(lined) if lined else ("",)
    return JobRecord(
        id=job_id,
        topic=topic,
        state=state,
        payload=payload,
        priority=priority,
        attempt=attempt,
        redeliveries=redeliveries,
        crashes=crashes,
        deferrals=deferrals,
        pushed_at=pushed_at,
        due=int(due) / _MICRO if due else None,
        owner=owner.decode() or None,
        since=int(since) / _MICRO if since else None,
        cancel_requested=bool(cancel),
        reason=reason.decode() if state is State.DEAD else "",
        errors=tuple(errors),
        broker_now=broker_now,
        cursor=cursor,
        key=key,
        limits=tuple(limits),
        blocked_by=limit.decode() if state is State.LIMITED else "",
        member=member,
        waiting_for=tuple(msgspec.msgpack.decode(limit, type=list[str])) if state is State.WAITING else (),
        notes=Notes(progress, tuple(lines)) if progress or lines else NONE,
        timeline=tuple(runs),
    )


def flow_status(packed: bytes, now: bytes) -> FlowStatus:
    """Convert one state in the answer of flow_state.lua."""
    flow_id, state, name, total, counts, created, ended = msgspec.msgpack.decode(packed, type=_FlowState)
    waiting, active, done, dead, cancelled = counts
    times = created / _MICRO, ended / _MICRO if ended else None, int(now) / _MICRO
    return FlowStatus(flow_id, state, name, total, waiting, active, done, dead, cancelled, *times)


def member_status(flow_id: str, packed: bytes, packed_place: bytes) -> MemberStatus:
    """Convert one member in the answer of flow_members.lua."""
    job_id, state, topic, stage, finale, stuck, reason = msgspec.msgpack.decode(packed, type=_MemberState)
    member = place(flow_id, packed_place)
    return MemberStatus(job_id, state, member.label, topic, stage, finale, member.after, member.when, stuck, reason)


def rule(definition: Limit | None) -> str:
    """Return the definition of a limit for the scripts; empty for none."""
    if definition is None:
        return ""
    concurrency = "-" if definition.concurrency is None else definition.concurrency
    interval = "-" if definition.interval is None else repr(definition.interval * _MICRO)
    return f"{concurrency} {interval} {definition.burst}"


def rules(lines: Lines) -> str:
    """Return the rules of a topic for the scripts."""
    if not lines.fair:
        return ""
    return "fair" if lines.max_per_key is None else str(lines.max_per_key)


def limit_state(found: Sequence[Any]) -> LimitState:
    """Convert one state in the answer of limits.lua."""
    limit, used, waiting, text, overridden, opens, closed = found
    definition = None
    if text:
        concurrency, interval, burst = text.decode().split()
        definition = Limit(
            None if concurrency == "-" else int(concurrency),
            None if interval == "-" else float(interval) / _MICRO,
            int(burst),
        )
    opens_in = None if opens < 0 else opens / _MICRO
    return LimitState(limit.decode(), used, waiting, definition, bool(overridden), opens_in, closed / _MICRO)
