"""What jobs tell, their timelines, and done jobs that are kept. The tables are created when the first job needs them.

`note` has a row for each job that has told something or has a timeline, by its number, so that a later job of the same id
never gets it; housekeeping deletes rows of jobs that are gone. `done_job` has the records of done jobs that are kept, whose
ids are in `ended` too, where pushes look.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from ..base import JobRecord, Settlement, State
from ..notes import MOST_RUNS, NONE, Note, Notes, seen_after, with_note
from .connection import Transaction

_TABLES = (
    """CREATE TABLE IF NOT EXISTS note (
    seq      INTEGER PRIMARY KEY,
    token    INTEGER NOT NULL,                  -- of the run that has told something last
    seen     INTEGER NOT NULL,                  -- number of its lines
    progress BLOB    NOT NULL,
    lines    BLOB    NOT NULL,                  -- MessagePack
    timeline BLOB    NOT NULL                   -- MessagePack
)""",
    """CREATE TABLE IF NOT EXISTS done_job (
    id     TEXT PRIMARY KEY,
    topic  TEXT NOT NULL,
    at     REAL NOT NULL,
    n      INTEGER NOT NULL,                    -- order of the ends
    until  REAL NOT NULL,
    record BLOB NOT NULL                        -- a JobRecord without its result, as MessagePack
)""",
    "CREATE INDEX IF NOT EXISTS done_job_topic ON done_job (topic, n)",
    "CREATE INDEX IF NOT EXISTS done_job_until ON done_job (until)",
)
_EMPTY = msgspec.msgpack.encode(())
_lines = msgspec.msgpack.Decoder(tuple[bytes, ...]).decode
_record = msgspec.msgpack.Decoder(JobRecord).decode
_PUT = "INSERT OR REPLACE INTO note (seq, token, seen, progress, lines, timeline) VALUES (?, ?, ?, ?, ?, ?)"


def has_tables(db: sqlite3.Connection) -> bool:
    """Return whether any job of this file has ever told something."""
    return bool(db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'done_job'").fetchone()[0])


def tell(tx: Transaction, owner: str, notes: Iterable[Note]) -> None:
    """Store what jobs have told that this owner has reserved with these tokens; see `Backend.note`."""
    for note in notes:
        seq = tx.first("SELECT seq FROM reserved WHERE token = ? AND owner = ?", (note.token, owner))
        if seq is not None:
            add(tx, seq, note, b"")


def add(tx: Transaction, seq: int, note: Note | None, timeline: bytes) -> None:
    """Add to what is known about a job: a note of its run, and an entry of its timeline."""
    if note is None and not timeline:
        return
    if not has_tables(tx.db):
        for statement in _TABLES:
            tx.db.execute(statement)
    row = tx.db.execute("SELECT token, seen, progress, lines, timeline FROM note WHERE seq = ?", (seq,)).fetchone()
    token, seen, progress, lines, runs = row or (0, 0, b"", _EMPTY, _EMPTY)
    if timeline:
        runs = msgspec.msgpack.encode((*_lines(runs), timeline)[-MOST_RUNS:])
    if note is not None:
        seen = seen if token == note.token else 0
        kept = with_note(Notes(progress, _lines(lines)), note, seen)
        token, seen = note.token, seen_after(note, seen)
        progress, lines = kept.progress, msgspec.msgpack.encode(kept.lines)
    tx.db.execute(_PUT, (seq, token, seen, progress, lines, runs))


def keep_done(tx: Transaction, seq: int, record: JobRecord, settlement: Settlement) -> None:
    """Keep a job that ends now, without its result; the caller removes it from the queue."""
    add(tx, seq, settlement.notes, settlement.timeline)
    kept = replace(
        with_notes(tx.db, [(seq, record)])[0], state=State.DONE, owner=None, since=tx.now, due=None, cancel_requested=False
    )
    until = tx.now + settlement.result_ttl
    number = "(SELECT coalesce(max(n), 0) + 1 FROM done_job WHERE topic = ?)"
    tx.db.execute(
        f"INSERT OR REPLACE INTO done_job (id, topic, at, n, until, record) VALUES (?, ?, ?, {number}, ?, ?)",
        (kept.id, kept.topic, tx.now, kept.topic, until, msgspec.msgpack.encode(kept)),
    )
    tx.db.execute(
        "DELETE FROM done_job WHERE id IN (SELECT id FROM done_job WHERE topic = ? ORDER BY n DESC LIMIT 100 OFFSET ?)",
        (kept.topic, tx.options.retention(kept.topic).done_max),
    )


def with_notes(db: sqlite3.Connection, found: Sequence[tuple[int, JobRecord]], *, lines: bool = True) -> list[JobRecord]:
    """Return records, each given with the number of its job, with what their jobs have told."""
    if not found or not has_tables(db):
        return [record for _, record in found]
    columns = "progress, lines" if lines else f"progress, x'{_EMPTY.hex()}'"
    sql = f"SELECT seq, {columns}, timeline FROM note WHERE seq IN (SELECT value FROM json_each(?))"
    told = {row[0]: row[1:] for row in db.execute(sql, (json.dumps([seq for seq, _ in found]),))}
    if not told:
        return [record for _, record in found]
    return [_told(record, *told[seq]) if seq in told else record for seq, record in found]


def _told(record: JobRecord, progress: bytes, lines: bytes, timeline: bytes) -> JobRecord:
    return replace(record, notes=Notes(progress, _lines(lines)), timeline=_lines(timeline))


def done(db: sqlite3.Connection, job_id: str, now: float) -> JobRecord | None:
    """Return the record of a done job that is kept, without its result."""
    if not has_tables(db):
        return None
    row = db.execute("SELECT record FROM done_job WHERE id = ? AND until > ?", (job_id, now)).fetchone()
    return None if row is None else replace(_record(row[0]), broker_now=now)


def browse_done(db: sqlite3.Connection, topic: str, limit: int, offset: int, now: float) -> list[JobRecord]:
    """Return done jobs of a topic, newest first, without lines and results."""
    if not has_tables(db):
        return []
    sql = "SELECT record FROM done_job WHERE topic = ? AND until > ? ORDER BY n DESC LIMIT ? OFFSET ?"
    found = [_record(record) for (record,) in db.execute(sql, (topic, now, limit, offset))]
    return [
        replace(each, broker_now=now, notes=Notes(each.notes.progress) if each.notes.lines else each.notes or NONE)
        for each in found
    ]


def purge_done(tx: Transaction, topic: str, limit: int, older: float) -> int:
    """Delete some done jobs of a topic with their results; return how many. Their ids stay known; see `Backend.purge_done`."""
    if not has_tables(tx.db):
        return 0
    these = "SELECT id FROM done_job WHERE topic = ? AND at <= ? AND until > ? ORDER BY n LIMIT ?"
    found = tx.db.execute(f"DELETE FROM done_job WHERE id IN ({these}) RETURNING id", (topic, tx.now - older, tx.now, limit))
    gone = [job_id for (job_id,) in found.fetchall()]
    tx.db.execute("UPDATE ended SET result = NULL WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(gone),))
    return len(gone)


def drop_old(tx: Transaction, limit: int) -> None:
    """Drop what is known about jobs that are gone, and done jobs whose time is over."""
    if has_tables(tx.db):
        tx.db.execute("DELETE FROM note WHERE seq NOT IN (SELECT seq FROM job)")
        tx.db.execute("DELETE FROM done_job WHERE id IN (SELECT id FROM done_job WHERE until <= ? LIMIT ?)", (tx.now, limit))
