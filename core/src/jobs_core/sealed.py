"""Documents that change what machines do: schedule entries and commands, signed where `signing_keys` are set.

The signature covers the kind and name of the document, the target, the version that it replaces, when it was issued and when it
expires, and its body, byte for byte. So a document is refused if it was copied to another name, changed, or made without the
keys. Whoever can write to the backend can still delete documents, and put back older ones. A reader that has seen the newer one
refuses an older one, unless the document was deleted in between.
"""

from __future__ import annotations

import time

import msgspec
from msgspec import Raw, Struct

from .backends.documents import Document
from .errors import SignatureError
from .message import Signer

VERSION = 1


class Sealed(Struct, frozen=True):
    """The data of such a document."""

    v: int
    body: Raw  # JSON
    issued_at: int  # milliseconds, by the clock of the machine that issued it
    replaces: int = 0  # the version of the document that it replaces
    target: str = "*"  # the machine for which it is meant; "*": all
    expires_at: int | None = None  # milliseconds; None: never
    signature: str = ""


def seal(
    signer: Signer,
    kind: str,
    name: str,
    body: object,
    *,
    replaces: int = 0,
    after: int = 0,
    target: str = "*",
    ttl: float | None = None,
) -> bytes:
    """Return the data of a document, signed if there are keys; it counts as issued later than `after`, in milliseconds.

    `replaces` is the version of the document that it replaces, and `after` when that was issued: clocks differ.
    """
    issued_at = max(round(time.time() * 1000), after + 1)
    expires_at = None if ttl is None else issued_at + round(ttl * 1000)
    made = Sealed(VERSION, Raw(msgspec.json.encode(body)), issued_at, replaces, target, expires_at)
    if signer:
        made = msgspec.structs.replace(made, signature=signer.sign_document(_signed(kind, name, made)))
    return msgspec.json.encode(made)


def unseal(signer: Signer, document: Document) -> Sealed:
    """Return the data of a document; raise SignatureError, before its body is read, if it cannot be trusted or read."""
    try:
        found = msgspec.json.decode(document.data, type=Sealed)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise SignatureError(f"it is not a document of jobs: {error}") from None
    if signer:
        signer.verify_document(found.signature, _signed(document.kind, document.name, found))
    if found.v > VERSION:
        raise SignatureError(f"it was written by a later jobs-core (version {found.v}): upgrade jobs-core here")
    if found.replaces >= document.version:
        raise SignatureError(f"it says that it replaces version {found.replaces}, but is version {document.version} itself")
    return found


def _signed(kind: str, name: str, made: Sealed) -> bytes:
    """Return what the signature covers; no envelope and no result begins like this."""
    facts = msgspec.json.encode([kind, name, made.v, made.target, made.replaces, made.issued_at, made.expires_at])
    return b"document\0" + facts + b"\0" + bytes(made.body)
