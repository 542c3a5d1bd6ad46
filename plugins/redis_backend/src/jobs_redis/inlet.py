"""The inlet: convert entries that a producer in any language has pushed to a plain list into messages.

Nothing in an entry is trusted. An entry that is not an envelope within the limits, or not signed although signatures are
required, is carried unchanged, under an id of its own and without any effect on other jobs; the worker that gets it moves
it to the dead letters with the reason. An entry that is larger than any message may be is moved there by the server, see
`Store.admit`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from jobs_core.backends.base import Outgoing
from jobs_core.ids import new_id
from jobs_core.message import Priority, Seconds, UniqueKey

Verify = Callable[[bytes], bytes]


class _Envelope(Struct):
    """The fields on which a queue acts; the worker that runs the job reads, and checks, the whole envelope."""

    v: int
    topic: str
    id: Annotated[str, Meta(max_length=128)] = ""
    priority: Priority = 0
    delay: Seconds | None = None
    unique: UniqueKey | None = None


_decode = msgspec.json.Decoder(_Envelope).decode


def outgoing(topic: str, payload: bytes, verify: Verify | None = None) -> Outgoing:
    """Return the message for an entry of a topic's inlet; never raise."""
    try:
        envelope = _envelope(topic, payload, verify)
    except Exception:  # its author is unknown, and it must not stay at the inlet's head, whatever is wrong with it
        return Outgoing(new_id(), topic, payload)
    unique = envelope.unique
    if unique is not None:
        unique = msgspec.structs.replace(unique, key=own_key(topic, unique.key))
    chosen = bool(envelope.id)
    return Outgoing(envelope.id or new_id(), topic, payload, envelope.priority, envelope.delay or 0.0, unique, chosen)


def _envelope(topic: str, payload: bytes, verify: Verify | None) -> _Envelope:
    """Return the envelope in an entry; raise for an entry that is none, or that the worker will refuse."""
    if verify is not None:
        body = verify(payload)
    else:
        body = payload.partition(b"\n")[2] if payload.startswith(b"jobs1.") else payload
    envelope = _decode(body)
    if verify is not None and envelope.topic != topic:
        raise ValueError("signed for another topic")
    return envelope


def own_key(topic: str, key: str) -> str:
    """Put a foreign producer's unique key into the space of its inlet: it must not hold, or replace, the application's keys.

    The application's own keys begin with the name of a job, which contains no space.
    """
    return f"inlet {topic} {key}"
