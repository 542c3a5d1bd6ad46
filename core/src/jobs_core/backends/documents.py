"""Documents: small named values beside the queue, for what all machines of an installation have to agree on.

A document has a *kind*, a name that is unique in its kind, and data: one JSON document of up to LARGEST bytes, which a backend
never parses. A kind holds MOST documents at most.

*Versions.* Each kind counts the changes to its documents; a document's version is the number of its last change. So a version
never returns, even if a document is deleted and written again. A change may name the version that it expects, or ABSENT, and
is made only if that is still right: of several such changes, one succeeds. The number of a kind's last change tells a reader
whether to read its documents again.

*Time to live.* A document that has expired, by the broker's clock, counts as absent at once. That is no change of the kind.

*Retried calls.* A change has a request id. If it is repeated within the dedup window, it changes nothing and returns the first
answer.

*Guards.* With the feature `guards`, jobs are pushed in the same step in which the version of a document is compared: once a
change of that document has returned, no push that expects an earlier version adds anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ..errors import BackendError

if TYPE_CHECKING:
    from .base import Operable

LARGEST: Final = 65_536
"""Most bytes of one document."""

MOST: Final = 10_000
"""Most documents of one kind."""

PAGE: Final = 4_000_000
"""Bytes of documents above which a page ends early."""

ABSENT: Final = 0
"""The version of a document that does not exist."""

KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
NAME: Final = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,200}")


class Document(Struct, frozen=True):
    """One document, as it was read."""

    kind: str
    name: str
    data: bytes
    version: int
    changed_at: float = 0.0  # broker's clock
    expires_in: float | None = None  # seconds; None: never


class Guard(Struct, frozen=True):
    """The version that a document must have when jobs are pushed; ABSENT if it must not exist."""

    kind: str
    name: str
    version: int


def check(kind: str, name: str, data: bytes = b"", ttl: float | None = None) -> None:
    """Raise BackendError if a document cannot be stored."""
    if not KIND.fullmatch(kind):
        raise BackendError(f"invalid kind of document {kind!r}: expected up to 32 of a-z, 0-9 and -")
    if not NAME.fullmatch(name):
        raise BackendError(
            f"{kind}: invalid name of a document: expected 1 to 200 characters, none of them a control character"
        )
    if len(data) > LARGEST:
        raise BackendError(f"document {kind}/{name} has {len(data):,} bytes, the most is {LARGEST:,}")
    if ttl is not None and not 0 < ttl < float("inf"):
        raise BackendError(f"document {kind}/{name}: expected a time to live above 0 s, got {ttl:g}")


def too_many(kind: str) -> BackendError:
    """Return the error for a document too many of one kind."""
    return BackendError(f"there are {MOST:,} documents of kind {kind}, which is the most: delete some first")


def all_of(backend: Operable, kind: str) -> Iterator[Document]:
    """Return all documents of a kind by name, one page after the other; those that change meanwhile may be seen or not."""
    after = ""
    while page := backend.documents(kind, 1000, after):
        yield from page
        after = page[-1].name


def page_of(found: Iterator[Document], most: int) -> list[Document]:
    """Return the first `most` documents, fewer if they would exceed PAGE; at least one if there is any."""
    page: list[Document] = []
    size = 0
    for document in found:
        size += len(document.data)
        if len(page) >= most or (page and size > PAGE):
            break
        page.append(document)
    return page
