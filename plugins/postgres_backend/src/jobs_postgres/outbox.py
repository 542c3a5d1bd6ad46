"""An outbox in a PostgreSQL database of the application; sql/outbox.sql has its tables."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from jobs_core.backend_kit import new_id
from jobs_core.backends.base import Outgoing
from jobs_core.backends.flows import Part
from jobs_core.backends.outbox import (
    FIRST_RETRY,
    LOAD_BYTES,
    LONGEST_RETRY,
    MOST_COUNTED,
    FlowPart,
    Load,
    Outbox,
    OutboxItem,
    OutboxState,
)
from jobs_core.errors import BackendError, BackendUnavailable

from .advice import pooling_advice
from .connection import ServerConnection
from .enlisting import Enlisting, Storing
from .polling import Poller, listener_for
from .url import Target

VERSION = 1
"""The version of the functions `put_out` and `put_out_flow` that are called here."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Outgoing).decode
_decode_part = msgspec.msgpack.Decoder(FlowPart).decode

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
     WHERE seq IN (SELECT seq FROM summed WHERE before < %(bytes)s AND n <= %(most)s) AND load IS NULL RETURNING 1"""
_LOADED = """
    SELECT load, id, members IS NOT NULL, {s}.outbox_now() - at, message FROM {s}.outbox
     WHERE load = (SELECT load FROM {s}.outbox WHERE load IS NOT NULL LIMIT 1) ORDER BY seq"""
_ADVANCE = """
    WITH carried AS (DELETE FROM {s}.outbox_member WHERE flow = %(flow)s AND number = %(number)s RETURNING 1),
    next AS (DELETE FROM {s}.outbox_part WHERE flow = %(flow)s AND number = %(number)s + 1 RETURNING message)
    UPDATE {s}.outbox SET message = next.message, members = members - (SELECT count(*) FROM carried)
      FROM next WHERE id = %(flow)s AND load = %(load)s RETURNING outbox.message, {s}.outbox_now() - at"""
_FINISH = """
    WITH refused AS (
        UPDATE {s}.outbox AS o SET load = NULL, tries = tries + 1, reason = r.reason,
               try_at = {s}.outbox_now() + least(%(longest)s, %(first)s * 2 ^ least(tries, 20))
          FROM unnest(%(ids)s::text[], %(reasons)s::text[]) AS r (id, reason)
         WHERE o.load = %(load)s AND o.id = r.id RETURNING seq),
    done AS (
        DELETE FROM {s}.outbox WHERE load = %(load)s AND id <> ALL (%(ids)s::text[]) RETURNING id),
    parts AS (
        DELETE FROM {s}.outbox_part WHERE flow = ANY (%(flows)s::text[]) AND flow IN (SELECT id FROM done) RETURNING 1),
    members AS (
        DELETE FROM {s}.outbox_member WHERE flow = ANY (%(flows)s::text[]) AND flow IN (SELECT id FROM done) RETURNING 1)
    SELECT (SELECT count(*) FROM refused), (SELECT count(*) FROM done), (SELECT count(*) FROM parts),
           (SELECT count(*) FROM members)"""
_DROP = """
    WITH gone AS (DELETE FROM {s}.outbox WHERE id = ANY (%(ids)s) AND load IS NULL RETURNING id),
    parts AS (DELETE FROM {s}.outbox_part WHERE flow IN (SELECT id FROM gone) AND flow = ANY (%(ids)s)),
    members AS (DELETE FROM {s}.outbox_member WHERE flow IN (SELECT id FROM gone) AND flow = ANY (%(ids)s))
    SELECT count(*) FROM gone"""
_STATE = """
    SELECT (SELECT least(%(most)s, coalesce(sum(greatest(1, members)), 0))::integer
              FROM (SELECT members FROM {s}.outbox LIMIT %(most)s) AS some_),
           (SELECT {s}.outbox_now() - at FROM {s}.outbox ORDER BY seq LIMIT 1),
           (SELECT least(%(most)s, coalesce(sum(greatest(1, members)), 0))::integer
              FROM (SELECT members FROM {s}.outbox WHERE try_at IS NOT NULL LIMIT %(most)s) AS some_)"""
_REFUSED = """
    SELECT id, topic, {s}.outbox_now() - at, tries, try_at - {s}.outbox_now(), reason, members FROM {s}.outbox
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
        self._connection = ServerConnection(target, outbox=True)
        self._listener = listener_for(target, "outbox")
        self._holder = new_id()
        self._renew_at = 0.0
        self._asked_for_lock = False

    # -- producers ---------------------------------------------------------------------------------

    def _prepare(self, connection: ServerConnection) -> str:
        self._make(connection)
        return str(connection.value(connection.sql("SELECT {s}.outbox_place()")))

    def enqueuing(self, messages: Sequence[Outgoing], patience: float) -> tuple[str, list[Any]]:
        ids, topics = [message.id for message in messages], [message.topic for message in messages]
        statement = f"SELECT {self._connection.schema}.put_out(%s, %s, %s::text[], %s::text[], %s::bytea[], %s)::text"
        bodies = [_encode(message) for message in messages]
        return statement, [VERSION, self.place(), ids, topics, bodies, self._target.notify]

    def storing(self, part: Part, messages: Sequence[Outgoing], patience: float) -> Storing:
        statement = f"SELECT {self._connection.schema}.put_out_flow(%s, %s, %s, %s, %s, %s, %s::text[], %s)::text"
        body, ids = _encode(FlowPart(part, list(messages))), [message.id for message in messages]
        yield statement, [VERSION, self.place(), part.flow, part.number, part.name, body, ids, self._target.notify]
        return {}

    def find(self, item_id: str) -> OutboxItem | None:
        rows = self._asked("outbox_find", item_id)
        return _item(*rows[0]) if rows else None

    def withdraw(self, item_id: str) -> bool:
        return bool(self._asked("outbox_withdraw", item_id)[0][0])

    def _asked(self, function: str, item_id: str) -> list[Any]:
        """Return the rows of a function, on a connection of its own: any thread may ask."""
        connection = ServerConnection(self._target, outbox=True)
        connection.connect()
        try:
            self._make(connection)
            return connection.rows(connection.call(function, 1), (item_id,))
        finally:
            connection.disconnect()

    # -- the carrier ---------------------------------------------------------------------------------

    def setup(self) -> None:
        connection = ServerConnection(self._target, outbox=True)
        connection.connect()
        try:
            self._make(connection, anew=True)
        finally:
            connection.disconnect()

    def open(self) -> None:
        self._connection.connect()
        self._make(self._connection)

    def close(self) -> None:
        if self._connection.connected:
            with contextlib.suppress(BackendError):
                if self._renew_at:
                    self._connection.rows(self._connection.sql(_RETURN), (self._holder,))
                if self._asked_for_lock:  # the server notices only some time later that a connection has ended
                    self._connection.rows("SELECT pg_advisory_unlock_all()")
        self._renew_at, self._asked_for_lock = 0.0, False
        self._listener.close()
        self._connection.disconnect()

    def lead(self) -> bool:
        key = f"jobs outbox {self._target.schema}"
        if self._target.pooling:
            return self._renew(key)
        # The lock is the connection's, and ends with it. The server would grant it again to the one that has it.
        self._asked_for_lock = True
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
        load = Load(rows[0][0], [], {})
        for _, item_id, is_flow, waited, body in rows:
            try:
                load.items.append(_part(body, waited) if is_flow else _due(_decode(body), waited))
            except msgspec.DecodeError as error:
                load.unreadable[item_id] = f"this release cannot read it, perhaps because a newer one has written it: {error}"
        return load

    def advance(self, load: Load, part: Part) -> FlowPart:
        facts = {"flow": part.flow, "number": part.number, "load": load.request}
        rows = self._connection.rows(self._connection.sql(_ADVANCE), facts)
        if not rows:
            held = "SELECT EXISTS (SELECT FROM {s}.outbox WHERE id = %(flow)s AND load = %(load)s)"
            if not self._connection.value(self._connection.sql(held), facts):  # another carrier took over
                raise BackendUnavailable(f"{self._target.shown}: another carrier has carried flow {part.flow} on")
            raise BackendError(f"its part {part.number + 1} is not in the outbox any more: drop it, and send it anew")
        return _part(*rows[0])

    def finish(self, load: Load, refused: Mapping[str, str]) -> None:
        flows = [item.part.flow for item in load.items if isinstance(item, FlowPart) and item.part.flow not in refused]
        facts = {
            "load": load.request,
            "ids": list(refused),
            "reasons": [self._storable(reason) for reason in refused.values()],
            "flows": flows,
            "first": FIRST_RETRY,
            "longest": LONGEST_RETRY,
        }
        self._connection.rows(self._connection.sql(_FINISH), facts)

    def _storable(self, reason: str) -> str:
        """Return a reason as the database of the application, of whatever encoding, can store it."""
        encoding = self._connection.raw.info.parameter_status("server_encoding")
        kept = reason if encoding == "UTF8" else reason.encode("ascii", "backslashreplace").decode()
        return kept.replace("\0", "")

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

    def refused(self, most: int) -> list[OutboxItem]:
        return [_item(*row) for row in self._connection.rows(self._connection.sql(_REFUSED), (most,))]

    def retry(self, job_ids: Sequence[str]) -> int:
        statement = "UPDATE {s}.outbox SET try_at = {s}.outbox_now() WHERE id = ANY (%s) AND try_at IS NOT NULL RETURNING 1"
        return len(self._connection.rows(self._connection.sql(statement), (list(job_ids),)))

    def drop(self, job_ids: Sequence[str]) -> int:
        return int(self._connection.value(self._connection.sql(_DROP), {"ids": list(job_ids)}))

    def _make(self, connection: ServerConnection, *, anew: bool = False) -> None:
        """Create the tables and functions if they are missing; any number of processes may do so at once."""
        exists = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = %s AND tablename = 'outbox_member')"
        if not anew and connection.value(exists, (self._target.schema,)):
            return
        with connection.translated(), connection.raw.transaction():
            connection.raw.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"jobs setup {self._target.schema}",)
            )
            for statements in [*connection.defining(["outbox.sql"]), connection.script("outbox_rights.sql")]:
                connection.raw.execute(statements.encode())


def _due(message: Outgoing, waited: float) -> Outgoing:
    """Return a message with what is left of its delay, unless that counts from the ends of other jobs."""
    if not message.delay or (message.member is not None and message.member.after):
        return message
    return msgspec.structs.replace(message, delay=max(0.0, message.delay - max(0.0, waited)))


def _part(body: bytes, waited: float) -> FlowPart:
    flow = _decode_part(body)
    return FlowPart(flow.part, [_due(message, waited) for message in flow.messages])


def _item(
    item_id: str, topic: str, age: float, tries: int, next_try: float | None, reason: str | None, members: int | None
) -> OutboxItem:
    return OutboxItem(item_id, topic, max(0.0, age), tries, next_try, reason or "", members)
