"""Push jobs, make them ready when they are due, and reserve them in order of priority and age."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ...message import UniqueKey
from ..base import Delivery, Outgoing, State
from ..flows import SLICE, misplaced
from ..limits import Lines
from . import joining, lines, members, removal
from .connection import REFUSED, Transaction
from .serving import Serving

READY_AT_ONCE = 1000
"""Largest number of due jobs of a topic that one reserve makes ready, which bounds how long it holds the lock.

If more are due at once, their order is exact only within each such portion.
"""

_AT_ONCE = 16
"""Number of rows in one INSERT of a large push, which saves a tenth of the time."""

_INSERT = "INSERT OR IGNORE INTO job (seq, id, topic, rank, due, pushed_at, unique_key, payload) VALUES (?,?,?,?,?,?,?,?)"
_INSERT_SOME = _INSERT + ",(?,?,?,?,?,?,?,?)" * (_AT_ONCE - 1)
_INSERT_WITH_LINE = """
INSERT OR IGNORE INTO job (seq, id, topic, rank, due, pushed_at, unique_key, payload, key, limits) VALUES (?,?,?,?,?,?,?,?,?,?)
"""
_ROW = (
    "id, topic, payload, token, attempt, redeliveries, crashes, deferrals, pushed_at, unique_key, coalesce(cursor, key, limits)"
)
_RESERVED = "FROM reserved CROSS JOIN job USING (seq) LEFT JOIN checkpoint USING (seq)"
_EXTRAS = f"SELECT seq, cursor, key, limits, slots {_RESERVED} WHERE token = ?"
_RESERVED_NOW = f"SELECT {_ROW} {_RESERVED} WHERE token > ? ORDER BY token"
_DELIVERY = f"SELECT {_ROW} {_RESERVED} WHERE token > ? AND owner = ? AND request = ? ORDER BY token"
_RESERVE = """
INSERT INTO reserved (seq, at, owner, request)
SELECT seq, ?, ?, ? FROM ready WHERE topic = ? ORDER BY rank, since, seq LIMIT ?
"""
_PLACE = "SELECT topic, rank, since, seq FROM ready WHERE topic = ? ORDER BY rank, since, seq LIMIT 1 OFFSET ?"
_LEAVE = "DELETE FROM ready WHERE topic = ? AND (rank, since, seq) <= (?, ?, ?)"
"""The three values are fetched first, instead of in a subquery.

Only with known values does SQLite search a range of the index by all three columns; otherwise it would walk through all
ready jobs of the rank.
"""


# -- push --------------------------------------------------------------------------------------------


def push(
    tx: Transaction, batches: Sequence[Sequence[Outgoing]], *, loosely: bool = False, by: int | None = None
) -> list[dict[str, str]]:
    """Store messages; return, for each batch, the id of each refused message, and of the job that holds its key or id.

    Members of flows are added `by` a job that ends, given by its number; a push that is no end refuses them.
    """
    count = sum(map(len, batches))
    refused = _push(tx, batches, count, loosely, by)
    for messages, conflicts in zip(batches, refused, strict=True):
        if conflicts:
            count_refused(tx, messages, conflicts)
    tx.tally.left -= count
    if tx.tally.left <= 0 or tx.now >= tx.tally.until:
        tx.count_pushed()
    return refused


def _push(
    tx: Transaction, batches: Sequence[Sequence[Outgoing]], count: int, loosely: bool, by: int | None
) -> list[dict[str, str]]:
    """Do all of `push` but add the jobs to the counts."""
    seq = tx.numbers(count)
    rows: list[tuple[object, ...]] = []
    others: list[tuple[object, ...]] = []  # with a key or limits
    refused: list[dict[str, str]] = []
    together = {message.id for messages in batches for message in messages} if loosely else frozenset()
    pushed = tx.tally.kept
    for messages in batches:
        conflicts: dict[str, str] = {}
        added: set[str] = set()  # chosen ids of this batch
        for message in messages:
            if message.member is not None:
                if by is None:
                    raise misplaced(message.id, message.member)
                _insert(tx, rows, others)  # a member may replace one of them
                rows, others = [], []
                _join(tx, message, by, loosely, together)
                pushed[message.topic] = pushed.get(message.topic, 0) + 1
                continue
            if message.unique or message.chosen:
                _insert(tx, rows, others)  # first insert the jobs that this message may duplicate or replace
                rows, others = [], []
                holder = _in_the_way(tx, message, added, loosely, together)
                if holder is not None:
                    if holder:
                        conflicts[message.id] = holder
                    continue
                added.add(message.id)
            seq += 1
            due = tx.now + _delay(tx, message) if message.delay > 0 else None
            key = message.unique.key if message.unique else None
            row = (seq, message.id, message.topic, -message.priority, due, tx.now, key, message.payload)
            if message.key or message.limits:
                others.append((*row, message.key or None, json.dumps(message.limits) if message.limits else None))
            else:
                rows.append(row)
            tx.wake.add(message.topic)
            pushed[message.topic] = pushed.get(message.topic, 0) + 1
        refused.append(conflicts)
    _insert(tx, rows, others)
    return refused


def _in_the_way(
    tx: Transaction, message: Outgoing, added: Collection[str], loosely: bool, together: Collection[str]
) -> str | None:
    """Return the id that keeps a message out, or "" if it is passed over in silence; None after it was given its key."""
    if _is_known(tx, message):
        return message.id if message.chosen and message.id not in added else ""
    return take_key(tx, message, loosely, together)


def count_pushed(tx: Transaction, messages: Sequence[Outgoing]) -> None:
    """Count messages that are added in another way."""
    kept = tx.tally.kept
    for topic, number in Counter(message.topic for message in messages).items():
        kept[topic] = kept.get(topic, 0) + number
    tx.count_pushed()


def count_refused(tx: Transaction, messages: Sequence[Outgoing], conflicts: Mapping[str, str]) -> None:
    """Count messages that are not added."""
    for topic, number in Counter(message.topic for message in messages if message.id in conflicts).items():
        tx.add_to(f"{REFUSED}{topic}", number)


def _join(tx: Transaction, message: Outgoing, by: int, loosely: bool, together: Collection[str]) -> None:
    if not _is_known(tx, message):
        joining.join(tx, message, by, lambda: take_key(tx, message, loosely, together))


def _insert(tx: Transaction, rows: Sequence[tuple[object, ...]], others: Sequence[tuple[Any, ...]]) -> None:
    """Insert new jobs, in ascending order of seq, and make those ready that are not scheduled.

    The others, with a key or limits, come last, so that they are not among the rows that are ready at once.
    """
    if rows:
        _insert_plain(tx, rows)
    if others:
        if any(row[9] for row in others):
            tx.exclude_older_releases()
        tx.db.executemany(_INSERT_WITH_LINE, others)
        lines.enter(tx, [row[0] for row in others])


def _insert_plain(tx: Transaction, rows: Sequence[tuple[object, ...]]) -> None:
    whole = len(rows) - len(rows) % _AT_ONCE
    for n in range(0, whole, _AT_ONCE):
        tx.db.execute(_INSERT_SOME, [*itertools.chain.from_iterable(rows[n : n + _AT_ONCE])])
    tx.db.executemany(_INSERT, rows[whole:])
    tx.db.execute("INSERT INTO ready SELECT topic, rank, pushed_at, seq FROM job WHERE seq >= ? AND due IS NULL", (rows[0][0],))


def _is_known(tx: Transaction, message: Outgoing) -> bool:
    """Return whether a job of this id is in the queue, or, for a chosen id, whether the record of its end is kept."""
    if tx.first("SELECT EXISTS (SELECT 1 FROM job WHERE id = ?)", (message.id,)):
        return True
    sql = "SELECT EXISTS (SELECT 1 FROM ended WHERE id = ? AND until > ?)"
    return message.chosen and bool(tx.first(sql, (message.id, tx.now)))


def conflicts(tx: Transaction, messages: Sequence[Outgoing]) -> dict[str, str]:
    """Return, for each message that a push would not add, its id and the id that is in its way."""
    sql = "SELECT id FROM job WHERE id IN (SELECT value FROM json_each(?))"
    found = {job_id: job_id for (job_id,) in tx.db.execute(sql, (json.dumps([message.id for message in messages]),))}
    keys: dict[str, str] = {}
    for message in messages:
        if message.id in found:
            continue
        if message.chosen and _is_known(tx, message):
            found[message.id] = message.id
        elif message.unique:
            first = keys.setdefault(message.unique.key, message.id)
            held = _holder(tx, message.unique)
            in_the_way = first if first != message.id else held[0] if held and not _replaces(tx, message.unique, held) else ""
            if in_the_way:
                found[message.id] = in_the_way
    return found


Held: TypeAlias = tuple[str, str, float | None]
"""The id of the job that holds a key, with the scope and the time of the key."""


def _holder(tx: Transaction, unique: UniqueKey) -> Held | None:
    sql = "SELECT job_id, scope, until FROM unique_key WHERE key = ? AND (until IS NULL OR until > ?)"
    held: Held | None = tx.db.execute(sql, (unique.key, tx.now)).fetchone()
    return held


def _replaces(tx: Transaction, unique: UniqueKey, held: Held, together: Collection[str] = ()) -> bool:
    """Return whether a key is taken over from the job that holds it."""
    takes = held[1].endswith("?") and held[0] not in together
    return (unique.conflict == "replace" or takes) and _waits(tx, held[0])


def take_key(tx: Transaction, message: Outgoing, loosely: bool = False, together: Collection[str] = ()) -> str | None:
    """Give the message its unique key, if it has one, or return the id of the job that holds it.

    A loosely held key is taken over from a waiting job, unless both jobs are pushed together. A limit of the key is kept.
    """
    unique = message.unique
    if unique is None:
        return None
    held = _holder(tx, unique)
    limit = None
    if held:
        holder = held[0]
        if not _replaces(tx, unique, held, together):
            return holder
        limit = held[2] if held[1].startswith("queued") else None
        removal.end_queued(tx, [holder], State.CANCELLED, tx.options.cancelled_ttl)
    _hold_key(tx, message, loosely, limit)
    return None


def _hold_key(tx: Transaction, message: Outgoing, loosely: bool, limit: float | None = None) -> None:
    """Record the holder of a key; `limit` is the time at which jobs that replace each other must be due."""
    unique = message.unique
    assert unique is not None
    by_time = not isinstance(unique.scope, str)
    scope = ("time" if by_time else str(unique.scope)) + ("?" if loosely else "")
    lasts = float(unique.scope) if by_time else unique.bound
    until = None if lasts is None else tx.now + lasts
    if until is not None and limit is not None and not by_time:
        until = min(until, limit)
    tx.db.execute("INSERT OR REPLACE INTO unique_key VALUES (?, ?, ?, ?)", (unique.key, message.id, scope, until))


def _delay(tx: Transaction, message: Outgoing) -> float:
    """Return the delay of a message that holds its key, shortened to the limit of the key."""
    if message.unique is None or message.unique.bound is None:
        return message.delay
    until = tx.first("SELECT until FROM unique_key WHERE key = ?", (message.unique.key,))
    return message.delay if until is None else min(message.delay, float(until) - tx.now)


def bind(tx: Transaction, messages: Sequence[Outgoing]) -> dict[str, str]:
    """Bind the keys that these messages still hold; return the cancelled messages with the new holders: see BindsKeys."""
    others = []
    for message in messages:
        unique = message.unique
        assert unique is not None
        holder = tx.first("SELECT job_id FROM unique_key WHERE key = ?", (unique.key,))
        if holder == message.id or (holder is None and not isinstance(unique.scope, str)):  # None: the job has already ended
            _hold_key(tx, message, False)
        elif holder is not None:
            others.append((message.id, unique.key))
    taken_over = {}
    for job_id, key in others:
        if tx.first("SELECT EXISTS (SELECT 1 FROM ended WHERE id = ? AND state = 'cancelled')", (job_id,)):
            sql = "SELECT CASE WHEN scope LIKE '%?' THEN '' ELSE job_id END FROM unique_key WHERE key = ?"
            taken_over[job_id] = str(tx.first(sql, (key,)))
    return taken_over


def _waits(tx: Transaction, job_id: str) -> bool:
    """Return whether a job is ready or scheduled, and no member of a flow."""
    reserved = "EXISTS (SELECT 1 FROM reserved WHERE reserved.seq = job.seq)"
    sql = f"SELECT seq > 0 AND dead_at IS NULL AND NOT {reserved} FROM job WHERE id = ?"
    return bool(tx.first(sql, (job_id,)))


# -- ready jobs ----------------------------------------------------------------------------------


def ready_due(tx: Transaction, topics: Iterable[str], limit: int) -> int:
    """Make due jobs ready, in the same order as if each had been made ready when it was due."""
    readied = 0
    sql = "SELECT seq FROM job WHERE topic = ? AND due IS NOT NULL AND due <= ? ORDER BY due, seq LIMIT ?"
    for topic in topics:
        seqs = [row[0] for row in tx.db.execute(sql, (topic, tx.now, limit))]
        if seqs:
            make_ready(tx, seqs)
            readied += len(seqs)
    return readied


def make_ready(tx: Transaction, seqs: Sequence[int], since: float | None = None) -> None:
    """Make jobs ready with the age that they would have if they had been ready since `since`, or since they were due."""
    sql = "UPDATE job SET ready_at = coalesce(?, due), due = NULL WHERE seq IN (SELECT value FROM json_each(?))"
    tx.db.execute(sql, (since, json.dumps(seqs)))
    release(tx, seqs)


def release(tx: Transaction, seqs: Sequence[int], unstarted: Sequence[int] = ()) -> None:
    """Return jobs to their former positions among the ready jobs.

    In a fair topic, the keys of those that were reserved, but not started, are served next.
    """
    lines.line_up(tx, seqs)
    if unstarted:
        lines.to_front(tx, unstarted)


def set_limits(tx: Transaction, seq: int, named: Sequence[str]) -> None:
    """Give a reserved job other limits."""
    if named:
        tx.exclude_older_releases()
    limits = json.dumps(named) if named or seq < 0 else None  # of a member of a flow, they are never NULL
    tx.db.execute("UPDATE job SET limits = ? WHERE seq = ?", (limits, seq))


# -- reserve ---------------------------------------------------------------------------------------


Reserving: TypeAlias = tuple[str, Sequence[str], int, str, int | None]
"""Owner, topics, limit, request, and `Backend.startable`."""

_TOPICS = """
SELECT topic, NULL, NULL FROM paused
UNION ALL SELECT topic, fair, max_per_key FROM topic_lines
           WHERE fair OR ready + limited > 0 OR EXISTS (SELECT 1 FROM opening WHERE opening.topic = topic_lines.topic)
UNION ALL SELECT NULL, -1, NULL FROM flow_work
"""


def reserve(tx: Transaction, requests: Sequence[Reserving], most_bytes: int | None = None) -> list[list[Delivery]]:
    """Reserve jobs for one request after the other, each from its topics in order; see `requests.reserve`."""
    topics = list(dict.fromkeys([topic for _, wanted, *_ in requests for topic in wanted]))
    ready_due(tx, topics, max(READY_AT_ONCE, sum([limit for _, _, limit, *_ in requests])))
    served, carries_on = _served(tx)
    if carries_on:
        members.proceed(tx)
        served, _ = _served(tx)
    answers = _reserve_all(tx, requests, served, most_bytes)
    looks = SLICE
    while tx.barred and looks > 0:
        looks -= len(tx.barred)
        _drop_barred(tx)
        for n, asked in enumerate(requests):
            if not answers[n]:
                (answers[n],) = _reserve_all(tx, [asked], served, most_bytes)
    if tx.barred:
        _drop_barred(tx)
    if tx.flows:
        members.proceed(tx, 0 if carries_on else SLICE)
    return answers


def _served(tx: Transaction) -> tuple[list[tuple[str, int | None, int | None]], bool]:
    """Return the paused topics and those with lines, and whether there is something to carry on with in flows."""
    served: list[tuple[str, int | None, int | None]] = []
    rows = tx.db.execute(_TOPICS)
    for row in rows:
        if row[1] == -1:
            rows.close()
            return served, True
        served.append(row)
    return served, False


def _drop_barred(tx: Transaction) -> None:
    barred, tx.barred = tx.barred, []
    members.drop_barred(tx, [token for token, _ in barred if token], [seq for token, seq in barred if not token])


def _reserve_all(
    tx: Transaction, requests: Sequence[Reserving], served: Sequence[tuple[str, int | None, int | None]], most_bytes: int | None
) -> list[list[Delivery]]:
    empty: set[str] = set()
    lined: dict[str, Lines] = {}  # the rules of topics with lines, and of fair ones
    for topic, fair, max_per_key in served:
        if fair is None:
            empty.add(topic)
        else:
            lined[topic] = Lines(bool(fair), max_per_key)
    taken = [_reserve(tx, asked, empty, lined) for asked in requests]
    count, last_token = sum([count for count, _ in taken]), max([token for _, token in taken])
    rows = tx.db.execute(_RESERVED_NOW, (last_token - count,)).fetchall() if count else []
    if len(taken) == 1:
        return [_deliveries(tx, rows, most_bytes, counted=True)]
    each = iter(rows)
    return [_deliveries(tx, list(itertools.islice(each, count)), most_bytes, counted=True) for count, _ in taken]


def _reserve(tx: Transaction, asked: Reserving, empty: set[str], lined: Mapping[str, Lines]) -> tuple[int, int]:
    """Move jobs from ready to reserved; return how many, and the token of the last.

    Skips the topics in `empty`, and adds topics that turn out to be empty.
    """
    owner, topics, limit, request, startable = asked
    left, last_token = limit, 0
    for topic in topics:
        if left <= 0:
            break
        if topic in empty:
            continue
        if topic in lined:
            serving = Serving(tx, topic, lined[topic], startable, owner, request)
            taken, passed_over = serving.take(left)
            left, startable, last_token = left - taken, serving.startable, serving.last_token or last_token
            if passed_over:
                tx.passed_over += (owner,)
            continue
        cursor = tx.db.execute(_RESERVE, (tx.now, owner, request, topic, left))
        taken = cursor.rowcount
        if taken:
            last_token = cursor.lastrowid or 0
            tx.db.execute(_LEAVE, tx.db.execute(_PLACE, (topic, taken - 1)).fetchone())
            left -= taken
        if left > 0:
            empty.add(topic)
        else:
            tx.wake.add(topic)  # more jobs may be ready: wake an idle worker for them
    return limit - left, last_token


def reserve_these(tx: Transaction, owner: str, job_ids: Sequence[str], request: str) -> list[Delivery]:
    """Reserve these jobs in any state except dead and waiting."""
    before = tx.first("SELECT max(token) FROM reserved") or 0
    sql = "SELECT seq FROM job WHERE id IN (SELECT value FROM json_each(?)) AND dead_at IS NULL"
    found = [row[0] for row in tx.db.execute(sql, (json.dumps(list(job_ids)),)).fetchall()]
    these = json.dumps([seq for seq in found if seq > 0 or members.may_start(tx, seq)])
    seqs = "SELECT value FROM json_each(?)"
    removal.dequeue(tx, these)
    held = tx.db.execute(f"DELETE FROM reserved WHERE seq IN ({seqs}) RETURNING slots", (these,)).fetchall()
    if held:
        lines.free(tx, [slots for (slots,) in held])
    tx.db.execute(f"UPDATE job SET due = NULL WHERE due IS NOT NULL AND seq IN ({seqs})", (these,))
    tx.db.execute(
        f"INSERT INTO reserved (seq, at, owner, request) SELECT value, ?, ?, ? FROM ({seqs})", (tx.now, owner, request, these)
    )
    return deliveries(tx, owner, request, before)


def deliveries(tx: Transaction, owner: str, request: str, before: int = 0) -> list[Delivery]:
    """Return the deliveries of a request whose tokens are greater than `before`."""
    return _deliveries(tx, tx.db.execute(_DELIVERY, (before, owner, request)).fetchall())


def _deliveries(
    tx: Transaction, rows: list[tuple[Any, ...]], most_bytes: int | None = None, *, counted: bool = False
) -> list[Delivery]:
    """Convert rows to deliveries, and free the unique keys whose scope is "queued"; `counted` if limits were obeyed."""
    if most_bytes is not None:
        rows = _keep_within(tx, rows, most_bytes)
    strays: list[tuple[Any, ...]] = []
    now = tx.now
    found = [
        Delivery(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], now)
        if row[10] is None
        else _with_extras(tx, row, strays if counted else None)
        for row in rows
    ]
    if strays:
        _unreserve(tx, strays)
    if strays or tx.barred:
        gone = {row[3] for row in strays} | {token for token, _ in tx.barred}
        found = [delivery for delivery in found if delivery.token not in gone]
        rows = [row for row in rows if row[3] not in gone]
    keys = [(row[9], row[0]) for row in rows if row[9] is not None]
    if keys:
        tx.db.executemany("DELETE FROM unique_key WHERE key = ? AND job_id = ? AND scope IN ('queued', 'queued?')", keys)
    return found


def _with_extras(tx: Transaction, row: tuple[Any, ...], strays: list[tuple[Any, ...]] | None) -> Delivery:
    """Convert the row of a job with a cursor, a key or limits, which are read apart: columns would cost plain jobs more.

    A supervisor of a release without limits may have made a job with limits ready as a plain one, so that it holds no slots.
    Such strays have to go to their line. Members of flows always have limits, perhaps none; those of a cancelled flow are
    noted in `tx.barred`.
    """
    seq, cursor, key, named, slots = tx.db.execute(_EXTRAS, (row[3],)).fetchone()
    if strays is not None and slots is None and named not in (None, "[]"):
        strays.append(row)
    flow_id, barred, inputs = members.delivered(tx, seq) if seq < 0 else ("", False, ())
    if barred:
        tx.barred.append((row[3], seq))
    fields = (*row[:9], tx.now, key or "", tuple(json.loads(named or "[]")), cursor or b"", flow_id, inputs)
    return Delivery(*fields)


def _keep_within(tx: Transaction, rows: list[tuple[Any, ...]], most_bytes: int) -> list[tuple[Any, ...]]:
    """Keep the first reservations whose payloads fit into `most_bytes` together; release the others."""
    sizes = itertools.accumulate(len(row[2]) for row in rows)
    count = max(1, sum(size <= most_bytes for size in sizes))
    if count < len(rows):
        _unreserve(tx, rows[count:])
    return rows[:count]


def _unreserve(tx: Transaction, rows: Sequence[tuple[Any, ...]]) -> None:
    """Release jobs that are being reserved."""
    tokens = json.dumps([row[3] for row in rows])
    sql = "DELETE FROM reserved WHERE token IN (SELECT value FROM json_each(?)) RETURNING seq, slots"
    released = tx.db.execute(sql, (tokens,)).fetchall()
    lines.free(tx, [slots for _, slots in released], tokens=True)
    seqs = [seq for seq, _ in released]
    release(tx, seqs, unstarted=seqs)
    tx.wake.update(row[1] for row in rows)
