"""The calls of operators."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from jobs_core.backends.base import BackendOptions, Counts, JobRecord, State

from .connection import ServerConnection
from .flows import PostgresFlowCalls
from .letters import PostgresLetterCalls
from .notes import PostgresNoteCalls
from .rows import BROWSED, RECORD, record

PURGED_AT_ONCE = 1000

_BROWSE = {
    State.READY: """
        (SELECT seq, 0, rank, since FROM {s}.ready WHERE topic = %(topic)s ORDER BY rank, since, seq LIMIT %(upto)s) UNION ALL
        SELECT seq, 0, lined.rank, since FROM {s}.line JOIN {s}.lined ON lined.line = line.id
         WHERE topic = %(topic)s AND filed_under IS NULL UNION ALL
        SELECT seq, 0, rank, since FROM {s}.entering WHERE topic = %(topic)s UNION ALL
        SELECT seq, 1, rank, due FROM {s}.scheduled WHERE topic = %(topic)s AND due <= (SELECT {s}.now_())
         ORDER BY 2, 3, 4, 1""",
    State.LIMITED: """
        SELECT seq FROM {s}.line JOIN {s}.lined ON lined.line = line.id
         WHERE topic = %(topic)s AND filed_under IS NOT NULL ORDER BY since, seq""",
    State.SCHEDULED: "SELECT seq FROM {s}.scheduled WHERE topic = %(topic)s AND due > (SELECT {s}.now_()) ORDER BY due, seq",
    State.RESERVED: "SELECT seq FROM {s}.reserved WHERE topic = %(topic)s ORDER BY at, seq",
    State.WAITING: "SELECT seq FROM {s}.flow_member WHERE topic = %(topic)s AND phase < 2 ORDER BY seq",
    State.DEAD: "SELECT seq FROM {s}.dead WHERE topic = %(topic)s ORDER BY at DESC, seq DESC",
}
_IN_GROUP = "SELECT seq FROM {s}.dead WHERE topic = %(topic)s AND fingerprint = %(group)s ORDER BY at, seq"


class PostgresOperatorCalls(PostgresFlowCalls, PostgresNoteCalls, PostgresLetterCalls):
    """The calls of operators, a base class of `PostgresBackend`."""

    def __init__(self, connection: ServerConnection, options: BackendOptions) -> None:
        self._connection = connection
        self._options = options

    def get(self, job_id: str) -> JobRecord | None:
        rows = self._connection.rows(self._connection.sql(RECORD + " WHERE j.id = %s"), (job_id,))
        if rows:
            return self._placed(rows)[0]
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
        if state == State.CANCELLED.value:
            reason = "" if result is None else result.decode()
            return JobRecord(ended_id, topic, State.CANCELLED, since=at, reason=reason, broker_now=now)
        return JobRecord(ended_id, topic, State(state), since=at, result=result, broker_now=now)

    def _placed(self, rows: Sequence[Sequence[Any]]) -> list[JobRecord]:
        """Convert rows of jobs to records; look up the places of those that are members of flows."""
        members = [row[-1] for row in rows if row[-1] < 0]
        places = self._places(members) if members else {}
        found = []
        for row in rows:
            each = record(row)
            if row[-1] in places:
                member, waiting_for, waits = places[row[-1]]
                each = replace(each, member=member, waiting_for=waiting_for)
                if waits:
                    each = replace(each, state=State.WAITING, since=each.pushed_at)
            found.append(each)
        return found

    def dead_in_group(self, topic: str, group: str, limit: int, offset: int = 0) -> list[JobRecord]:
        return self._records(_IN_GROUP, {"topic": topic, "group": group, "limit": limit, "offset": offset})

    def browse(self, topic: str, state: State, limit: int, offset: int = 0) -> list[JobRecord]:
        if state is State.DONE:
            return self._browse_done(topic, limit, offset)
        wanted = _BROWSE.get(state)
        if wanted is None:
            return []
        return self._records(wanted, {"topic": topic, "limit": limit, "offset": offset, "upto": limit + offset})

    def _records(self, wanted: str, facts: Mapping[str, object]) -> list[JobRecord]:
        """Return the records of the jobs that a query for sequence numbers finds, in its order."""
        order = [
            row[0] for row in self._connection.rows(self._connection.sql(f"{wanted} LIMIT %(limit)s OFFSET %(offset)s"), facts)
        ]
        rows = self._connection.rows(self._connection.sql(BROWSED + " WHERE j.seq = ANY (%s)"), (order,))
        found = dict(zip([row[-1] for row in rows], self._placed(rows), strict=True))
        return [found[seq] for seq in order if seq in found]

    def find_ids(self, prefix: str, limit: int) -> list[str]:
        statement = """
            (SELECT id FROM {s}.job WHERE id >= %(begin)s AND id < %(end)s ORDER BY id LIMIT %(limit)s) UNION
            (SELECT id FROM {s}.ended WHERE id >= %(begin)s AND id < %(end)s AND until > {s}.now_() ORDER BY id LIMIT %(limit)s)
             ORDER BY id LIMIT %(limit)s"""
        facts = {"begin": prefix, "end": prefix[:-1] + chr(ord(prefix[-1]) + 1), "limit": limit}
        return [row[0] for row in self._connection.rows(self._connection.sql(statement), facts)]

    def topics(self) -> list[str]:
        statement = (
            "SELECT {s}.topics_of('ready') UNION SELECT {s}.topics_of('scheduled') UNION SELECT {s}.topics_of('dead') "
            "UNION SELECT {s}.topics_of('entering') UNION SELECT {s}.topics_of('line') "
            "UNION SELECT topic FROM {s}.paused UNION SELECT jsonb_object_keys({s}.count_reserved({s}.now_())) "
            "UNION SELECT {s}.waiting_topics()"
        )
        return sorted(row[0] for row in self._connection.rows(self._connection.sql(statement)))

    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        rows = self._connection.rows(self._connection.call("count_jobs", 1), (list(topics),))
        return {
            topic: Counts(ready, later, reserved, dead, None if age is None else max(0.0, age), *others)
            for topic, ready, later, reserved, dead, age, *others in rows
        }

    def requeue(self, job_ids: Sequence[str]) -> int:
        topics = self._connection.function("requeue", list(job_ids))
        topics += self._connection.function("requeue_members", list(job_ids), self._options.cancelled_ttl)
        self._wake(topics)
        return len(topics)

    def discard(self, job_ids: Sequence[str], reason: str) -> int:
        statement = self._connection.sql("SELECT topic, id FROM {s}.job WHERE id = ANY (%s) ORDER BY topic, id")
        found = self._connection.rows(statement, (list(job_ids),))
        discarded = 0
        for topic, group in itertools.groupby(found, key=lambda row: str(row[0])):
            ids, dead_max = [job_id for _, job_id in group], self._options.retention(topic).dead_max
            discarded += self._connection.function("discard", ids, reason, dead_max)
            discarded += self._of_members("discard_members", ids, reason, dead_max)
        self._connection.function("tidy_lines")
        return discarded

    def purge(self, topic: str, state: State) -> int:
        kinds = (state.value, "due", "entering", "lined") if state is State.READY else (state.value,)
        deleted = sum(
            self._purge(kind, lambda kind: self._connection.function("purge", topic, kind, PURGED_AT_ONCE)) for kind in kinds
        )
        # All kinds of ready members in one step: others may be ready as soon as these are gone.
        return deleted + self._purge(state.value, lambda kind: self._of_members("purge_members", topic, kind, PURGED_AT_ONCE))

    def _purge(self, kind: str, purge_some: Callable[[str], int]) -> int:
        deleted = 0
        while True:
            some = purge_some(kind)
            deleted += some
            if kind in ("ready", "lined"):
                self._connection.function("tidy_lines")
            if some < PURGED_AT_ONCE:
                return deleted

    def drop(self, job_ids: Sequence[str]) -> int:
        found: int = self._connection.function("drop_dead", list(job_ids))
        return found + self._of_members("drop_members", list(job_ids))

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
        ((state, told, woken),) = self._connection.rows(statement, (job_id, force, self._options.cancelled_ttl))
        if state == State.CANCELLED.value:
            self._connection.function("tidy_lines")
        if told is not None:
            self._call([told])
        self._wake(woken)
        return State(state)

    def fetch_result(self, job_id: str, timeout: float) -> JobRecord | None:
        def look() -> tuple[bool, JobRecord | None]:
            found = self.get(job_id)
            if found is None:
                return True, JobRecord(job_id, "", State.UNKNOWN)
            return found.state in (State.DONE, State.DEAD, State.CANCELLED), found

        return self._wait_for(job_id, look, timeout)

    def setup_sql(self, producer: str = "", worker: str = "") -> str:
        roles = [("producer.sql", producer), ("worker.sql", worker)]
        grants = [self._connection.script(name, role) for name, role in roles if role]
        begin = "BEGIN;\nSET LOCAL search_path = pg_catalog, pg_temp;\n"  # whatever schemas the role has before these
        return "\n".join([begin, *self._connection.scripts(), *grants, "COMMIT;"])

    def setup(self) -> None:
        if self._connection.connected:
            self._connection.setup()
            return
        self._connection.connect()
        try:
            self._connection.setup()
        finally:
            self._connection.disconnect()
