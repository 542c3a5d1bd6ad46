"""The inlet: JSON that a producer in any language has put into a plain list, made into messages."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from jobs_core.backends.base import Outgoing
from jobs_core.ids import new_id
from jobs_core.message import UniqueKey


class _Envelope(Struct):
    """What a queue acts on; who runs the job reads, and checks, the whole of it."""

    v: int
    topic: str
    id: Annotated[str, Meta(max_length=128)] = ""
    priority: Annotated[int, Meta(ge=0, le=9)] = 0
    delay: Annotated[float, Meta(ge=0)] | None = None
    unique: UniqueKey | None = None


_decode = msgspec.json.Decoder(_Envelope).decode


def outgoing(topic: str, payload: bytes) -> Outgoing:
    """The message for an entry of a topic's inlet. What is no envelope is carried as it came, under an id of its own."""
    body = payload.partition(b"\n")[2] if payload.startswith(b"jobs1.") else payload
    try:
        envelope = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Outgoing(new_id(), topic, payload)
    return Outgoing(envelope.id or new_id(), topic, payload, envelope.priority, envelope.delay or 0.0, envelope.unique)
