"""The calls of operators."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from msgspec.structs import replace

from jobs_core.backend_kit import new_token
from jobs_core.backends.base import BackendOptions, Counts, JobRecord, State

from .connection import ServerConnection
from .listener import CANCEL, Listener, channel_of
from .notes import PostgresNoteCalls
from .rows import BROWSED, RECORD, record

PURGED_AT_ONCE = 1000
LONGEST_SLEEP = 1.0
"""Seconds after which a wait looks again, in case a process died between its commit and its wake-up."""

_BROWSE = {
    State.READY: """
        SELECT seq, 0, rank, since FROM {s}.ready WHERE topic = %(topic)s UNION ALL
        SELECT seq, 1, rank, due FROM {s}.scheduled WHERE topic = %(topic)s AND due <= {s}.now_() ORDER BY 2, 3, 4, 1""",
    State.SCHEDULED: "SELECT seq FROM {s}.scheduled WHERE topic = %(topic)s AND due > {s}.now_() ORDER BY due, seq",
    State.RESERVED: "SELECT seq FROM {s}.reserved WHERE topic = %(topic)s ORDER BY at, seq",
    State.DEAD: "SELECT seq FROM {s}.dead WHERE topic = %(topic)s ORDER BY at DESC, seq DESC",
}


class PostgresOperatorCalls(PostgresNoteCalls):
    """The calls of operators, a base class of `PostgresBackend`."""

    def __init__(self, connection: ServerConnection, options: BackendOptions) -> None:
        self._connection = connection
        self._options = options

    def get(self, job_id: str) -> JobRecord | None:
        rows = self._connection.rows(self._connection.sql(RECORD + " WHERE j.id = %s"), (job_id,))
        if rows:
            return record(rows[0])
        found = self._connection.rows(
            self._connection.sql(
                "SELECT id, topic, state, at, result, {s}.now_() FROM {s}.ended WHERE id = %s AND until > {s}.now_()"
            ),
            (job_id,),
        )
        if not found:
            return None
        ended_id, topic, state, at, result, now = found[0]
        if state == State.DONE.value and (kept := self._kept(job_id)) is not None:
            return replace(kept, result=result)
        return JobRecord(ended_id, topic, State(state), since=at, result=result, broker_now=now)

    def browse(self, topic: str, state: State, limit: int, offset: int = 0) -> list[JobRecord]:
        if state is State.DONE:
            return self._browse_done(topic, limit, offset)
        wanted = _BROWSE.get(state)
        if wanted is None:
            return []
        facts = {"topic": topic, "limit": limit, "offset": offset}
        order = [
            row[0] for row in self._connection.rows(self._connection.sql(f"{wanted} LIMIT %(limit)s OFFSET %(offset)s"), facts)
        ]
        rows = self._connection.rows(self._connection.sql(BROWSED + " WHERE j.seq = ANY (%s)"), (order,))
        found = {row[-1]: record(row) for row in rows}
        return [found[seq] for seq in order if seq in found]

    def find_ids(self, prefix: str, limit: int) -> list[str]:
        statement = """
            SELECT id FROM {s}.job WHERE id >= %(begin)s AND id < %(end)s UNION
            SELECT id FROM {s}.ended WHERE id >= %(begin)s AND id < %(end)s AND until > {s}.now_()
             ORDER BY id LIMIT %(limit)s"""
        facts = {"begin": prefix, "end": prefix[:-1] + chr(ord(prefix[-1]) + 1), "limit": limit}
        return [row[0] for row in self._connection.rows(self._connection.sql(statement), facts)]

    def topics(self) -> list[str]:
        statement = (
            "SELECT {s}.topics_of('ready') UNION SELECT {s}.topics_of('scheduled') UNION SELECT {s}.topics_of('dead') "
            "UNION SELECT topic FROM {s}.paused UNION SELECT topic FROM {s}.reserved"
        )
        return sorted(row[0] for row in self._connection.rows(self._connection.sql(statement)))

    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        statement = """
            SELECT t, (SELECT count(*) FROM {s}.ready WHERE topic = t),
                   (SELECT count(*) FROM {s}.scheduled WHERE topic = t AND due <= now_),
                   (SELECT count(*) FROM {s}.scheduled WHERE topic = t AND due > now_),
                   (SELECT count(*) FROM {s}.reserved WHERE topic = t), (SELECT count(*) FROM {s}.dead WHERE topic = t),
                   now_ - least((SELECT min(since) FROM {s}.ready WHERE topic = t),
                                (SELECT min(due) FROM {s}.scheduled WHERE topic = t AND due <= now_))
              FROM unnest(%s::text[]) AS t, {s}.now_() AS now_"""
        return {
            topic: Counts(ready + due, later, reserved, dead, None if age is None else max(0.0, age))
            for topic, ready, due, later, reserved, dead, age in self._connection.rows(
                self._connection.sql(statement), (list(topics),)
            )
        }

    def requeue(self, job_ids: Sequence[str]) -> int:
        topics = self._connection.function("requeue", list(job_ids))
        self._wake(topics)
        return len(topics)

    def discard(self, job_ids: Sequence[str], reason: str) -> int:
        statement = self._connection.sql("SELECT topic, id FROM {s}.job WHERE id = ANY (%s) ORDER BY topic, id")
        found = self._connection.rows(statement, (list(job_ids),))
        return sum(
            self._connection.function(
                "discard", [job_id for _, job_id in group], reason, self._options.retention(topic).dead_max
            )
            for topic, group in itertools.groupby(found, key=lambda row: str(row[0]))
        )

    def purge(self, topic: str, state: State) -> int:
        deleted = 0
        for kind in (state.value, "due") if state is State.READY else (state.value,):
            while True:
                some = self._connection.function("purge", topic, kind, PURGED_AT_ONCE)
                deleted += some
                if some < PURGED_AT_ONCE:
                    break
        return deleted

    def drop(self, job_ids: Sequence[str]) -> int:
        found: int = self._connection.function("drop_dead", list(job_ids))
        return found

    def pause(self, topic: str) -> None:
        self._connection.value(
            self._connection.sql("WITH new AS (INSERT INTO {s}.paused VALUES (%s) ON CONFLICT DO NOTHING) SELECT 1"), (topic,)
        )

    def resume(self, topic: str) -> None:
        self._connection.value(
            self._connection.sql("WITH gone AS (DELETE FROM {s}.paused WHERE topic = %s) SELECT 1"), (topic,)
        )
        self._connection.function("wake_after", [topic], [1_000_000])

    def paused(self) -> frozenset[str]:
        return frozenset(row[0] for row in self._connection.rows(self._connection.sql("SELECT topic FROM {s}.paused")))

    def cancel(self, job_id: str, *, force: bool = False) -> State:
        statement = self._connection.call("cancel_job", 3)
        ((state, told),) = self._connection.rows(statement, (job_id, force, self._options.cancelled_ttl))
        if told is not None:
            self._connection.rows(
                "SELECT pg_notify(%s, %s)", (channel_of(self._connection.target.schema, told), CANCEL.decode())
            )
        return State(state)

    def fetch_result(self, job_id: str, timeout: float) -> JobRecord | None:
        record = self._ended(job_id)
        if record is not None or timeout <= 0:
            return record
        deadline = time.monotonic() + timeout
        listener = Listener(self._connection.target, new_token())
        try:
            listener.connect()
            insert = "WITH new AS (INSERT INTO {s}.waiter VALUES (%s, %s, {s}.now_())) SELECT 1"
            self._connection.value(self._connection.sql(insert), (job_id, listener.channel))
            while True:
                record = self._ended(job_id)
                left = deadline - time.monotonic()
                if record is not None or left <= 0:
                    return record
                listener.sleep(min(left, LONGEST_SLEEP))
        finally:
            listener.close()
            if self._connection.connected:
                gone = "WITH gone AS (DELETE FROM {s}.waiter WHERE channel = %s) SELECT 1"
                self._connection.value(self._connection.sql(gone), (listener.channel,))

    def _ended(self, job_id: str) -> JobRecord | None:
        found = self.get(job_id)
        if found is None:
            return JobRecord(job_id, "", State.UNKNOWN)
        return found if found.state in (State.DONE, State.DEAD, State.CANCELLED) else None

    def setup(self) -> None:
        if self._connection.connected:
            self._connection.setup()
            return
        self._connection.connect()
        try:
            self._connection.setup()
        finally:
            self._connection.disconnect()

    def _wake(self, topics: Sequence[str]) -> None:
        """Wake a worker for each of these jobs, named by their topics."""
        if topics:
            names = sorted({*topics})
            self._connection.function("wake_after", names, [topics.count(name) for name in names])
