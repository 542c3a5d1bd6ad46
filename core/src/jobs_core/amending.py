"""Change dead letters: the message of a dead letter with other arguments, or for another topic, checked and signed anew.

Limits, key, unique key and headers stay as they were: they were computed when the job was enqueued.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from msgspec.structs import replace

from .app import App
from .backends.base import JobRecord
from .errors import ArgumentError, SignatureError
from .message import Message, unsigned

Arguments: TypeAlias = tuple[list[Any], dict[str, Any]]
"""Positional and keyword arguments, as JSON values."""

Edit: TypeAlias = Callable[[Message], Arguments]
"""Returns the new arguments of a message; raises ArgumentError."""

INSTEAD: Final = (
    "enqueue the job anew, with other arguments or to another topic, and delete the letter with `jobsctl dead drop`"
)
"""What to do where a backend cannot change dead letters."""


def arguments_of(app: App, record: JobRecord) -> Message:
    """Return the message of a dead letter with its arguments.

    Raises MessageError for one that cannot be read, or whose signature is wrong, and PayloadError.
    """
    return app.payloads.unpacked(app.envelope(record))


def amended(app: App, record: JobRecord, edit: Edit | None = None, topic: str = "") -> bytes:
    """Return the payload of a dead letter with other arguments, or for another topic, signed if this application has keys.

    The arguments are checked against the signature of the job function, which has to be imported for that. A message whose own
    signature is wrong is refused: it would be signed anew by us. Raises ArgumentError, MessageError, SignatureError, UnknownJob
    and PayloadError.
    """
    if not app.signer and unsigned(record.payload) is not record.payload:
        raise SignatureError(
            f"{record.id} is signed, and there are no signing_keys here to sign it anew: no worker would accept it. Change it "
            "where signing_keys are configured"
        )
    message = app.envelope(record)
    if edit is not None:
        message = app.payloads.unpacked(message)
        message = _edited(app, record, message, edit)
    return app.payload_of(replace(message, id=message.id or record.id, topic=topic or record.topic))


def _edited(app: App, record: JobRecord, message: Message, edit: Edit) -> Message:
    if message.results:
        raise ArgumentError(
            f"{record.id} takes results of other members of its flow as arguments: they cannot be edited. Enqueue the job anew"
        )
    job = app.registry.find(message.job or "")
    args, kwargs = edit(message)
    job.arguments.check(args, kwargs)
    job.arguments.convert(copy.deepcopy(args), copy.deepcopy(kwargs))  # as the worker does
    return replace(message, args=args, kwargs=kwargs)


def setting(app: App, values: dict[str, Any]) -> Edit:
    """Return the edit that gives some parameters other values, whether a call passes them by position or by name."""

    def edit(message: Message) -> Arguments:
        job = app.registry.find(message.job or "")
        args, kwargs = list(message.args), dict(message.kwargs)
        for name, value in values.items():
            places = job.arguments.places_of(name, args, kwargs)
            if places and isinstance(places[0], int):
                args[places[0]] = value
            else:
                kwargs[name] = value
        return args, kwargs

    return edit
