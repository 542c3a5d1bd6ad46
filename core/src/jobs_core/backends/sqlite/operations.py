"""Operator calls on a queue file."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..base import Backend, JobRecord, State
from . import operators, views
from .connection import Connection

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.020


class SqliteOperations(Backend):
    """The operators' half of the backend."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, job_id: str) -> JobRecord | None:
        with self._connection.reading() as db:
            return views.get(db, job_id, self._connection.options.now())

    def browse(self, topic: str, state: State, limit: int, offset: int = 0) -> list[JobRecord]:
        with self._connection.reading() as db:
            return views.browse(db, topic, state, limit, offset, self._connection.options.now())

    def find_ids(self, prefix: str, limit: int) -> list[str]:
        with self._connection.reading() as db:
            return views.find_ids(db, prefix, limit, self._connection.options.now())

    def topics(self) -> list[str]:
        with self._connection.snapshot() as db:
            return views.topics(db)

    def requeue(self, job_ids: Sequence[str]) -> int:
        with self._connection.transaction() as tx:
            return sum(operators.requeue(tx, job_id) for job_id in job_ids)

    def discard(self, job_ids: Sequence[str], reason: str) -> int:
        with self._connection.transaction() as tx:
            return sum(operators.discard(tx, job_id, reason) for job_id in job_ids)

    def purge(self, topic: str, state: State) -> int:
        deleted = 0
        while True:
            with self._connection.transaction() as tx:
                some = operators.purge_some(tx, topic, state)
            deleted += some
            if some < operators.PURGED_AT_ONCE:
                return deleted

    def drop(self, job_ids: Sequence[str]) -> int:
        with self._connection.transaction() as tx:
            return operators.drop(tx, job_ids)

    def pause(self, topic: str) -> None:
        with self._connection.transaction() as tx:
            operators.pause(tx, topic)

    def resume(self, topic: str) -> None:
        with self._connection.transaction() as tx:
            operators.resume(tx, topic)

    def paused(self) -> frozenset[str]:
        with self._connection.reading() as db:
            return views.paused(db)

    def cancel(self, job_id: str, *, force: bool = False) -> State:
        with self._connection.transaction() as tx:
            return operators.cancel(tx, job_id, force=force)

    def fetch_result(self, job_id: str, timeout: float) -> JobRecord | None:
        deadline = time.monotonic() + timeout
        version, pause = -1, _FIRST_PAUSE
        while True:
            with self._connection.reading() as db:  # changes with other processes' commits: cheaper than looking
                latest = db.execute("PRAGMA data_version").fetchone()[0]
                if latest != version:
                    version = latest
                    record = views.ended(db, job_id, self._connection.options.now())
                    if record is not None:
                        return record
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause = min(pause * 1.3, _LONGEST_PAUSE)
