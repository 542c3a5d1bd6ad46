"""The few fields of an envelope that a backend reads, in messages that another program has put into its queue."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from ..message import MAX_ID, LimitName, Priority, Seconds, UniqueKey


class Envelope(Struct):
    """The fields that a backend reads; the worker that runs the job decodes and checks the whole envelope."""

    v: int
    topic: str
    id: Annotated[str, Meta(max_length=MAX_ID)] = ""
    priority: Priority = 0
    delay: Seconds | None = None
    unique: UniqueKey | None = None
    key: str | None = None
    limits: list[LimitName] | None = None


_decode = msgspec.json.Decoder(Envelope).decode


def peek(body: bytes) -> Envelope | None:
    """Return the fields of an unsigned payload; None if it is not an envelope that a worker could read.

    Pass the body that `BackendOptions.verify` returns if it is set, else the body that `unsigned` returns.
    """
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
