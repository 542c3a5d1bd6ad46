"""Dead letters by what went wrong, and how they are amended; see letters.sql."""

from __future__ import annotations

from collections.abc import Sequence

from jobs_core.backends.base import Backend
from jobs_core.backends.letters import DeadGroup, Fingerprint, last_of, not_movable

from .connection import ServerConnection

NAMED_AT_ONCE = 1000


class PostgresLetterCalls(Backend):
    """The calls about groups of dead letters, a base class of `PostgresBackend`."""

    _connection: ServerConnection

    def dead_groups(self, topics: Sequence[str], most: int) -> list[DeadGroup]:
        rows = self._connection.rows(self._connection.call("dead_groups", 2), (list(topics), most))
        return [
            DeadGroup(topic, Fingerprint(of, *(cause or ())), letters, first, last, example)
            for topic, of, cause, letters, first, last, example in rows
        ]

    def amend(self, job_id: str, was: bytes, payload: bytes, topic: str = "") -> bool:
        amended: bool | None = self._connection.function("amend", job_id, was, payload, topic or None)
        if amended is None:
            raise not_movable(job_id)
        return amended

    def _name_letters(self, letters: Sequence[tuple[int, Fingerprint]]) -> None:
        """Give dead letters, by their sequence numbers, their fingerprints."""
        columns = [list(values) for values in zip(*((of.id, of.kind, of.place, of.message) for _, of in letters), strict=True)]
        self._connection.function("name_letters", [seq for seq, _ in letters], *columns)

    def _keep_letters(self, limit: int) -> bool:
        """Count what has changed, and name the letters that have no fingerprint; return whether there may be more."""
        most = min(limit, NAMED_AT_ONCE)
        unnamed = self._connection.rows(self._connection.call("keep_letters", 1), (most,))
        if unnamed:
            self._name_letters([(seq, last_of(reason, (error,) if error else ())) for seq, reason, error in unnamed])
        return len(unnamed) == most
