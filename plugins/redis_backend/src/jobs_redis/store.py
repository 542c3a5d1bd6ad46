"""One store: all keys under one base, and every operation on them, each as one script."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from jobs_core.backend_kit import Tally, new_id, new_token
from jobs_core.backends.base import (
    MOST_SEARCHED,
    Answer,
    BackendOptions,
    Checkpoint,
    Counts,
    Delivery,
    Heartbeat,
    Housekept,
    JobRecord,
    Outgoing,
    Settlement,
    State,
)
from jobs_core.backends.documents import MOST, PAGE, Document, Guard, too_many
from jobs_core.backends.flows import MOST_LISTED, SLICE, FlowStatus, MemberStatus, Part, misplaced
from jobs_core.backends.letters import DeadGroup, last_of, not_movable
from jobs_core.backends.limits import Limit, LimitState, Lines, key_limit, name_of
from jobs_core.backends.notes import Note
from jobs_core.backends.statistics import REMEMBERED, StatisticsRow
from jobs_core.errors import BackendError, BackendUnavailable, FlowLost, OwnerLost

from . import records, scripts
from .inlet import outgoing
from .keys import Keys
from .records import micro
from .scripts import Script, ScriptCall

logger = logging.getLogger("jobs.redis")

SCHEMA = 1
"""The schema version of a new store, which jobs without keys, limits and flows leave as it is."""
NEWEST_SCHEMA = 3
FORCED = b"\0force"
"""The same suffix as in `common.lua`."""
LARGEST_RESERVE = 1000
LARGEST_PUSH = 10_000
"""The largest number of messages that one script stores, which takes the server about 50 ms.

A larger push is split; each part is stored entirely or not at all.
"""
LARGEST_LINED_PUSH = 250
"""The same for messages with limits or keys, each of which may begin a line."""
INLET_BATCH = 500
INLET_BYTES = 4_000_000
"""The approximate number of bytes that are taken from an inlet at once."""
PURGED_AT_ONCE = 500
NAMED_AT_ONCE = 1000
MAX_TIME = 999_999_999_999
"""The latest unix time that has a place among the rows of statistics."""
FULL_KIND = -2
"""The answer of put_document.lua if the kind has as many documents as it may."""
RETRIED_AT_ONCE = 100


class Reserved(NamedTuple):
    """The jobs that one call reserved, and the state of the store that it saw."""

    deliveries: list[Delivery]
    due: float  # seconds until the next scheduled job, infinite if there is none; valid if the limit was not reached
    inlets: list[str]  # topics to which foreign producers have pushed
    passed_over: bool = False  # see `Backend.passed_over`


class Runner(Protocol):
    """Runs scripts and commands on the server of a store: a `ServerConnection`, or the `Nodes` of a cluster."""

    def run(self, script: Script, base: str, *arguments: Any) -> Any: ...

    def call(self, *command: Any) -> Any: ...


class Store:
    """All operations on one store. It keeps no state of an owner: calls pass the owner."""

    def __init__(self, base: str, runner: Runner, options: BackendOptions) -> None:
        self.keys = Keys(base)
        self.options = options
        self._runner = runner
        self._clock = options.clock
        self._retention: dict[str, int] = {}  # topic → microseconds for which its dead letters are kept
        self._lease = micro(options.lease)
        self._cancelled_ttl = micro(options.cancelled_ttl)
        self._window = max(1, round(options.dedup_window * 1000))
        self._bounds = f" {options.max_message}"
        self._tally = Tally()

    def now(self) -> int | str:
        """Return the time for a script; empty, which means the server's clock, except in tests."""
        # Not `micro`, whose limit is meant for durations.
        return round(self._clock() * 1e6) if self._clock else ""

    def _run(self, script: Script, *arguments: Any) -> Any:
        return self._runner.run(script, self.keys.base, self.now() if self._clock else "", *arguments)

    # -- owners ----------------------------------------------------------------------------------

    def open(self, owner: str) -> None:
        """Begin the lease of an owner (empty for a producer). Raises BackendError if a later release wrote the store."""
        schema = int(self._run(scripts.OPEN, owner, self._lease, SCHEMA, NEWEST_SCHEMA))
        if schema > NEWEST_SCHEMA:
            raise BackendError(
                f"the store {self.keys.base} has schema version {schema}, but this jobs-redis knows {NEWEST_SCHEMA}: upgrade "
                "jobs-redis"
            )

    def heartbeat(self, owner: str) -> Heartbeat:
        answer = self._run(scripts.HEARTBEAT, owner, self._lease)
        if answer == 0:
            raise OwnerLost.of(owner)
        cancelled = tuple(job_id.decode() for job_id in answer if not job_id.endswith(FORCED))
        return Heartbeat(
            cancelled=cancelled,
            forced=tuple(job_id[: -len(FORCED)].decode() for job_id in answer if job_id.endswith(FORCED)),
        )

    def release(self, owner: str, started: Collection[str], report: bytes, *, crash: bool, ran: Collection[str] = ()) -> int:
        arguments = (owner, self._cancelled_ttl, int(crash), report, len(started), *started, *ran)
        released, more = self._run(scripts.RELEASE, *arguments)
        while more:  # if this process dies meanwhile, housekeeping releases the others
            others, more = self._run(scripts.RELEASE, *arguments)
            released += others
        return int(released)

    # -- the path of a job ----------------------------------------------------------------------

    def push(self, messages: Sequence[Outgoing], request: str) -> dict[str, str]:
        most = LARGEST_PUSH
        if len(messages) > LARGEST_LINED_PUSH and any(message.limits or message.key or message.member for message in messages):
            _refuse_members(messages)
            most = LARGEST_LINED_PUSH
        if len(messages) <= most:
            return self._push(messages, request)
        conflicts: dict[str, str] = {}
        for first in range(0, len(messages), most):
            part = messages[first : first + most]
            with in_parts(first > 0):
                conflicts |= self._push(part, f"{request}/{first}" if first else request)
        return conflicts

    def push_part(self, part: Part, messages: Sequence[Outgoing], request: str) -> dict[str, str]:
        for message in messages:
            if message.member is None or message.member.flow != part.flow:
                raise BackendError(f"{message.id} is in a part of flow {part.flow}, but is not a member of it")
        arguments: list[Any] = [request, self._window, self._cancelled_ttl, len(messages)]
        arguments += (part.flow, part.number, int(part.last), part.name, micro(part.ttl), micro(part.open_for))
        for message in messages:
            records.message(arguments, message)
        kind, *answer = [text.decode() for text in self._run(scripts.PUSH_PART, *arguments)] or [""]
        if kind == "lost":
            raise FlowLost.of(part.flow, answer[0])
        if kind == "refused":
            raise BackendError(answer[0])
        return dict(zip(answer[::2], answer[1::2], strict=True))

    def _push(self, messages: Sequence[Outgoing], request: str) -> dict[str, str]:
        if len(messages) == 1:
            (one,) = messages
            if one.unique is None and one.delay <= 0 and not (one.chosen or one.limits or one.key or one.member):
                return self._push_one(one, request)
        plain = records.plain(messages)
        if plain is not None:
            answer = self._run(scripts.PUSH_PLAIN, request, self._window, *plain)
            return dict(_conflicts(answer)) if answer else {}
        _refuse_members(messages)
        arguments: list[Any] = [request, self._window, self._cancelled_ttl, len(messages), ""]
        for message in messages:
            records.message(arguments, message)
        return dict(_conflicts(self._run(scripts.PUSH, *arguments)))

    def _push_one(self, one: Outgoing, request: str) -> dict[str, str]:
        tally, now = self._tally, time.monotonic()
        kept = tally.kept.get(one.topic, 0) + 1
        counted: tuple[Any, ...] = ()
        adds = tally.left <= 1 or now >= tally.until
        if adds:
            counted = tuple(itertools.chain.from_iterable({**tally.kept, one.topic: kept}.items()))
        answer = self._run(scripts.PUSH_ONE, request, self._window, one.topic, one.priority, one.id, one.payload, *counted)
        tally.kept[one.topic] = kept  # only now: if the answer is lost, the same request comes again, and counts once
        tally.left -= 1
        if adds:
            tally.added(now)
        return dict(_conflicts(answer)) if answer else {}

    def count_pushed(self) -> None:
        """Count in the store what was pushed and not counted yet. Raises BackendUnavailable; then it is not counted."""
        kept = dict(self._tally.kept)
        self._tally.added(time.monotonic())
        for topic, number in kept.items():
            self._runner.call("HINCRBY", self.keys.pushed, topic, number)

    def push_loosely(self, messages: Sequence[Outgoing], request: str) -> dict[str, str]:
        conflicts: dict[str, str] = {}
        for first in range(0, len(messages), LARGEST_PUSH):
            part = messages[first : first + LARGEST_PUSH]
            own = f"{request}/{first}" if first else request
            arguments: list[Any] = [own, self._window, self._cancelled_ttl, len(part), ""]
            for message in part:
                records.message(arguments, message, loosely=True)
            with in_parts(first > 0):
                conflicts |= _conflicts(self._run(scripts.PUSH, *arguments))
        return conflicts

    def bind(self, messages: Sequence[Outgoing]) -> dict[str, str]:
        arguments: list[Any] = []
        for message in messages:
            assert message.unique is not None
            arguments += (message.id, message.unique.key, records.held_for(message.unique))
        answer = [text.decode() for text in self._run(scripts.BIND, *arguments)]
        return dict(zip(answer[::2], answer[1::2], strict=True))

    def admit(self, topic: str, request: str) -> int:
        """Move the next entries of a topic's inlet to its ready jobs, in one step; return how many.

        An entry that exceeds the size limit of a message moves to the dead letters without passing through this process.
        """
        found = self._run(scripts.PEEK, topic, INLET_BATCH, self.options.largest_payload, INLET_BYTES)
        if isinstance(found, int):
            return self._bury(topic, found)
        payloads: list[bytes] = found
        if not payloads:
            return 0
        arguments: list[Any] = [request, self._window, self._cancelled_ttl, len(payloads), topic]
        for payload in payloads:
            records.message(arguments, outgoing(topic, payload, self.options.verify))
        answer = self._run(scripts.PUSH, *arguments, *payloads)
        return 0 if answer is None else len(payloads)

    def _bury(self, topic: str, length: int) -> int:
        """Move the first entry of an inlet, of which only the length is known, to the dead letters; return 1.

        Return 0 if the inlet has changed meanwhile.
        """
        reason = "bad message"
        text = f"an entry of the inlet is {length:,} bytes, max_message is {self.options.max_message:,}"
        error = msgspec.json.encode({"at": self.options.now(), "attempt": 0, "type": reason, "message": text, "traceback": ""})
        job_id, most = new_id(), self.options.retention(topic).dead_max
        buried = int(self._run(scripts.REJECT, topic, length, job_id, reason, error, most))
        if buried:
            logger.error("job %s of topic %s goes to the dead letters (%s): %s", job_id, topic, reason, text)
        return buried

    def purge_inlet(self, topic: str) -> int:
        return int(self._run(scripts.EMPTY, topic))

    def reserve(self, owner: str, topics: Sequence[str], limit: int, request: str, startable: int | None = None) -> Reserved:
        """Reserve jobs. Raises OwnerLost."""
        call = self.reserving(owner, topics, limit, request, startable)
        return self.reserved(owner, self._runner.run(*call))

    def reserving(
        self, owner: str, topics: Sequence[str], limit: int, request: str, startable: int | None = None
    ) -> ScriptCall:
        """Return the script call that reserves jobs; `reserved` reads its answer."""
        bounds = self._bounds if startable is None else f"{startable}{self._bounds}"
        arguments = (owner, request, self._lease, min(limit, LARGEST_RESERVE), bounds, *topics)
        return scripts.RESERVE, self.keys.base, self.now(), *arguments

    def reserved(self, owner: str, found: Any) -> Reserved:
        """Return the reserved jobs from the script's answer. Raises OwnerLost."""
        if not found:
            raise OwnerLost.of(owner)
        due, *inlets = found[1]
        passed_over = bool(inlets) and inlets[-1] == -1
        if passed_over:
            inlets.pop()
        strays: list[Settlement] = []
        deliveries = records.deliveries(found, strays)
        if strays:
            self.settle(owner, strays, new_token())
        return Reserved(deliveries, _seconds(due), [topic.decode() for topic in inlets], passed_over)

    def claim(self, owner: str, job_ids: Sequence[str], request: str) -> list[Delivery]:
        found = self._run(scripts.CLAIM, owner, request, self._lease, self.options.max_message, *job_ids)
        if not found:
            raise OwnerLost.of(owner)
        return records.deliveries(found)

    def settle(self, owner: str, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        arguments, order = records.settlements(settlements, self.options.retention)
        letters = self._run(scripts.SETTLE, owner, request, self._cancelled_ttl, *arguments)
        if len(letters) != len(order):  # the request id was used for another batch: this one was not executed
            raise BackendError("a settle request was sent again with other settlements")
        return records.answers(letters, order)

    def checkpoint(self, owner: str, checkpoints: Sequence[Checkpoint]) -> None:
        if checkpoints:
            arguments = [value for each in checkpoints for value in (each.id, each.token, each.cursor)]
            self._run(scripts.CHECKPOINT, owner, *arguments)

    def note(self, owner: str, notes: Sequence[Note]) -> None:
        arguments: list[Any] = []
        for each in notes:
            arguments += (each.id, each.token)
            records.note(arguments, each)
        if arguments:
            self._run(scripts.NOTE, owner, *arguments)

    def look(self, topics: Sequence[str]) -> tuple[bool, float, list[str]]:
        """Return whether there is a ready job, the seconds until one is due, and the topics whose inlet has entries."""
        ready, due, *inlets = self._run(scripts.LOOK, *topics)
        return bool(ready), _seconds(due), [topic.decode() for topic in inlets]

    def return_wake_tokens(self, topics: Collection[str]) -> None:
        """Wake other workers for these topics."""
        self._run(scripts.RETURN_TOKENS, *topics)

    def wake_owner(self, owner: str) -> None:
        """End the wait of this owner."""
        self._run(scripts.WAKE_OWNER, owner)

    def housekeep(self, limit: int) -> Housekept:
        lease, silence = self._lease, micro(self.options.outage_after)
        limits = [item for pair in self._retention.items() for item in pair]
        found = self._run(scripts.HOUSEKEEP, lease, silence, self._cancelled_ttl, limit, *limits)
        unnamed = bool(found[5]) and self._name_letters(found[5], min(limit, NAMED_AT_ONCE))
        kept = Housekept(found[0], found[1], found[2], more=bool(found[3]) or unnamed)
        if not found[4]:
            return kept
        for topic in found[4]:  # topics seen for the first time: housekeep again, now with their dead_keep
            self._retention[topic.decode()] = micro(self.options.retention(topic.decode()).dead_keep)
        again = self.housekeep(limit)
        return Housekept(
            kept.readied + again.readied,
            kept.owners_released + again.owners_released,
            kept.dropped + again.dropped,
            more=kept.more or again.more,
        )

    # -- operators -------------------------------------------------------------------------------

    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        found = self._run(scripts.COUNTS, *topics)
        return {
            topic: Counts(ready, scheduled, reserved, dead, None if age < 0 else age / 1e6, *others)
            for topic, (ready, scheduled, reserved, dead, age, *others) in zip(topics, found, strict=True)
        }

    def get(self, job_id: str) -> JobRecord | None:
        now, found = self._run(scripts.GET, job_id)
        return records.job_record(found, now)

    def browse(self, topic: str, state: State, limit: int, offset: int) -> list[JobRecord]:
        now, *found = self._run(scripts.BROWSE, topic, state.value, offset, limit)
        return [record for one in found if (record := records.job_record(one, now))]

    def find_done(self, prefix: str, limit: int) -> list[str]:
        """List up to `limit` ids, with this beginning, of done jobs that are kept; see `Operable.find_ids`."""
        found: list[str] = []
        topics = self._runner.call("SMEMBERS", self.keys.done_topics) if limit > 0 else ()
        for topic in topics:
            kept: list[bytes] = self._runner.call("ZREVRANGE", self.keys.done(topic.decode()), 0, MOST_SEARCHED - 1)
            found += [job_id for each in kept if (job_id := each.decode()).startswith(prefix)]
        return found[:limit]

    def topics(self) -> set[str]:
        return {topic.decode(errors="backslashreplace") for topic in self._run(scripts.TOPICS)}

    def dead_groups(self, topics: Sequence[str], most: int) -> list[DeadGroup]:
        return records.dead_groups(self._run(scripts.DEAD_GROUPS, most, *topics))

    def dead_in_group(self, topic: str, group: str, limit: int, offset: int) -> list[JobRecord]:
        now, *found = self._run(scripts.DEAD_IN_GROUP, topic, group, offset, limit)
        return [record for one in found if (record := records.job_record(one, now))]

    def amend(self, job_id: str, was: bytes, payload: bytes, topic: str) -> bool:
        amended = int(self._run(scripts.AMEND, job_id, was, payload, topic))
        if amended < 0:
            raise not_movable(job_id)
        return bool(amended)

    def _name_letters(self, topics: Sequence[bytes], limit: int) -> bool:
        """Give dead letters of earlier releases their fingerprints; return whether there may be more."""
        found = self._run(scripts.UNNAMED_LETTERS, limit, *topics)
        arguments: list[Any] = []
        for topic, job_id, reason, error in zip(*(found[n::4] for n in range(4)), strict=True):
            of = last_of(reason.decode(errors="replace"), (error,) if error else ())
            arguments += (topic, job_id, msgspec.msgpack.encode(records.fingerprint(of)))
        if arguments:
            self._run(scripts.NAME_LETTERS, *arguments)
        return len(found) // 4 >= limit

    def requeue(self, job_ids: Sequence[str]) -> int:
        return int(self._run(scripts.REQUEUE, *job_ids))

    def discard(self, job_ids: Sequence[str], reason: str) -> int:
        """Move jobs to the dead letters. Their topics are looked up first, since each has its own limit on dead letters."""
        arguments: list[Any] = []
        for job_id in job_ids:
            record = self.get(job_id)
            if record:
                arguments += (job_id, self.options.retention(record.topic).dead_max)
        return int(self._run(scripts.DISCARD, reason, *arguments)) if arguments else 0

    def purge(self, topic: str, state: State) -> int:
        deleted = 0
        while state in (State.READY, State.LIMITED, State.SCHEDULED, State.WAITING, State.DEAD):
            count = int(self._run(scripts.PURGE, topic, state.value, PURGED_AT_ONCE))
            deleted += count
            if count < PURGED_AT_ONCE:
                break
        return deleted

    def purge_done(self, topic: str, limit: int, older: float) -> int:
        deleted = 0
        while deleted < limit:
            most = min(limit - deleted, PURGED_AT_ONCE)
            some = int(self._run(scripts.PURGE_DONE, topic, most, records.micro(older)))
            deleted += some
            if some < most:
                break
        return deleted

    def define_limits(self, limits: Mapping[str, Limit | None], topics: Mapping[str, Lines], *, override: bool = False) -> None:
        """Set definitions by name, or overrides by limit, and the rules of topics, and open the limits that get room by it."""
        if not limits and not topics:
            return
        arguments = [value for limit, definition in limits.items() for value in (limit, records.rule(definition))]
        for topic, rules in topics.items():
            arguments += (topic, records.rules(rules))
        self._run(scripts.DEFINE_LIMITS, int(override), len(limits), *arguments)
        for limit in [limit for limit, definition in limits.items() if override and definition is None]:
            self._run_in_slices(scripts.END_CLOSURES, limit)
        self._run_in_slices(
            scripts.OPEN_LIMITS, *{name_of(limit) for limit in limits}, *{name_of(key_limit(topic, "")) for topic in topics}
        )

    def _run_in_slices(self, script: Script, *arguments: str) -> None:
        """Run a script that does a part at a time, and returns the cursor of the next one, to its end."""
        cursor = self._run(script, b"0", *arguments)
        while cursor != b"0":
            cursor = self._run(script, cursor, *arguments)

    def limits(self, most: int, names: Sequence[str]) -> list[LimitState]:
        return [records.limit_state(found) for found in self._run(scripts.LIMITS, most, *names)]

    def deepest_keys(self, topic: str, most: int) -> list[tuple[str, int]]:
        return [(key.decode(), count) for key, count in self._run(scripts.KEYS, topic, most)]

    def push_guarded(self, messages: Sequence[Outgoing], request: str, guard: Guard) -> dict[str, str] | None:
        _refuse_members(messages)
        arguments: list[Any] = [request, self._window, self._cancelled_ttl, len(messages), ""]
        for message in messages:
            records.message(arguments, message)
        answer = self._run(scripts.PUSH_GUARDED, *arguments, guard.kind, guard.name, guard.version)
        return None if answer is None else dict(_conflicts(answer))

    def add_statistics(self, rows: Sequence[StatisticsRow], request: str) -> int:
        arguments = [value for row in rows for value in records.statistics_arguments(row)]
        return int(self._run(scripts.ADD_STATISTICS, request, REMEMBERED * 1000, *arguments))

    def statistics(
        self, span: int, since: float, most: int, topic: str | None, after: StatisticsRow | None
    ) -> list[StatisticsRow]:
        place = "" if after is None else f"{after.at:012d}\n{after.topic}\n{after.job}"
        begin = max(0, math.ceil(min(since, MAX_TIME)))
        found = self._run(scripts.STATISTICS_ROWS, span, begin, place, most, int(topic is not None), topic or "")
        return [records.statistics_row(row, span) for row in found]

    def documents(self, kind: str, most: int, after: str) -> list[Document]:
        now, *found = self._run(scripts.DOCUMENTS, kind, after, most, PAGE)
        return [records.document(kind, one, now) for one in found]

    def document(self, kind: str, name: str) -> Document | None:
        now, *found = self._run(scripts.READ_DOCUMENT, kind, name)
        return records.document(kind, found[0], now) if found else None

    def document_versions(self, kinds: Sequence[str]) -> dict[str, int]:
        if not kinds:
            return {}
        versions = self._runner.call("HMGET", self.keys.document_versions, *kinds)
        return {kind: int(version or 0) for kind, version in zip(kinds, versions, strict=True)}

    def put_document(
        self, kind: str, name: str, data: bytes, request: str, expected: int | None, ttl: float | None
    ) -> int | None:
        where = kind, name, "" if expected is None else expected
        ends = "" if ttl is None else max(1, micro(ttl))
        version = int(self._run(scripts.PUT_DOCUMENT, request, self._window, *where, ends, MOST, data))
        if version == FULL_KIND:
            raise too_many(kind)
        return version if version > 0 else None

    def delete_document(self, kind: str, name: str, request: str, expected: int | None) -> bool:
        where = kind, name, "" if expected is None else expected
        return bool(self._run(scripts.DELETE_DOCUMENT, request, self._window, *where))

    def drop(self, job_ids: Sequence[str]) -> int:
        return int(self._run(scripts.DROP, *job_ids))

    def pause(self, topic: str) -> None:
        self._run(scripts.PAUSE, topic)

    def resume(self, topic: str) -> None:
        self._run(scripts.RESUME, topic)

    def paused(self) -> frozenset[str]:
        return frozenset(topic.decode() for topic in self._runner.call("SMEMBERS", self.keys.paused))

    def cancel(self, job_id: str, *, force: bool = False) -> State:
        return State(self._run(scripts.CANCEL, job_id, self._cancelled_ttl, int(force)).decode())

    # -- flows -----------------------------------------------------------------------------------

    def flow(self, flow_ids: Sequence[str]) -> list[FlowStatus]:
        """Return the states of the flows that are known, in this order."""
        now, *found = self._run(scripts.FLOW_STATE, *flow_ids)
        return [records.flow_status(one, now) for one in found]

    def flows(self, most: int, offset: int) -> list[FlowStatus]:
        ids = self._run(scripts.LIST_FLOWS, most, offset)
        return self.flow([flow_id.decode() for flow_id in ids])

    def flow_members(self, flow_id: str, most: int, offset: int, *, dead: bool) -> list[MemberStatus]:
        found = self._run(scripts.FLOW_MEMBERS, flow_id, min(most, MOST_LISTED), offset, int(dead))
        return [records.member_status(flow_id, one, place) for one, place in zip(found[::2], found[1::2], strict=True)]

    def flow_results(self, flow_id: str, job_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        found = self._run(scripts.FLOW_RESULTS, flow_id, self.options.max_message, *job_ids)
        return [(job_id.decode(), bytes(result)) for job_id, result in zip(found[::2], found[1::2], strict=True)]

    def cancel_flow(self, flow_id: str, *, finale: bool) -> bool:
        return bool(self._run(scripts.CANCEL_FLOW, flow_id, int(finale)))

    def retry_flow(self, flow_id: str) -> int:
        dead = [job_id.decode() for job_id in self._run(scripts.DEAD_MEMBERS, flow_id, SLICE)]
        return sum(self.requeue(dead[first : first + RETRIED_AT_ONCE]) for first in range(0, len(dead), RETRIED_AT_ONCE))

    def follow_flow(self, flow_id: str, seconds: float) -> bool:
        """Return whether a flow rests or is unknown. After False, its rest is announced through `keys.flow_end(flow_id)`."""
        return bool(self._run(scripts.FOLLOW_FLOW, flow_id, micro(seconds)))

    def follow(self, job_id: str, seconds: float) -> JobRecord | None:
        """Return the record of a job that has ended (state UNKNOWN if there is none), or None while it has not ended.

        After None, the job's end will be announced through the list `keys.end(job_id)`.
        """
        answer = self._run(scripts.FOLLOW, job_id, micro(seconds))
        if answer is None:
            return None
        now, found = answer
        return records.job_record(found, now) or JobRecord(job_id, "", State.UNKNOWN)


@contextlib.contextmanager
def in_parts(others: bool) -> Iterator[None]:
    """Clear `nothing_sent` in the error of one part of a push if another part was sent."""
    try:
        yield
    except BackendUnavailable as error:
        error.nothing_sent = error.nothing_sent and not others
        raise


def _refuse_members(messages: Sequence[Outgoing]) -> None:
    for message in messages:
        if message.member is not None:
            raise misplaced(message.id, message.member)


def _seconds(due: int) -> float:
    """Convert a script's microseconds until the next due job to seconds; negative ones mean that there is none."""
    return float("inf") if due < 0 else due / 1e6


def _conflicts(answer: bytes | None) -> Mapping[str, str]:
    if not answer:
        return {}
    flat: list[str] = msgspec.msgpack.decode(answer, type=list[str])
    return dict(zip(flat[::2], flat[1::2], strict=True))
