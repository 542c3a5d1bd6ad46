"""Periodic maintenance: make due jobs ready, release dead owners, drop old records; bounded and idempotent."""

from __future__ import annotations

import sqlite3

from ..base import Housekept
from . import documents, flows, letters, limits, notes, owners, queue, removal, statistics, views
from .connection import MOST_COUNTED, PUSHED, REFUSED, Transaction

MOST_FREE_PAGES = 2000
"""Number of free pages, 8 MB, above which the file is shrunk."""


def housekeep(tx: Transaction, limit: int) -> Housekept:
    """Do one round, which changes about `limit` rows of each kind at most."""
    due_topics = views.topics_of(tx.db, "job", "due IS NOT NULL")
    readied = queue.ready_due(tx, due_topics, limit)
    if readied:
        tx.wake.update(due_topics)
    released = owners.release_expired(tx, limit)
    dropped = _drop_old(tx, limit)
    owners.recount(tx)
    limits.forget_idle(tx, limit)
    documents.drop_expired(tx, limit)
    notes.drop_old(tx, limit)
    more = letters.housekeep(tx, limit)
    more = statistics.housekeep(tx, limit) or more
    more = flows.housekeep(tx) or more
    return Housekept(readied, released, dropped, more=more or limit in (readied, released, dropped))


def _drop_old(tx: Transaction, limit: int) -> int:
    tx.db.execute(
        "DELETE FROM push_request WHERE n IN (SELECT n FROM push_request ORDER BY n LIMIT ?) AND at <= ?",
        (10 * limit, tx.now - tx.options.dedup_window),
    )
    tx.db.execute("DELETE FROM unique_key WHERE until IS NOT NULL AND until <= ?", (tx.now,))
    tx.db.execute("DELETE FROM checkpoint WHERE seq NOT IN (SELECT seq FROM job)")
    if tx.first("SELECT count(*) FROM meta") > MOST_COUNTED:
        tx.db.execute("DELETE FROM meta WHERE key GLOB ? OR key GLOB ?", (f"{PUSHED}*", f"{REFUSED}*"))
    dropped = tx.db.execute(
        "DELETE FROM ended WHERE id IN (SELECT id FROM ended WHERE until <= ? ORDER BY until LIMIT ?)", (tx.now, limit)
    ).rowcount
    for topic in views.topics_of(tx.db, "job", "dead_at IS NOT NULL"):
        oldest = tx.now - tx.options.retention(topic).dead_keep
        dropped += len(
            removal.drop_letters(
                tx,
                f"SELECT seq FROM job WHERE topic = ? AND dead_at <= ? AND {removal.DISPENSABLE} ORDER BY dead_at LIMIT ?",
                (topic, oldest, limit),
            )
        )
        dropped += flows.drop_letters(tx, topic, oldest, limit)
    return dropped


def shrink(db: sqlite3.Connection) -> None:
    """Shrink the file by up to 500 pages if it has more than MOST_FREE_PAGES free ones."""
    if db.execute("PRAGMA freelist_count").fetchone()[0] > MOST_FREE_PAGES:
        db.execute("PRAGMA incremental_vacuum(500)").fetchall()
