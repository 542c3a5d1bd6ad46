"""The statistics of a queue file. Their tables are created at the first call, so that other files stay as they are."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from ..statistics import (
    FIVE_MINUTES,
    HOUR,
    HOURS_KEPT,
    JOBS_KEPT,
    MINUTE,
    MINUTES_KEPT,
    REMEMBERED,
    StatisticsRow,
    added,
    greater,
    kept_as,
)
from .connection import Transaction

_TABLES = (
    """CREATE TABLE IF NOT EXISTS statistics (
    span  INTEGER NOT NULL,                     -- seconds
    at    INTEGER NOT NULL,                     -- unix seconds
    topic TEXT    NOT NULL,
    job   TEXT    NOT NULL,
    sums  TEXT    NOT NULL,                     -- JSON
    peaks TEXT    NOT NULL,                     -- JSON
    PRIMARY KEY (span, at, topic, job)
) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS statistics_request (request TEXT PRIMARY KEY, at REAL NOT NULL, answer INTEGER NOT NULL) "
    "WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS statistics_request_at ON statistics_request (at)",
)


def _has_tables(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'statistics_request'").fetchone()[0])


def add(tx: Transaction, rows: Sequence[StatisticsRow], request: str) -> int:
    """Add rows up; return how many were left out: see `Backend.add_statistics`."""
    for statement in _TABLES if not _has_tables(tx.db) else ():
        tx.db.execute(statement)
    answer: int | None = tx.first("SELECT answer FROM statistics_request WHERE request = ?", (request,))
    if answer is not None:
        return answer
    left_out = 0
    for row in rows:
        kept = kept_as(row, tx.now)
        if kept is None:
            left_out += 1
        else:
            _add(tx, (*kept, row.topic, row.job), row.sums, row.peaks)
    tx.db.execute("INSERT INTO statistics_request VALUES (?, ?, ?)", (request, tx.now, left_out))
    return left_out


def listed(
    db: sqlite3.Connection, span: int, since: float, most: int, topic: str | None, after: StatisticsRow | None
) -> list[StatisticsRow]:
    """List rows by time, topic and job: see `Operable.statistics`."""
    if not _has_tables(db):
        return []
    at, after_topic, after_job = (since, "", "") if after is None else after.place
    later = "at >= ?" if after is None else "(at, topic, job) > (?, ?, ?)"
    of_topic = "" if topic is None else "AND topic = ?"
    rows = db.execute(
        f"SELECT at, topic, job, sums, peaks FROM statistics WHERE span = ? AND {later} {of_topic} "
        "ORDER BY at, topic, job LIMIT ?",
        (span, at, *(() if after is None else (after_topic, after_job)), *(() if topic is None else (topic,)), most),
    )
    return [
        StatisticsRow(at, topic, job, tuple(json.loads(sums)), tuple(json.loads(peaks)), span)
        for at, topic, job, sums, peaks in rows
    ]


def housekeep(tx: Transaction, limit: int) -> bool:
    """Fold and drop old rows, up to `limit` of each kind; return whether there may be more."""
    if not _has_tables(tx.db):
        return False
    found = [
        _take(tx, span, kept, limit) for span, kept in ((MINUTE, MINUTES_KEPT), (FIVE_MINUTES, JOBS_KEPT), (HOUR, HOURS_KEPT))
    ]
    for at, topic, job, sums, peaks in found[0]:
        _add(tx, (HOUR, at - at % HOUR, topic, job), json.loads(sums), json.loads(peaks))
    tx.db.execute(
        "DELETE FROM statistics_request WHERE request IN "
        "(SELECT request FROM statistics_request WHERE at <= ? ORDER BY at LIMIT ?)",
        (tx.now - REMEMBERED, 10 * limit),
    )
    return any(len(rows) == limit for rows in found)


def _take(tx: Transaction, span: int, kept: int, limit: int) -> list[tuple[int, str, str, str, str]]:
    """Delete up to `limit` rows of a span that are too old; return them."""
    rows = tx.db.execute(
        "SELECT at, topic, job, sums, peaks FROM statistics WHERE span = ? AND at <= ? ORDER BY at, topic, job LIMIT ?",
        (span, tx.now - kept, limit),
    ).fetchall()
    if rows:
        tx.db.execute(
            "DELETE FROM statistics WHERE span = ? AND (at, topic, job) <= (?, ?, ?)", (span, rows[-1][0], *rows[-1][1:3])
        )
    return rows


def _add(tx: Transaction, key: tuple[int, int, str, str], sums: Sequence[int], peaks: Sequence[int]) -> None:
    row = tx.db.execute(
        "SELECT sums, peaks FROM statistics WHERE span = ? AND at = ? AND topic = ? AND job = ?", key
    ).fetchone()
    if row is not None:
        sums, peaks = added(json.loads(row[0]), sums), greater(json.loads(row[1]), peaks)
    tx.db.execute(
        "INSERT OR REPLACE INTO statistics (span, at, topic, job, sums, peaks) VALUES (?, ?, ?, ?, ?, ?)",
        (*key, json.dumps(sums, separators=(",", ":")), json.dumps(peaks, separators=(",", ":"))),
    )
