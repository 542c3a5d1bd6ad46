"""Documents: small named values beside the queue, on which all machines of an installation have to agree.

A document has a *kind*, a name that is unique in its kind, and data: one JSON document of up to LARGEST bytes, which a backend
never parses. A kind has up to MOST documents.

*Versions.* Each kind counts the changes to its documents; a document's version is the number of its last change. So a version
is never used twice, even if a document is deleted and written again. A change may name the version that it expects, or ABSENT.
It is made only if the document has this version: of several changes that expect the same version, one succeeds. The number of a
kind's last change tells a reader whether to read its documents again.

*Time to live.* A document that has expired, by the broker's clock, is absent at once. Its expiry does not count as a change of
the kind.

*Retried calls.* A change has a request id. If the same request is repeated within the dedup window, it changes nothing and
returns the first answer.

*Guards.* With the feature `guards`, a push compares the version of a document and adds its jobs in one step: once a change of
that document has returned, no push that expects an earlier version adds anything.
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
"""Most bytes of documents in one page, unless it has only one document."""

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
    """Return the error for one document more than a kind can have."""
    return BackendError(f"there are {MOST:,} documents of kind {kind}, which is the most: delete some first")


def all_of(backend: Operable, kind: str) -> Iterator[Document]:
    """Yield all documents of a kind by name, read page by page; documents that change meanwhile may be missing."""
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
