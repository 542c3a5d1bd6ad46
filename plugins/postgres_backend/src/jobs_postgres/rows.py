"""Convert messages to the parameters of a push, and rows to deliveries and records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from jobs_core.backends.base import Delivery, JobRecord, Outgoing, State
from jobs_core.backends.flows import misplaced
from jobs_core.backends.notes import NONE, Notes

HOLDS = "h"
"""First letter of the token of a reservation that holds slots of limits."""

_encode = msgspec.json.Encoder().encode


def facts(
    messages: Sequence[Outgoing], *, members: bool = False, counts: Mapping[str, int] | None = None
) -> tuple[str, list[bytes], bool, bool]:
    """Return the facts of messages as JSON, and their payloads.

    And whether none has a unique key or a chosen id, and whether one has a key or limits. The facts of the first message have
    what is to be added to the counts. Raises BackendError for members of flows, unless they are expected.
    """
    plain, lined = True, False
    rows = []
    for message in messages:
        row: dict[str, Any] = {"i": message.id, "t": message.topic, "r": -message.priority, "d": max(0.0, message.delay)}
        if message.key:
            row["k"], lined = stored(message.key), True
        if message.limits:
            row["l"], lined = message.limits, True
        if message.unique or message.chosen:
            plain = False
            _mark(row, message)
        if message.member is not None and not members:
            raise misplaced(message.id, message.member)
        rows.append(row)
    if counts:
        rows[0]["n"] = counts
    return _encode(rows).decode(), [message.payload for message in messages], plain, lined


def is_simple(message: Outgoing) -> bool:
    """Return whether a message has nothing that `push_one` does not store: unique key, chosen id, key, limits, flow."""
    return not (message.unique or message.chosen or message.key or message.limits or message.member)


def _mark(row: dict[str, Any], message: Outgoing) -> None:
    """Add the facts of a unique key: key, scope, for how long, and what happens in a conflict."""
    row["c"] = message.chosen
    unique = message.unique
    if unique is not None:
        by_time = not isinstance(unique.scope, str)
        row["u"], row["s"], row["o"] = stored(unique.key), "time" if by_time else unique.scope, unique.conflict
        row["h"] = float(unique.scope) if by_time else unique.bound


def stored(key: str) -> str:
    """Return a key as it is stored: the server's text has no null characters."""
    return key.replace("\\", "\\\\").replace("\0", "\\0") if "\0" in key or "\\" in key else key


def restored(key: str) -> str:
    """Return a key from what `stored` made of it."""
    return re.sub(r"\\(.)", lambda found: "\0" if found[1] == "0" else found[1], key) if "\\" in key else key


def delivery(row: Sequence[Any], request: str) -> Delivery:
    """Convert a row of `reserve`."""
    seq, job_id, topic, payload, attempt, redeliveries, crashes, deferrals, pushed_at, _, key, limits, cursor, now, limited = (
        row
    )
    token = f"{HOLDS}{seq}:{request}" if limited else f"{seq}:{request}"
    return Delivery(
        job_id, topic, payload, token, attempt, redeliveries, crashes, deferrals, pushed_at, now, restored(key) if key else "",
        tuple(limits or ()), cursor or b"",
    )  # fmt: skip


def holds(text: int | str) -> bool:
    """Return whether a token is that of a reservation with slots."""
    return str(text).startswith(HOLDS)


def token(text: int | str) -> tuple[int, str]:
    """Return the sequence number and the request that a token names; -1 for one that is not ours."""
    seq, _, request = str(text).lstrip(HOLDS).partition(":")
    return int(seq) if seq.removeprefix("-").isdecimal() and len(seq) < 19 else -1, request


RECORD = """
SELECT j.id, j.topic, j.payload, -j.rank, j.attempt, j.redeliveries, j.crashes, j.deferrals, j.pushed_at, j.errors, j.key,
       j.limits, j.since, s.due, r.owner, r.at, d.at, d.reason, c.seq IS NOT NULL, k.cursor, n.progress, n.lines, n.timeline,
       line.filed_under, {s}.now_(), j.seq
  FROM {s}.job AS j
  LEFT JOIN {s}.scheduled AS s ON s.seq = j.seq
  LEFT JOIN {s}.reserved AS r ON r.seq = j.seq
  LEFT JOIN {s}.dead AS d ON d.seq = j.seq
  LEFT JOIN {s}.cancel AS c ON c.seq = j.seq
  LEFT JOIN {s}.checkpoint AS k ON k.seq = j.seq
  LEFT JOIN {s}.note AS n ON n.seq = j.seq
  LEFT JOIN {s}.lined ON lined.seq = j.seq
  LEFT JOIN {s}.line ON line.id = lined.line
"""
BROWSED = RECORD.replace("n.lines", "NULL::bytea[]")


def record(row: Sequence[Any]) -> JobRecord:
    """Convert a row of RECORD."""
    (job_id, topic, payload, priority, attempt, redeliveries, crashes, deferrals, pushed_at, errors, key, limits, since, due,
     owner, reserved_at, dead_at, reason, cancel, cursor, progress, lines, timeline, filed_under, now, _) = row  # fmt: skip
    at: float | None
    if dead_at is not None:
        state, at = State.DEAD, dead_at
    elif owner is not None:
        state, at = State.RESERVED, reserved_at
    elif due is not None and due > now:
        state, at = State.SCHEDULED, None
    else:
        state, at = State.READY if filed_under is None else State.LIMITED, since
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
        due=due if state is State.SCHEDULED else None,
        owner=owner,
        since=at,
        cancel_requested=cancel,
        reason=reason or "",
        errors=tuple(errors or ()),
        broker_now=now,
        cursor=cursor or b"",
        key=restored(key or ""),
        limits=tuple(limits or ()),
        blocked_by=restored(filed_under or ""),
        notes=NONE if progress is None else Notes(progress, tuple(lines or ())),
        timeline=tuple(timeline or ()),
    )
