"""The few fields of an envelope on which a queue may act, for messages that another program has put into it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from ..message import MAX_ID, Priority, Seconds, UniqueKey


class Envelope(Struct):
    """The fields on which a queue acts; the worker that runs the job reads, and checks, the whole envelope."""

    v: int
    topic: str
    id: Annotated[str, Meta(max_length=MAX_ID)] = ""
    priority: Priority = 0
    delay: Seconds | None = None
    unique: UniqueKey | None = None


_decode = msgspec.json.Decoder(Envelope).decode


def peek(body: bytes) -> Envelope | None:
    """Return these fields of a payload without its signature line; None if it is no envelope that a worker could read.

    Where `BackendOptions.verify` is set, pass the body that it returns, else what `unsigned` returns.
    """
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
