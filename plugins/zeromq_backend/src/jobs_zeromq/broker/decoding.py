"""Parse and check requests, so that only well-formed ones reach the store."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from jobs_core.backends import documents, statistics
from jobs_core.backends.base import Outcome, Outgoing, Settlement, Token
from jobs_core.backends.flows import misplaced
from jobs_core.backends.limits import LIMIT, LONGEST_KEY, MOST_LIMITS, Limit, name_of
from jobs_core.backends.notes import Note
from jobs_core.errors import BackendError

from .. import protocol as p
from .peers import Peer

_LONGEST_ID = 200
_LARGEST = 2**62
_DONE = Outcome.DONE


class Asked(Struct):
    """One parsed request."""

    peer: Peer
    sender: bytes
    tag: bytes
    verb: p.Verb[Any, Any]
    request: Any
    payloads: Sequence[bytes] = ()  # the payloads of a put
    plain: bool = True  # all settlements are acknowledgements


class Malformed(BackendError):
    """Raised for a malformed request; the message says where it is malformed."""


def read(peer: Peer, sender: bytes, tag: bytes, verb: p.Verb[Any, Any], frames: Sequence[bytes]) -> Asked:
    """Parse a request from the frames after its tag; raise Malformed."""
    try:
        request = verb.decode_request(frames[0])
        if verb is p.PUT:
            return _put(peer, sender, tag, request, frames[1:])
        items = p.ITEMS.get(verb.name)
        if items is not None:
            those = request.settlements if verb is p.SETTLE else request.messages
            for frame in frames[1:]:
                those.extend(items(frame))
        if verb is p.SETTLE:
            return Asked(peer, sender, tag, verb, request, plain=_check_settlements(request.settlements))
        check = _CHECKS.get(verb.name)
        if check is not None:
            check(request)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, IndexError) as error:
        raise Malformed(f"{verb.name.decode()}: {error}") from None
    return Asked(peer, sender, tag, verb, request)


def _put(peer: Peer, sender: bytes, tag: bytes, put: p.Put, payloads: Sequence[bytes]) -> Asked:
    if not put.ids:
        put.ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, f"{put.request}/{n}")) for n in range(len(payloads))]
    if len(put.ids) != len(payloads):
        raise Malformed(f"put: {len(put.ids)} ids for {len(payloads)} payloads")
    return Asked(peer, sender, tag, p.PUT, put, payloads)


@lru_cache(10_000)
def _is_topic(name: str) -> bool:
    try:
        msgspec.convert(name, p.Topic)
    except msgspec.ValidationError:
        return False
    return True


def _check_messages(messages: Sequence[Outgoing], *, members: bool = True) -> None:
    for message in messages:
        if not 0 < len(message.id) <= _LONGEST_ID:
            raise Malformed(f"push: an id has 1 to {_LONGEST_ID} characters")
        if not _is_topic(message.topic):
            raise Malformed(f"push: {message.topic[:200]!r} is not a topic name")
        if not 0 <= message.priority <= 9:
            raise Malformed("push: a priority is 0 to 9")
        if not math.isfinite(message.delay):
            raise Malformed("push: a delay is a number of seconds")
        if message.unique is not None and not math.isfinite(_number(message.unique.scope)):
            raise Malformed("push: a unique key's scope is queued, done, or a number of seconds")
        if message.unique is not None and not math.isfinite(_number(message.unique.longest)):
            raise Malformed("push: the limit of a unique key is a number of seconds")
        if message.member is not None and not members:
            raise Malformed(str(misplaced(message.id, message.member)))
        if message.key or message.limits:
            if len(message.key) > LONGEST_KEY:
                raise Malformed(f"push: a key has at most {LONGEST_KEY} characters")
            _check_limits(message.limits)


def _check_push(request: p.Push) -> None:
    _check_messages(request.messages, members=False)


def _check_part(request: p.PushPart) -> None:
    part = request.part
    _check_messages(request.messages)
    if not 0 < len(part.flow) <= _LONGEST_ID or not 0 <= part.number < _LARGEST:
        raise Malformed(f"push_part: the id of a flow has 1 to {_LONGEST_ID} characters, and parts are numbered from 0")
    if not (math.isfinite(part.ttl) and math.isfinite(part.open_for)):
        raise Malformed("push_part: ttl and open_for are numbers of seconds")


def _check_checkpoints(request: p.Checkpoints) -> None:
    for one in request.checkpoints:
        _check_token(one.token)


def _check_document(request: p.PutDocument) -> None:
    try:
        documents.check(request.kind, request.name, request.data, request.ttl)
    except BackendError as error:
        raise Malformed(f"put_document: {error}") from None


def _check_statistics(request: p.AddStatistics) -> None:
    try:
        statistics.check(request.rows)
    except BackendError as error:
        raise Malformed(f"add_statistics: {error}") from None


def _check_limits(limits: Sequence[str]) -> None:
    if len(limits) > MOST_LIMITS or list(limits) != sorted(set(limits)):
        raise Malformed(f"the limits of a job are sorted, at most {MOST_LIMITS}, and each is named once")
    for limit in limits:
        _check_limit(limit)


def _check_limit(limit: str) -> None:
    if not LIMIT.fullmatch(limit):
        raise Malformed(f"{limit[:200]!r} is not a limit: a name, or name:value")


def _check_definitions(request: p.DefineLimits | p.OverrideLimit) -> None:
    if isinstance(request, p.OverrideLimit):
        _check_definition(request.name, request.definition or Limit())
        return
    for name, limit in request.limits.items():
        _check_definition(name, limit)
        if name != name_of(name):
            raise Malformed(f"define_limits: {name[:200]!r} has a value: only names are defined")
    if any(rules.max_per_key is not None and not 0 < rules.max_per_key < _LARGEST for rules in request.lines.values()):
        raise Malformed("define_limits: max_per_key is at least 1")


def _check_definition(limit: str, definition: Limit) -> None:
    _check_limit(limit)
    concurrency, interval = definition.concurrency, definition.interval
    if concurrency is not None and not 0 <= concurrency < _LARGEST:
        raise Malformed(f"{limit}: a concurrency is 0 or more")
    if interval is not None and not (math.isfinite(interval) and interval > 0):
        raise Malformed(f"{limit}: an interval is a number of seconds above 0")
    if not 1 <= definition.burst < _LARGEST:
        raise Malformed(f"{limit}: a burst is at least 1")


def _number(scope: object) -> float:
    return float(scope) if isinstance(scope, (int, float)) else 0.0


def _check_token(token: Token) -> None:
    if isinstance(token, int) and not 0 <= token < _LARGEST:
        raise Malformed("a token is as it was handed out")


def _check_notes(notes: Sequence[Note]) -> None:
    for note in notes:
        _check_token(note.token)
        if not 0 <= note.first < _LARGEST:
            raise Malformed("a note's first line has a number from 0")


def _check_settlements(settlements: Sequence[Settlement]) -> bool:
    """Raise Malformed unless all are well formed; return whether they are all plain acknowledgements."""
    plain = True
    for one in settlements:
        _check_token(one.token)
        if one.outcome is _DONE and not (one.followups or one.close_limits or one.timeline) and one.result is None:
            continue
        plain = False
        if not math.isfinite(one.after) or not math.isfinite(one.result_ttl):
            raise Malformed("settle: after and result_ttl are numbers of seconds")
        if one.error:
            check_json("settle: error", one.error)
        if one.notes is not None:
            _check_notes((one.notes,))
        _check_messages(one.followups)
        _check_limits(one.limits or ())
        for limit, seconds in one.close_limits:
            _check_limit(limit)
            if not math.isfinite(seconds):
                raise Malformed("settle: a limit is closed for a number of seconds")
    return plain


def check_json(what: str, document: bytes) -> None:
    """Raise Malformed unless `document` is one JSON document."""
    try:
        msgspec.json.decode(document)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Malformed(f"{what} has to be JSON: {error}") from None


_CHECKS: dict[bytes, Callable[[Any], None]] = {
    p.PUSH.name: _check_push,
    p.PUSH_GUARDED.name: _check_push,
    p.PUSH_PART.name: _check_part,
    p.CHECKPOINT.name: _check_checkpoints,
    p.NOTE.name: lambda request: _check_notes(request.notes),
    p.PUT_DOCUMENT.name: _check_document,
    p.ADD_STATISTICS.name: _check_statistics,
    p.DEFINE_LIMITS.name: _check_definitions,
    p.OVERRIDE_LIMIT.name: _check_definitions,
}
