"""The documents of a queue file. Their tables are created at the first change, so that other files stay as they are."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator

from ..documents import ABSENT, MOST, Document, Guard, page_of, too_many
from . import requests
from .connection import Transaction

_TABLES = (
    """CREATE TABLE IF NOT EXISTS document (
    kind       TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    changed_at REAL    NOT NULL,
    until      REAL,                            -- when it expires
    data       BLOB    NOT NULL,
    UNIQUE (kind, name)
)""",
    "CREATE INDEX IF NOT EXISTS document_until ON document (until) WHERE until IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS document_kind (kind TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID",
)
_COLUMNS = "name, data, version, changed_at, until"
_LIVE = "(until IS NULL OR until > :now)"


def _has_tables(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'document_kind'").fetchone()[0])


def get(db: sqlite3.Connection, kind: str, name: str, now: float) -> Document | None:
    """Return a document; None if it is absent."""
    if not _has_tables(db):
        return None
    sql = f"SELECT {_COLUMNS} FROM document WHERE kind = :kind AND name = :name AND {_LIVE}"
    row = db.execute(sql, {"kind": kind, "name": name, "now": now}).fetchone()
    return None if row is None else _document(kind, row, now)


def listed(db: sqlite3.Connection, kind: str, most: int, after: str, now: float) -> list[Document]:
    """List documents by name, see `Operable.documents`."""
    if not _has_tables(db):
        return []
    sql = f"SELECT {_COLUMNS} FROM document WHERE kind = :kind AND name > :after AND {_LIVE} ORDER BY name LIMIT :most"
    rows = db.execute(sql, {"kind": kind, "after": after, "now": now, "most": most})
    return page_of(_documents(kind, rows, now), most)


def versions(db: sqlite3.Connection, kinds: Iterable[str]) -> dict[str, int]:
    """Return the number of the last change of each kind."""
    found = dict.fromkeys(kinds, 0)
    if _has_tables(db):
        sql = "SELECT kind, version FROM document_kind WHERE kind IN (SELECT value FROM json_each(?))"
        found.update(db.execute(sql, (json.dumps([*found]),)).fetchall())
    return found


def put(
    tx: Transaction, kind: str, name: str, data: bytes, request: str, expected: int | None, ttl: float | None
) -> int | None:
    """Write a document, see `Operable.put_document`."""
    kept = requests.recall(tx, f"document:{request}")
    if kept is not None:
        answer: int | None = json.loads(kept)
        return answer
    for statement in _TABLES:
        tx.db.execute(statement)
    version = None
    if _is_at(tx, kind, name, expected):
        _make_room(tx, kind, name)
        version = _next(tx, kind)
        until = None if ttl is None else tx.now + ttl
        tx.db.execute(
            "INSERT INTO document (kind, name, version, changed_at, until, data) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET version = excluded.version, changed_at = excluded.changed_at, until = excluded.until, "
            "data = excluded.data",
            (kind, name, version, tx.now, until, data),
        )
    requests.remember(tx, f"document:{request}", json.dumps(version))
    return version


def delete(tx: Transaction, kind: str, name: str, request: str, expected: int | None) -> bool:
    """Delete a document, see `Operable.delete_document`."""
    kept = requests.recall(tx, f"document:{request}")
    if kept is not None:
        return bool(json.loads(kept))
    deleted = _version(tx, kind, name) != ABSENT and _is_at(tx, kind, name, expected)
    if deleted:
        tx.db.execute("DELETE FROM document WHERE kind = ? AND name = ?", (kind, name))
        _next(tx, kind)
    requests.remember(tx, f"document:{request}", json.dumps(deleted))
    return deleted


def holds(tx: Transaction, guard: Guard) -> bool:
    """Return whether a document has the version that a push expects."""
    return _is_at(tx, guard.kind, guard.name, guard.version)


def drop_expired(tx: Transaction, most: int) -> None:
    """Delete up to `most` expired documents."""
    if _has_tables(tx.db):
        tx.db.execute(
            f"DELETE FROM document WHERE rowid IN (SELECT rowid FROM document WHERE until <= ? LIMIT {most})", (tx.now,)
        )


def _version(tx: Transaction, kind: str, name: str) -> int:
    document = get(tx.db, kind, name, tx.now)
    return ABSENT if document is None else document.version


def _is_at(tx: Transaction, kind: str, name: str, expected: int | None) -> bool:
    return expected is None or expected == _version(tx, kind, name)


def _make_room(tx: Transaction, kind: str, name: str) -> None:
    count = "SELECT count(*) FROM document WHERE kind = ?"
    if tx.first("SELECT 1 FROM document WHERE kind = ? AND name = ?", (kind, name)) or tx.first(count, (kind,)) < MOST:
        return
    drop_expired(tx, MOST)
    if tx.first(count, (kind,)) >= MOST:
        raise too_many(kind)


def _next(tx: Transaction, kind: str) -> int:
    tx.db.execute("INSERT INTO document_kind VALUES (?, 1) ON CONFLICT DO UPDATE SET version = version + 1", (kind,))
    version: int = tx.first("SELECT version FROM document_kind WHERE kind = ?", (kind,))
    return version


def _documents(kind: str, rows: Iterable[tuple[str, bytes, int, float, float | None]], now: float) -> Iterator[Document]:
    return (_document(kind, row, now) for row in rows)


def _document(kind: str, row: tuple[str, bytes, int, float, float | None], now: float) -> Document:
    name, data, version, changed_at, until = row
    return Document(kind, name, bytes(data), version, changed_at, None if until is None else until - now)
