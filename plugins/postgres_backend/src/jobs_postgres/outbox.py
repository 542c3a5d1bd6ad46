"""An outbox in a PostgreSQL database of the application; sql/outbox.sql has its tables."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from jobs_core.backend_kit import new_id
from jobs_core.backends.base import Outgoing
from jobs_core.backends.outbox import (
    FIRST_RETRY,
    LOAD_BYTES,
    LONGEST_RETRY,
    MOST_COUNTED,
    Load,
    Outbox,
    OutboxState,
    RefusedJob,
)
from jobs_core.errors import BackendError

from .advice import pooling_advice
from .connection import ServerConnection
from .enlisting import Enlisting
from .polling import Poller, listener_for
from .url import Target

VERSION = 1
"""The version of the function `put_out` that is called here."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Outgoing).decode

_NEW = """
    WITH oldest AS (
        SELECT seq, octet_length(message) AS bytes FROM {s}.outbox
         WHERE load IS NULL AND try_at IS NULL ORDER BY seq LIMIT %(most)s),
    due AS (
        SELECT seq, octet_length(message) AS bytes FROM {s}.outbox
         WHERE load IS NULL AND try_at <= {s}.outbox_now() ORDER BY try_at LIMIT %(most)s),
    summed AS (
        SELECT seq, sum(bytes) OVER (ORDER BY seq) - bytes AS before, row_number() OVER (ORDER BY seq) AS n
          FROM (SELECT * FROM oldest UNION ALL SELECT * FROM due) AS both_)
    UPDATE {s}.outbox SET load = %(load)s
     WHERE seq IN (SELECT seq FROM summed WHERE before < %(bytes)s AND n <= %(most)s) RETURNING 1"""
_LOADED = """
    SELECT load, at, message, {s}.outbox_now() FROM {s}.outbox
     WHERE load = (SELECT load FROM {s}.outbox WHERE load IS NOT NULL LIMIT 1) ORDER BY seq"""
_FINISH = """
    WITH refused AS (
        UPDATE {s}.outbox AS o SET load = NULL, tries = tries + 1, reason = r.reason,
               try_at = {s}.outbox_now() + least(%(longest)s, %(first)s * 2 ^ least(tries, 20))
          FROM unnest(%(ids)s::text[], %(reasons)s::text[]) AS r (id, reason)
         WHERE o.load = %(load)s AND o.id = r.id RETURNING seq),
    done AS (
        DELETE FROM {s}.outbox WHERE load = %(load)s AND id <> ALL (%(ids)s::text[]) RETURNING seq)
    SELECT (SELECT count(*) FROM refused), (SELECT count(*) FROM done)"""
_STATE = """
    SELECT (SELECT count(*) FROM (SELECT FROM {s}.outbox LIMIT %(most)s) AS some_),
           (SELECT {s}.outbox_now() - at FROM {s}.outbox ORDER BY seq LIMIT 1),
           (SELECT count(*) FROM (SELECT FROM {s}.outbox WHERE try_at IS NOT NULL LIMIT %(most)s) AS some_)"""
_REFUSED = """
    SELECT id, topic, {s}.outbox_now() - at, tries, try_at - {s}.outbox_now(), reason FROM {s}.outbox
     WHERE try_at IS NOT NULL ORDER BY seq LIMIT %s"""


_KEY = "hashtextextended(%(key)s, 0)"
_LOCK = f"""
    SELECT (EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted
                       AND (classid::bigint << 32) + objid::bigint = {_KEY} AND objsubid = 1)
            OR pg_try_advisory_lock({_KEY}))
       AND NOT EXISTS (SELECT FROM {{s}}.outbox_lease WHERE until > {{s}}.outbox_now())"""
_RENEW = f"""
    WITH free AS (SELECT pg_try_advisory_xact_lock({_KEY}) AS yes)
    INSERT INTO {{s}}.outbox_lease AS l (holder, until)
        SELECT %(holder)s, {{s}}.outbox_now() + %(lease)s FROM free WHERE yes
        ON CONFLICT (one) DO UPDATE SET holder = excluded.holder, until = excluded.until
        WHERE l.holder = excluded.holder OR l.until <= {{s}}.outbox_now()
    RETURNING 1"""
_RETURN = "DELETE FROM {s}.outbox_lease WHERE holder = %s RETURNING 1"
LEASE = 15.0
"""Seconds for which a carrier without a session leads; it renews this every 5 s."""


class PostgresOutbox(Enlisting, Outbox):
    """The outbox in one schema of a database."""

    name = "postgresql"
    _setup_command = "jobsctl outbox setup"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._connection = ServerConnection(target)
        self._listener = listener_for(target, "outbox")
        self._holder = new_id()
        self._renew_at = 0.0

    # -- producers ---------------------------------------------------------------------------------

    def _prepare(self, connection: ServerConnection) -> str:
        self._make(connection)
        return str(connection.value(connection.sql("SELECT {s}.outbox_place()")))

    def enqueuing(self, messages: Sequence[Outgoing], patience: float) -> tuple[str, list[Any]]:
        ids, topics = [message.id for message in messages], [message.topic for message in messages]
        statement = f"SELECT {self._connection.schema}.put_out(%s, %s, %s::text[], %s::text[], %s::bytea[], %s)::text"
        bodies = [_encode(message) for message in messages]
        return statement, [VERSION, self.place(), ids, topics, bodies, self._target.notify]

    def holds(self, job_id: str) -> bool:
        connection = ServerConnection(self._target)
        connection.connect()
        try:
            return bool(connection.value(connection.sql("SELECT EXISTS (SELECT FROM {s}.outbox WHERE id = %s)"), (job_id,)))
        finally:
            connection.disconnect()

    # -- the carrier ---------------------------------------------------------------------------------

    def setup(self) -> None:
        connection = ServerConnection(self._target)
        connection.connect()
        try:
            self._make(connection, anew=True)
        finally:
            connection.disconnect()

    def open(self) -> None:
        self._connection.connect()
        self._make(self._connection)

    def close(self) -> None:
        if self._renew_at and self._connection.connected:
            with contextlib.suppress(BackendError):
                self._connection.rows(self._connection.sql(_RETURN), (self._holder,))
        self._renew_at = 0.0
        self._listener.close()
        self._connection.disconnect()

    def lead(self) -> bool:
        key = f"jobs outbox {self._target.schema}"
        if self._target.pooling:
            return self._renew(key)
        # The lock is the connection's, and ends with it. The server would grant it again to the one that has it.
        return bool(self._connection.value(self._connection.sql(_LOCK), {"key": key}))

    def _renew(self, key: str) -> bool:
        """Return whether this carrier has the lease; it never has it while a connection has the lock."""
        now = time.monotonic()
        if now >= self._renew_at:
            facts = {"key": key, "holder": self._holder, "lease": LEASE}
            renewed = self._connection.rows(self._connection.sql(_RENEW), facts)
            self._renew_at = now + LEASE / 3 if renewed else 0.0
        return now < self._renew_at

    def take(self, most: int) -> Load | None:
        found = self._loaded()
        if found is None:
            facts = {"most": most, "bytes": LOAD_BYTES, "load": new_id()}
            if self._connection.rows(self._connection.sql(_NEW), facts):
                found = self._loaded()
        return found

    def _loaded(self) -> Load | None:
        rows = self._connection.rows(self._connection.sql(_LOADED))
        if not rows:
            return None
        messages = []
        for _, at, body, now in rows:
            message = _decode(body)
            left = max(0.0, message.delay - max(0.0, now - at))
            messages.append(msgspec.structs.replace(message, delay=left) if message.delay else message)
        return Load(rows[0][0], messages)

    def finish(self, request: str, refused: Mapping[str, str]) -> None:
        facts = {
            "load": request,
            "ids": list(refused),
            "reasons": [reason.replace("\0", "") for reason in refused.values()],
            "first": FIRST_RETRY,
            "longest": LONGEST_RETRY,
        }
        self._connection.rows(self._connection.sql(_FINISH), facts)

    def wait(self, timeout: float) -> None:
        if isinstance(self._listener, Poller):
            self._listener.sleep(timeout)
            return
        self._listener.connect()
        insert = "WITH new AS (INSERT INTO {s}.outbox_sleeper VALUES (%s) ON CONFLICT DO NOTHING) SELECT 1"
        self._connection.value(self._connection.sql(insert), (self._listener.channel,))
        try:
            look = (
                "SELECT EXISTS (SELECT FROM {s}.outbox WHERE load IS NULL AND (try_at IS NULL OR try_at <= {s}.outbox_now()))"
            )
            if not self._connection.value(self._connection.sql(look)):
                self._listener.sleep(timeout)
        finally:
            with contextlib.suppress(BackendError):
                gone = "WITH gone AS (DELETE FROM {s}.outbox_sleeper WHERE channel = %s) SELECT 1"
                self._connection.value(self._connection.sql(gone), (self._listener.channel,))

    def interrupt(self) -> None:
        self._listener.interrupt()

    # -- operators ---------------------------------------------------------------------------------

    def advice(self) -> list[str]:
        return pooling_advice(self._target, self._connection)

    def state(self) -> OutboxState:
        ((waiting, age, refused),) = self._connection.rows(self._connection.sql(_STATE), {"most": MOST_COUNTED})
        return OutboxState(waiting, None if age is None else max(0.0, age), refused)

    def refused(self, most: int) -> list[RefusedJob]:
        return [RefusedJob(*row) for row in self._connection.rows(self._connection.sql(_REFUSED), (most,))]

    def retry(self, job_ids: Sequence[str]) -> int:
        statement = "UPDATE {s}.outbox SET try_at = {s}.outbox_now() WHERE id = ANY (%s) AND try_at IS NOT NULL RETURNING 1"
        return len(self._connection.rows(self._connection.sql(statement), (list(job_ids),)))

    def drop(self, job_ids: Sequence[str]) -> int:
        statement = "DELETE FROM {s}.outbox WHERE id = ANY (%s) AND load IS NULL RETURNING 1"
        return len(self._connection.rows(self._connection.sql(statement), (list(job_ids),)))

    def _make(self, connection: ServerConnection, *, anew: bool = False) -> None:
        """Create the tables and functions if they are missing; any number of processes may do so at once."""
        exists = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = %s AND tablename = 'outbox_lease')"
        if not anew and connection.value(exists, (self._target.schema,)):
            return
        with connection.translated(), connection.raw.transaction():
            connection.raw.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"jobs setup {self._target.schema}",)
            )
            connection.raw.execute(connection.script("outbox.sql").encode())
