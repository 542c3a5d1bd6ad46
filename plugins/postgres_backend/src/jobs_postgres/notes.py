"""What jobs tell, their timelines, and done jobs that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs_core.backends.base import Backend, BackendOptions, JobRecord, State
from jobs_core.backends.notes import Note, Notes

from .connection import ServerConnection
from .rows import token

_DONE = """
SELECT id, topic, at, payload, -rank, attempt, redeliveries, crashes, deferrals, pushed_at, errors, key, limits, cursor,
       progress, {lines}, timeline, {s}.now_()
  FROM {s}.done_job
"""
_KEPT = _DONE.replace("{lines}", "lines") + " WHERE id = %s AND until > {s}.now_()"
_BROWSED = (
    _DONE.replace("{lines}", "NULL::bytea[]") + " WHERE topic = %s AND until > {s}.now_() ORDER BY n DESC LIMIT %s OFFSET %s"
)
_PURGED = """
WITH gone AS (
    DELETE FROM {s}.done_job WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {s}.done_job WHERE topic = %s AND at <= {s}.now_() - %s AND until > {s}.now_()
         ORDER BY n LIMIT %s FOR UPDATE SKIP LOCKED))
    RETURNING id),
forgotten AS (
    UPDATE {s}.ended AS e SET result = NULL FROM gone WHERE e.id = gone.id AND e.state = 'done' AND e.result IS NOT NULL)
SELECT count(*) FROM gone
"""


class PostgresNoteCalls(Backend):
    """The calls about notes, a base class of `PostgresBackend`."""

    _connection: ServerConnection
    _options: BackendOptions
    _owner: str

    def note(self, notes: Sequence[Note]) -> None:
        if not notes:
            return
        tokens = [token(note.token) for note in notes]
        self._connection.function(
            "tell_notes", self._owner, [seq for seq, _ in tokens], [asked for _, asked in tokens],
            [note.progress for note in notes], [note.first for note in notes], [len(note.lines) for note in notes],
            [line for note in notes for line in note.lines],
        )  # fmt: skip

    def purge_done(self, topic: str, limit: int, older: float = 0.0) -> int:
        return int(self._connection.value(self._connection.sql(_PURGED), (topic, older, limit)))

    def _kept(self, job_id: str) -> JobRecord | None:
        """Return the record of a done job that is kept, without its result."""
        rows = self._connection.rows(self._connection.sql(_KEPT), (job_id,))
        return done_record(rows[0]) if rows else None

    def _browse_done(self, topic: str, limit: int, offset: int) -> list[JobRecord]:
        rows = self._connection.rows(self._connection.sql(_BROWSED), (topic, limit, offset))
        return [done_record(row) for row in rows]


def done_record(row: Sequence[Any]) -> JobRecord:
    """Convert a row of a done job."""
    (job_id, topic, at, payload, priority, attempt, redeliveries, crashes, deferrals, pushed_at, errors, key, limits, cursor,
     progress, lines, timeline, now) = row  # fmt: skip
    return JobRecord(
        id=job_id,
        topic=topic,
        state=State.DONE,
        payload=payload,
        priority=priority,
        attempt=attempt,
        redeliveries=redeliveries,
        crashes=crashes,
        deferrals=deferrals,
        pushed_at=pushed_at,
        since=at,
        errors=tuple(errors or ()),
        broker_now=now,
        cursor=cursor or b"",
        key=key or "",
        limits=tuple(limits or ()),
        notes=Notes(progress, tuple(lines or ())),
        timeline=tuple(timeline),
    )
