"""A store in PostgreSQL for one test after the other: emptying its tables takes a fraction of the time of making them."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from psycopg import sql

from jobs_core.backends.base import BackendOptions
from jobs_core.ids import new_token
from jobs_core.testing.services.postgres import PostgresServer
from jobs_postgres.backend import PostgresBackend
from jobs_postgres.url import parse

_DEFINITION = """
    SELECT (SELECT string_agg(concat(oid, relname), ',' ORDER BY oid) FROM pg_class WHERE relnamespace = schema),
           (SELECT string_agg(concat(oid, ' ', xmin), ',' ORDER BY oid) FROM pg_proc WHERE pronamespace = schema)
    FROM to_regnamespace(%s) AS schema
"""

NOTHING = sql.SQL("")
_CONNECTED = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


class EmptiedStore:
    """A schema with empty tables for one test after the other; not thread-safe.

    The next test gets a new schema if this one changed a table or a function, or if anything is still connected to the server
    and could write after it.
    """

    def __init__(self, server: PostgresServer, prepare: Callable[[str], None] = lambda schema: None) -> None:
        self._server, self._prepare = server, prepare
        self._schema = ""
        self._definition: object = None
        self._rows: dict[str, list[tuple[object, ...]]] = {}

    def take(self) -> str:
        """Return the name of a schema with empty tables."""
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            if not self._empty(connection):
                self._drop(connection)
                self._make(connection)
        return self._schema

    def close(self) -> None:
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            self._drop(connection)

    def _make(self, connection: psycopg.Connection) -> None:
        self._schema = f"test_{new_token(6).lower().replace('-', '_')}"
        backend = PostgresBackend(parse(f"{self._server.url}?schema={self._schema}", "jobs"), BackendOptions())
        backend.open(None)
        backend.close()
        self._prepare(self._schema)
        self._definition = self._defined(connection)
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (self._schema,)).fetchall()
        self._rows = {name: connection.execute(self._sql("SELECT * FROM {}.{}", name)).fetchall() for (name,) in tables}

    def _empty(self, connection: psycopg.Connection) -> bool:
        """Empty the tables; return whether the schema is as a new one."""
        if not self._schema or self._defined(connection) != self._definition:
            return False
        if connection.execute(_CONNECTED).fetchone() != (0,):
            return False
        with connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")  # no trigger reacts
            connection.execute(sql.SQL("; ").join(self._sql("DELETE FROM {}.{}", name) for name in self._rows))
            for name, rows in self._rows.items():
                for row in rows:
                    values = sql.SQL(", ").join(map(sql.Literal, row))
                    connection.execute(self._sql("INSERT INTO {}.{} VALUES ({})", name, values))
        return True

    def _defined(self, connection: psycopg.Connection) -> object:
        return connection.execute(_DEFINITION, (f'"{self._schema}"',)).fetchone()

    def _drop(self, connection: psycopg.Connection) -> None:
        if self._schema:
            connection.execute(self._sql("DROP SCHEMA IF EXISTS {} CASCADE"))
            self._schema = ""

    def _sql(self, statement: str, table: str = "", values: sql.Composable = NOTHING) -> sql.Composed:
        return sql.SQL(statement).format(sql.Identifier(self._schema), sql.Identifier(table), values)
