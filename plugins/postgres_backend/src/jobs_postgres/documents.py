"""The calls about documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jobs_core.backends.base import Backend
from jobs_core.backends.documents import MOST, Document, check, page_of, too_many
from jobs_core.errors import BackendError

from .connection import ServerConnection
from .errors import TOO_MANY

_LISTED = """
SELECT name, data, version, changed_at, until - {s}.now_() FROM {s}.document
 WHERE kind = %s AND (until IS NULL OR until > {s}.now_())
"""


class PostgresDocumentCalls(Backend):
    """The calls about documents, a base class of `PostgresBackend`."""

    _connection: ServerConnection

    def documents(self, kind: str, most: int, after: str = "") -> list[Document]:
        rows = self._connection.rows(
            self._connection.sql(_LISTED + " AND name > %s ORDER BY name LIMIT %s"), (kind, after, most)
        )
        return page_of(_documents(kind, rows), most)

    def document(self, kind: str, name: str) -> Document | None:
        rows = self._connection.rows(self._connection.sql(_LISTED + " AND name = %s"), (kind, name))
        return next(_documents(kind, rows), None)

    def document_versions(self, kinds: Sequence[str]) -> dict[str, int]:
        rows = self._connection.rows(
            self._connection.sql("SELECT kind, version FROM {s}.document_kind WHERE kind = ANY (%s)"), (list(kinds),)
        )
        return dict.fromkeys(kinds, 0) | dict(rows)

    def put_document(
        self, kind: str, name: str, data: bytes, request: str, *, expected: int | None = None, ttl: float | None = None
    ) -> int | None:
        check(kind, name, data, ttl)
        version: int | None = self._change(kind, name, data, request, expected, ttl)
        return version

    def delete_document(self, kind: str, name: str, request: str, *, expected: int | None = None) -> bool:
        return bool(self._change(kind, name, None, request, expected, None))

    def _change(self, kind: str, name: str, data: bytes | None, request: str, expected: int | None, ttl: float | None) -> Any:
        try:
            return self._connection.function("change_document", kind, name, data, f"document:{request}", expected, ttl, MOST)
        except BackendError as error:
            if getattr(error.__cause__, "sqlstate", None) == TOO_MANY:
                raise too_many(kind) from None
            raise


def _documents(kind: str, rows: Iterable[Sequence[Any]]) -> Iterator[Document]:
    return (Document(kind, name, data, version, changed_at, left) for name, data, version, changed_at, left in rows)
