"""`Idempotency-Key`: a request that is repeated under its key is carried out once, whatever process and machine gets it.

A document of the backend keeps, for a day, what was asked under a key, and the answer. Until there is an answer, a repetition
uses the same ids and the same request id, so that the backend adds nothing twice; that holds for as long as it remembers
requests. A repetition that comes later than that, and finds no answer, is refused: nobody knows what became of the first.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from jobs_core import BackendUnavailable, JobsError
from jobs_core.backends.base import Backend
from jobs_core.backends.documents import ABSENT, Document
from jobs_core.operating.producing import new_seed

from ..errors import Refused
from ..visit import Visit

HEADER = "idempotency-key"
KEY = re.compile(r"[\x21-\x7e]{1,200}")
KEPT = 86400.0
"""Seconds for which a key is remembered."""

SAFE = 50.0
"""Seconds within which a repetition may carry out again what has no answer yet: less than backends remember requests."""


class Answer(Struct, frozen=True):
    """What a call answers."""

    status: int
    body: Any
    headers: dict[str, str] = {}


class _Kept(Struct, frozen=True, omit_defaults=True):
    """The body of a document."""

    asked: str  # fingerprint of the request
    seed: str  # from which ids and the request id are made
    status: int = 0
    body: Any = None
    headers: dict[str, str] = {}


def once(visit: Visit, raw: bytes, act: Callable[[str], Answer]) -> Answer:
    """Carry out a request, and return its answer. `act` gets the seed: "" if the request has no key. Blocks."""
    key = visit.request.headers.get(HEADER)
    if key is None:
        return act("")
    if not KEY.fullmatch(key) or len(visit.request.headers.getlist(HEADER)) > 1:
        raise Refused(400, "Idempotency-Key: expected 1 to 200 printable ASCII characters without spaces, once")
    user = visit.user.name if visit.user is not None else ""
    name = hashlib.sha256(f"{user}\0{key}".encode()).hexdigest()
    kind = f"http-key-{name[:2]}"  # 256 kinds, each of which has room for 10,000 keys
    asked = hashlib.sha256(f"{visit.request.method} {visit.request.url.path}\0".encode() + raw).hexdigest()
    document, kept, ours = visit.operate(lambda backend: _begun(backend, kind, name, asked))
    if kept.asked != asked:
        raise Refused(422, "Idempotency-Key: this key was used for another request: use a new one for each")
    if kept.status:
        return Answer(kept.status, kept.body, {**kept.headers, "Idempotent-Replayed": "true"})
    if not ours and (document.expires_in or 0.0) < KEPT - SAFE:
        raise Refused(
            409, f"the first request with this key was interrupted, and its outcome is unknown: look for job {kept.seed}"
        )
    try:
        answer = act(kept.seed)
    except BackendUnavailable:
        raise
    except (Refused, JobsError):  # nothing was done: the key may be used again
        visit.operate(lambda backend: backend.delete_document(kind, name, f"{kept.seed}-no", expected=document.version))
        raise
    _keep(visit, kind, name, kept, document, answer)
    return answer


def _begun(backend: Backend, kind: str, name: str, asked: str) -> tuple[Document, _Kept, bool]:
    """Return the document of a key, which is made if there is none, and whether it was."""
    made = False
    while (document := backend.document(kind, name)) is None:
        seed = new_seed()
        made = backend.put_document(kind, name, _encoded(_Kept(asked, seed)), seed, expected=ABSENT, ttl=KEPT) is not None
    return document, msgspec.json.decode(document.data, type=_Kept), made


def _keep(visit: Visit, kind: str, name: str, kept: _Kept, document: Document, answer: Answer) -> None:
    """Keep the answer. If that fails, the answer is given all the same: a repetition finds the same ids."""
    data = _encoded(_Kept(kept.asked, kept.seed, answer.status, answer.body, answer.headers))
    try:
        visit.operate(
            lambda backend: backend.put_document(kind, name, data, f"{kept.seed}-done", expected=document.version, ttl=KEPT)
        )
    except JobsError:
        return


def _encoded(kept: _Kept) -> bytes:
    return msgspec.json.encode(kept)
