"""Risks in a server's configuration, each with its fix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from msgspec import structs

from jobs_core.backend_kit import count, is_loopback, new_id
from jobs_core.errors import BackendError

from .connection import ServerConnection
from .listener import Listener
from .url import Target

OLDEST = 130000
"""The oldest version of PostgreSQL that is supported, as `server_version_num` writes it."""

HELD_BACK = 3600.0
"""Seconds for which a transaction may be open before it is reported."""

BLOATED = 1_000_000
"""Dead rows of one table above which they are reported."""

MOST_NAMED = 3
"""Locks of others that are named."""

HEARS_WITHIN = 5.0
"""Seconds in which a notification arrives, also on a busy server, unless a proxy pools transactions."""


def advice(target: Target, connection: ServerConnection) -> list[str]:
    """Return the risks, for `jobsctl check`."""
    try:
        return [
            *_version(connection), *_durability(connection), *_access(target, connection), *_bloat(connection),
            *_locks(connection), *_standby(connection), *_split(target), *_pooling(target, connection),
        ]  # fmt: skip
    except BackendError as error:
        return [f"the settings of the server cannot be read: {error}"]


def pooling_advice(target: Target, connection: ServerConnection) -> list[str]:
    """Return whether the URL and what is between this process and the server contradict each other."""
    try:
        return [*_pooling(target, connection)]
    except BackendError as error:
        return [f"the way to the server cannot be tested: {error}"]


def _setting(connection: ServerConnection, name: str) -> str:
    return str(connection.value("SELECT current_setting(%s, true)", (name,)) or "")


def _version(connection: ServerConnection) -> Iterator[str]:
    if int(_setting(connection, "server_version_num")) < OLDEST:
        yield f"PostgreSQL {_setting(connection, 'server_version')} is older than 13, the oldest that is supported: upgrade it"
    if connection.value("SELECT pg_is_in_recovery()"):
        yield (
            "this server is a standby, which cannot be written to: name all hosts in the URL, and add "
            "target_session_attrs=read-write"
        )


def _durability(connection: ServerConnection) -> Iterator[str]:
    if _setting(connection, "fsync") == "off":
        yield "fsync is off: a power cut may destroy the whole database: set fsync = on"
    if _setting(connection, "synchronous_commit") == "off":
        yield (
            "synchronous_commit is off: a power cut may lose the jobs of the last second: set it to on, in postgresql.conf or "
            "for the user of jobs"
        )


def _access(target: Target, connection: ServerConnection) -> Iterator[str]:
    host = target.conninfo.get("host", "")
    remote = [each for each in host.split(",") if each and not each.startswith("/") and not is_loopback(each)]
    if remote and target.conninfo.get("sslmode") not in ("verify-full", "verify-ca"):
        yield (
            f"{remote[0]} is reached without a verified certificate: add sslmode=verify-full and sslrootcert=FILE (or system)"
        )
    if remote and connection.value("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        yield 'jobs connects as a superuser: make a user of its own; see "PostgreSQL" in the documentation'


def _pooling(target: Target, connection: ServerConnection) -> Iterator[str]:
    if target.pooling:
        if (
            connection.value("SELECT pg_backend_pid()") == connection.raw.pgconn.backend_pid
        ):  # a proxy names a number of its own
            yield (
                "the URL says pooling=transaction, but there is no proxy: workers look for jobs once a second, although they "
                "could be notified: remove it"
            )
    elif not connection.value("SELECT pg_is_in_recovery()") and not _hears(connection):
        yield (
            "a proxy that pools transactions is in between: notifications do not arrive, so that jobs start late, and prepared "
            "statements fail: add ?pooling=transaction to the URL, or connect to the server, or to a pool of sessions"
        )


def _hears(connection: ServerConnection) -> bool:
    """Return whether a notification of one connection arrives at another one, which does nothing but wait for it."""
    listener = Listener(connection.target, new_id())
    try:
        listener.connect()
        connection.rows("SELECT 1 FROM pg_notify(%s, 'check')", (listener.channel,))
        return bool(listener.sleep(HEARS_WITHIN)[0])
    finally:
        listener.close()


def _bloat(connection: ServerConnection) -> Iterator[str]:
    if _setting(connection, "autovacuum") == "off":
        yield "autovacuum is off: tables of a queue grow without end, and every reserve slows down: set autovacuum = on"
    names = "SELECT relname, n_dead_tup FROM pg_stat_user_tables WHERE schemaname = %s AND n_dead_tup > %s ORDER BY 2 DESC"
    for name, dead in connection.rows(names, (connection.target.schema, BLOATED)):
        yield (
            f"table {name} has {dead:,} dead rows: look for a transaction or a replication slot that holds vacuum back "
            "(pg_stat_activity.xact_start, pg_replication_slots.xmin)"
        )
    oldest = connection.value("SELECT max(extract(epoch FROM now() - xact_start))::double precision FROM pg_stat_activity")
    if oldest is not None and oldest > HELD_BACK:
        yield (
            f"a transaction has been open for {oldest / 3600:.1f} h: until it ends, no row that jobs deletes can be reused; "
            "see pg_stat_activity"
        )


def _locks(connection: ServerConnection) -> Iterator[str]:
    holders = """
        SELECT a.pid, coalesce(nullif(a.application_name, ''), 'unnamed'), a.usename, l.mode, c.relname
          FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation JOIN pg_stat_activity AS a USING (pid)
         WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind = 'r' AND l.granted AND a.application_name <> 'jobs'
           AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
         ORDER BY a.xact_start, c.relname LIMIT %s"""
    for pid, program, user, mode, table in connection.rows(holders, (connection.schema, MOST_NAMED)):
        yield (
            f"table {table} is locked ({mode}) by process {pid} of the server (program {program}, user {user}): jobs waits "
            f"until its transaction ends; `SELECT pg_terminate_backend({pid})` ends it"
        )


def _standby(connection: ServerConnection) -> Iterator[str]:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND state_change < now() - interval '5 s'"
    number = connection.value(waiting)
    if number:
        yield (
            f"{count(number, 'commit')} on this server wait for a synchronous standby: start it, or change "
            f"synchronous_standby_names, which is '{_setting(connection, 'synchronous_standby_names')}'"
        )


def _split(target: Target) -> Iterator[str]:
    """Report a server that accepts writes besides another one: an old primary that has returned after a failover."""
    hosts, ports = (target.conninfo.get(name, "").split(",") for name in ("host", "port"))
    if len(hosts) < 2:
        return
    writable = []
    for host, port in zip(hosts, ports, strict=True):
        place = {"host": host, "port": port, "target_session_attrs": "any"}
        one = ServerConnection(structs.replace(target, conninfo={**target.conninfo, **place}))
        with contextlib.suppress(BackendError):
            try:
                one.connect()
                if not one.value("SELECT pg_is_in_recovery()"):
                    writable.append(f"{host}:{port}")
            finally:
                one.disconnect()
    if len(writable) > 1:
        yield (
            f"{' and '.join(writable)} both accept writes: one is an old primary that has returned after a failover, or the "
            "URL names servers of different data; workers of one do not run jobs of the other: stop the old one at once"
        )
