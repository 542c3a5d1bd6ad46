"""The documents of a memory store."""

from __future__ import annotations

from itertools import islice

from ..documents import ABSENT, MOST, Document, Guard, page_of, too_many


class _Kept:
    """One document."""

    __slots__ = ("changed_at", "data", "until", "version")

    def __init__(self, data: bytes, version: int, changed_at: float, until: float | None) -> None:
        self.data, self.version, self.changed_at, self.until = data, version, changed_at, until


class Documents:
    """All documents of a store. Callers hold the store's lock; `now` is the broker's clock."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, _Kept]] = {}
        self._versions: dict[str, int] = {}
        self._answers: dict[str, tuple[float, int | None]] = {}  # request → (its time, its answer)

    def get(self, kind: str, name: str, now: float) -> Document | None:
        kept = self._live(kind, name, now)
        return None if kept is None else _document(kind, name, kept, now)

    def listed(self, kind: str, most: int, after: str, now: float) -> list[Document]:
        names = sorted(name for name in self._kinds.get(kind, ()) if name > after and self._live(kind, name, now))
        return page_of((_document(kind, name, self._kinds[kind][name], now) for name in names), most)

    def version(self, kind: str) -> int:
        """Return the number of the last change in a kind."""
        return self._versions.get(kind, 0)

    def put(
        self, kind: str, name: str, data: bytes, request: str, expected: int | None, ttl: float | None, now: float
    ) -> int | None:
        if request in self._answers:
            return self._answers[request][1]
        version = None
        if self._is_at(kind, name, expected, now):
            self._make_room(kind, name, now)
            version = self._next(kind)
            self._kinds.setdefault(kind, {})[name] = _Kept(data, version, now, None if ttl is None else now + ttl)
        self._answers[request] = now, version
        return version

    def delete(self, kind: str, name: str, request: str, expected: int | None, now: float) -> bool:
        if request in self._answers:
            return bool(self._answers[request][1])
        deleted = self._live(kind, name, now) is not None and self._is_at(kind, name, expected, now)
        if deleted:
            del self._kinds[kind][name]
            self._next(kind)
        self._answers[request] = now, int(deleted)
        return deleted

    def holds(self, guard: Guard, now: float) -> bool:
        """Return whether a document has the version that a push expects."""
        return self._is_at(guard.kind, guard.name, guard.version, now)

    def housekeep(self, now: float, forgotten: float, limit: int) -> None:
        """Drop expired documents, and requests from before `forgotten`."""
        for documents in self._kinds.values():
            for name in [name for name, kept in documents.items() if _has_expired(kept, now)][:limit]:
                del documents[name]
        for request in list(islice(self._answers, 10 * limit)):
            if self._answers[request][0] > forgotten:
                break
            del self._answers[request]

    def _live(self, kind: str, name: str, now: float) -> _Kept | None:
        kept = self._kinds.get(kind, {}).get(name)
        return None if kept is None or _has_expired(kept, now) else kept

    def _is_at(self, kind: str, name: str, expected: int | None, now: float) -> bool:
        kept = self._live(kind, name, now)
        return expected is None or expected == (ABSENT if kept is None else kept.version)

    def _make_room(self, kind: str, name: str, now: float) -> None:
        documents = self._kinds.get(kind, {})
        if name not in documents and len(documents) >= MOST:
            self.housekeep(now, float("-inf"), MOST)
            if len(documents) >= MOST:
                raise too_many(kind)

    def _next(self, kind: str) -> int:
        version = self._versions[kind] = self._versions.get(kind, 0) + 1
        return version


def _has_expired(kept: _Kept, now: float) -> bool:
    return kept.until is not None and kept.until <= now


def _document(kind: str, name: str, kept: _Kept, now: float) -> Document:
    return Document(kind, name, kept.data, kept.version, kept.changed_at, None if kept.until is None else kept.until - now)
