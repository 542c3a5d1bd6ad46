"""The body of a request, bounded, and the answer of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from jobs_core.machines import acting_as

from ..errors import Refused
from ..visit import Visit
from .once import Answer, once

LARGEST = 10_000_000
"""Most bytes of a body."""

PATIENCE = 60.0
"""Seconds within which a body has to arrive: a client that sends a byte now and then holds nothing for longer."""


async def body_of(request: Request, largest: int = LARGEST, what: str = "body") -> bytes:
    """Return the body of a request; refuse one that is too large before all of it has arrived."""
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > largest:
        raise _too_large(largest, what)
    body = bytearray()
    try:
        with anyio.fail_after(PATIENCE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > largest:
                    raise _too_large(largest, what)
    except TimeoutError:
        raise Refused(408, f"the {what} did not arrive within {PATIENCE:g} s") from None
    except ClientDisconnect:  # nobody reads the answer
        raise Refused(400, f"the {what} ended before its length") from None
    return bytes(body)


def _too_large(largest: int, what: str) -> Refused:
    advice = ": send it in several requests" if what == "body" else ""
    return Refused(413, f"the {what} is larger than {largest:,} bytes{advice}")


def answered(answer: Answer) -> Response:
    """Return an answer as JSON."""
    return Response(msgspec.json.encode(answer.body), answer.status, answer.headers, "application/json")


def asking(act: Callable[[Visit], Any]) -> Callable[[Visit], Response]:
    """Return the endpoint of a call that only asks: its answer is what `act` returns."""

    def endpoint(visit: Visit) -> Response:
        return answered(Answer(200, act(visit)))

    return endpoint


def acting(act: Callable[[Visit, bytes, str], Answer]) -> Callable[[Visit], Any]:
    """Return the endpoint of a call that changes something: `act` gets the body, and the seed of an Idempotency-Key."""

    async def endpoint(visit: Visit) -> Response:
        raw = await body_of(visit.request)
        with acting_as(through_the_api(visit)):
            return answered(await run_in_threadpool(once, visit, raw, lambda seed: act(visit, raw, seed)))

    return endpoint


def through_the_api(visit: Visit) -> str:
    """Return who acts, for what is stored of a change."""
    return f"{visit.user.name} through the API" if visit.user is not None else ""
