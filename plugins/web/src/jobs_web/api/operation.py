"""What the table of calls consists of, and how a call reads its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ..errors import Refused
from ..roles import Role
from ..visit import Visit

PREFIX = "/api/v1"

NDJSON = "application/x-ndjson"

MOST_LISTED = 1000
"""Most items of one page."""

FURTHEST = 100_000
"""Number of items behind which a listing ends: a page further on would cost the backend as much as all before it."""


class Param(Struct, frozen=True):
    """A parameter of the query."""

    name: str
    about: str
    least: int | None = None  # a number, with its bounds and default
    most: int = 0
    default: int = 0
    choices: tuple[str, ...] = ()
    required: bool = False

    def schema(self) -> dict[str, Any]:
        """Return its JSON Schema."""
        if self.least is not None:
            return {"type": "integer", "minimum": self.least, "maximum": self.most, "default": self.default}
        return {"type": "string", "enum": list(self.choices)} if self.choices else {"type": "string", "minLength": 1}


LIMIT = Param("limit", "Most items of the answer.", 1, MOST_LISTED, 100)
CURSOR = Param("cursor", "The `next` of the page before.")


class Operation(Struct, frozen=True):
    """One call of the API."""

    method: str
    path: str  # below PREFIX
    endpoint: Any
    role: Role | None
    about: str
    answer: Any = None  # the type of the answer's body
    status: int = 200
    body: Any = None
    query: tuple[Param, ...] = ()
    once: bool = False  # takes an Idempotency-Key
    media: str = "application/json"  # of the answer
    lines: bool = False  # the body may also be NDJSON
    producers: bool = False  # see `Route.producers`


def queried(visit: Visit, params: tuple[Param, ...]) -> Mapping[str, Any]:
    """Return the parameters of the query; refuse what is unknown, given twice, or out of bounds."""
    given = visit.request.query_params.multi_items()
    known = {param.name: param for param in params}
    found: dict[str, Any] = {param.name: param.default for param in params if param.least is not None}
    for name, text in given:
        param = known.get(name)
        if param is None:
            raise Refused(
                400,
                f"unknown parameter {name[:80]!r}: "
                + (f"this call takes {', '.join(known)}" if known else "this call takes none"),
            )
        if sum(name == other for other, _ in given) > 1:
            raise Refused(400, f"{name}: given twice")
        found[name] = _value(param, text)
    for param in params:
        if param.required and param.name not in found:
            raise Refused(400, f"{param.name} is missing")
    return found


def _value(param: Param, text: str) -> Any:
    if param.least is not None:
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and param.least <= int(text) <= param.most):
            raise Refused(400, f"{param.name}: expected a number from {param.least} to {param.most}, got {text[:80]!r}")
        return int(text)
    if param.choices and text not in param.choices:
        raise Refused(400, f"{param.name}: expected one of {', '.join(param.choices)}, got {text[:80]!r}")
    if not text:
        raise Refused(400, f"{param.name}: expected a value, got none")
    return text


def offset_of(visit: Visit, query: Mapping[str, Any]) -> int:
    """Return where a page begins, from the cursor that the page before gave. Only cursors that we have made are accepted."""
    cursor = query.get("cursor")
    if cursor is None:
        return 0
    try:
        found = visit.site.seal.open("cursor", cursor)
    except ValueError:
        found = None
    if not isinstance(found, list) or len(found) != 2 or found[0] != visit.request.url.path:
        raise Refused(400, "cursor: it is not the `next` of a page of this listing, or is older than a day")
    return int(found[1])


def next_of(visit: Visit, offset: int, got: int, limit: int) -> str | None:
    """Return the cursor of the next page; None if there is none, or the listing ends here."""
    if got < limit or offset + got >= FURTHEST:
        return None
    return visit.site.seal.seal("cursor", [visit.request.url.path, offset + got], 86400.0)


def decoded(raw: bytes, kind: Any) -> Any:
    """Return a body as its type; refuse what is no JSON, or does not fit."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise Refused(422, str(error).replace("`", "")) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}") from None
