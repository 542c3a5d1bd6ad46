"""The results that a member takes as arguments: put into their places when the job is about to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..arguments import Arguments
from ..backends.base import Delivery
from ..errors import ArgumentError, MessageError, PayloadError
from ..message import Message
from ..placeholders import parameter_of, unescaped


def fill(message: Message, results: Mapping[str, str], delivery: Delivery, read: Callable[[str, str, bytes], Any]) -> Message:
    """Put the results that a message takes into its arguments, in place; `read` returns the value of a stored one.

    `results` are the members by place, as in the envelope.

    Raises PayloadError, which names the member, for one that is missing or cannot be read, and MessageError for an envelope
    whose places do not exist.
    """
    if not delivery.flow:
        raise PayloadError("it takes results of other members, but was not pushed as a member of a flow")
    if message.flow not in (None, delivery.flow):  # the envelope may be signed, what the store says about it is not
        raise PayloadError(f"it takes results of flow {message.flow}, but was delivered as a member of flow {delivery.flow}")
    inputs = dict(delivery.inputs)
    for pointer, member in results.items():
        holder, key = _place(message, pointer)
        stored = inputs.get(member)
        if stored is None:
            raise PayloadError(f"the result of member {member} is not there: {_why_missing(member, results, delivery)}")
        try:
            holder[key] = read(delivery.flow, member, stored)
        except PayloadError as error:
            raise PayloadError(f"the result of member {member} cannot be an argument: {error}") from None
    return message


def _why_missing(member: str, results: Mapping[str, str], delivery: Delivery) -> str:
    """Say why a result was not delivered: a backend delivers results in this order, as many as fit into `max_message`."""
    delivered, order = dict(delivery.inputs), list(dict.fromkeys(results.values()))
    none = f"flow {delivery.flow} has no member of this id, or it has stored no result (`jobsctl flow show {delivery.flow}`)"
    if not delivered or any(later in delivered for later in order[order.index(member) + 1 :]):
        return none
    return (
        f"the results that this job takes are larger together than max_message, or {none}. If they are large, pass "
        "results=[...] to flow.add instead of .result, and read them with current_job().results()"
    )


def _place(message: Message, pointer: str) -> tuple[Any, Any]:
    """Return the list or dict in which a pointer's place is, and its index or key; raise MessageError if it holds no null."""
    _, *tokens = pointer.split("/")
    holder: Any = {"args": message.args, "kwargs": message.kwargs}
    key: Any = None
    try:
        if not pointer.startswith("/") or len(tokens) < 2:
            raise KeyError(pointer)
        for token in tokens:
            holder = holder if key is None else holder[key]
            key = _index(token) if isinstance(holder, list) else unescaped(token)
            if not isinstance(holder, (list, dict)):
                raise KeyError(pointer)
        if holder[key] is not None:
            raise KeyError(pointer)
    except (LookupError, ValueError):
        raise MessageError(f"results: there is no null at {pointer!r} of the arguments for a result") from None
    return holder, key


def _index(token: str) -> int:
    if not token.isdecimal() or not token.isascii() or (len(token) > 1 and token[0] == "0"):
        raise ValueError(token)
    return int(token)


def naming_members(error: ArgumentError, message: Message, arguments: Arguments) -> ArgumentError:
    """Return an error about an argument that names the members whose results are in it, if there are any."""
    places = arguments.places_of(error.argument, message.args, message.kwargs)
    members = {member: None for pointer, member in (message.results or {}).items() if parameter_of(pointer) in places}
    if not members:
        return error
    shown = ", ".join(list(members)[:3]) + (", …" if len(members) > 3 else "")
    what = "the result of member" if len(members) == 1 else "the results of members"
    return ArgumentError(f"{error} (it takes {what} {shown})", argument=error.argument)
