"""Statements on a connection of the application, inside the transaction that is open there.

It may be one of psycopg, asyncpg, SQLAlchemy or Django; each executes by its own means, so that it learns of errors as of those
of any other statement. Nothing here imports asyncpg, SQLAlchemy or Django: an application that has such an object has imported
them.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from jobs_core.errors import TransactionError

_KINDS = (
    "a connection of psycopg 3 or asyncpg, an SQLAlchemy Session or Connection (also their async forms) on "
    "postgresql+psycopg://, postgresql+psycopg2:// or postgresql+asyncpg://, or django.db.connection"
)
FAILED = (
    "transaction: an earlier statement in it has failed, so that it can only be rolled back: roll it back, or work inside a "
    "savepoint"
)
BUSY = (
    "transaction: its connection is in the middle of a statement: stream() or copy() of one of its cursors has not ended, or "
    "another thread or task uses it. Enqueue after that, or read the rows with fetchall() or from a server-side cursor"
)
CLOSED = "transaction: its connection is closed: enqueue while the transaction is open"
_ALCHEMY = "sqlalchemy"
_ASYNC = "sqlalchemy.ext.asyncio"


def awaits(transaction: object) -> bool:
    """Return whether statements on it are awaited; raise TransactionError for an object that is no transaction of ours."""
    if isinstance(transaction, psycopg.AsyncConnection) or _is_asyncpg(transaction):
        return True
    if _is(transaction, _ASYNC, "AsyncSession", "AsyncConnection", "async_scoped_session"):
        return True
    if isinstance(transaction, psycopg.Connection) or _is_alchemy(transaction) or _django(transaction) is not None:
        return False
    raise TransactionError(f"transaction: expected {_KINDS}, got {type(transaction).__qualname__}")


def execute(transaction: Any, statement: str, parameters: Sequence[Any]) -> Any:
    """Execute a statement; return its value, if any. Raises TransactionError, and the errors of the object's library."""
    wrapper = _django(transaction)
    if wrapper is not None:
        return _execute_in_django(wrapper, statement, parameters)
    if _is_alchemy(transaction):
        # A Session and a scoped_session have the method `connection`; a Connection has an attribute of this name.
        with _usable():
            connection = transaction.connection() if callable(transaction.connection) else transaction
            statement = _checked(connection.dialect, connection.connection, statement)
        return _value(connection.exec_driver_sql(statement, tuple(parameters)))
    _check(transaction)
    # Not transaction.cursor(), which may be of a class with other placeholders.
    with psycopg.Cursor(transaction, row_factory=tuple_row) as cursor:
        cursor.execute(statement, parameters)
        row = cursor.fetchone() if _answers(statement) else None
        return None if row is None else row[0]


async def execute_async(transaction: Any, statement: str, parameters: Sequence[Any]) -> Any:
    """Execute a statement on a connection whose calls are awaited."""
    if isinstance(transaction, psycopg.AsyncConnection):
        _check(transaction)
        async with psycopg.AsyncCursor(transaction, row_factory=tuple_row) as cursor:
            await cursor.execute(statement, parameters)
            row = await cursor.fetchone() if _answers(statement) else None
            return None if row is None else row[0]
    if _is_asyncpg(transaction):
        _check_asyncpg(transaction, begun=transaction.is_in_transaction())
        if not parameters:
            await transaction.execute(statement)
            return None
        return await transaction.fetchval(_numbered(statement), *parameters)
    with _usable():
        connection = transaction if _is(transaction, _ASYNC, "AsyncConnection") else await transaction.connection()
        statement = _checked(connection.dialect, await connection.get_raw_connection(), statement)
    return _value(await connection.exec_driver_sql(statement, tuple(parameters)))


def _execute_in_django(wrapper: Any, statement: str, parameters: Sequence[Any]) -> Any:
    if wrapper.vendor != "postgresql":
        raise TransactionError(f"transaction: the database {wrapper.alias!r} of Django is {wrapper.vendor}, not PostgreSQL")
    if not wrapper.in_atomic_block:
        raise TransactionError(
            f"transaction: no transaction is open on the database {wrapper.alias!r} of Django: enqueue inside "
            "transaction.atomic(), or without transaction="
        )
    if wrapper.closed_in_transaction:
        raise TransactionError(CLOSED)
    if wrapper.needs_rollback:
        raise TransactionError(FAILED)
    with wrapper.cursor() as cursor:
        _check_idle(cursor.connection)
        _check_strings(cursor.connection)
        cursor.execute(statement, parameters)
        return cursor.fetchone()[0] if cursor.description else None


@contextlib.contextmanager
def _usable() -> Iterator[None]:
    """Raise TransactionError where SQLAlchemy says that there is no connection to use, such as that of a closed session."""
    try:
        yield
    except sys.modules["sqlalchemy.exc"].InvalidRequestError as error:
        if _is(error, "sqlalchemy.exc", "PendingRollbackError"):
            raise TransactionError(FAILED) from error
        raise TransactionError(f"transaction: SQLAlchemy has no connection for it: {error}") from error


def _answers(statement: str) -> bool:
    """Return whether a statement returns a row: in pipeline mode, a cursor knows that only once the row was fetched."""
    return statement.lstrip().startswith("SELECT")


def _value(result: Any) -> Any:
    """Return the one value of a result of SQLAlchemy; None if the statement returns no rows."""
    return result.scalar_one() if result.returns_rows else None


def _is_alchemy(transaction: object) -> bool:
    return _is(transaction, _ALCHEMY, "Connection") or _is(transaction, "sqlalchemy.orm", "Session", "scoped_session")


def _is_asyncpg(transaction: object) -> bool:
    return _is(transaction, "asyncpg.connection", "Connection") or _is(transaction, "asyncpg.pool", "PoolConnectionProxy")


@functools.lru_cache
def _numbered(statement: str) -> str:
    """Return a statement with parameters as asyncpg writes them; JSON is a text, whatever codec the connection has for it."""
    parts = re.split(r"%s(?:::jsonb)?", statement)
    kinds = re.findall(r"%s(::jsonb)?", statement)
    numbered = (f"${n}{'::text::jsonb' if kind else ''}" for n, kind in enumerate(kinds, 1))
    return "".join(part + number for part, number in zip(parts, [*numbered, ""], strict=True))


def _checked(dialect: Any, raw: Any, statement: str) -> str:
    """Check a connection of SQLAlchemy as `_check` does; return a statement as its driver writes it."""
    if dialect.name == "postgresql" and dialect.driver == "asyncpg":
        # The driver begins the transaction with the first statement, unless it is in autocommit mode.
        _check_asyncpg(raw.driver_connection, begun=not raw.dbapi_connection.autocommit)
        return _numbered(statement)
    if dialect.name != "postgresql" or dialect.driver not in ("psycopg", "psycopg_async", "psycopg2"):
        raise TransactionError(
            f"transaction: the engine is {dialect.name}+{dialect.driver}://: transactional enqueue needs "
            "postgresql+psycopg://, postgresql+psycopg2:// or postgresql+asyncpg://"
        )
    _check(raw.driver_connection)
    return statement


def _check_asyncpg(connection: Any, *, begun: bool) -> None:
    """Raise TransactionError as `_check` does; that a statement has failed, the next one says: see `FAILED`."""
    if connection.is_closed():
        raise TransactionError(CLOSED)
    if not begun:
        raise TransactionError(
            "transaction: the connection is in autocommit mode, so that there is no transaction: open one (with asyncpg, async "
            "with connection.transaction():), or enqueue without transaction="
        )


def _check(connection: Any) -> None:
    """Raise TransactionError if what is done on a connection would not belong to a transaction, or cannot be committed."""
    if connection.closed:
        raise TransactionError(CLOSED)
    status = connection.info.transaction_status
    if status == TransactionStatus.INERROR:
        raise TransactionError(FAILED)
    _check_idle(connection)
    if connection.autocommit and status == TransactionStatus.IDLE:
        raise TransactionError(
            "transaction: the connection is in autocommit mode, so that there is no transaction: open one (with "
            "connection.transaction():), or enqueue without transaction="
        )
    _check_strings(connection)


def _check_idle(connection: Any) -> None:
    """Raise TransactionError if a statement is being executed: whoever executes it would wait for ever for its end."""
    if connection.info.transaction_status == TransactionStatus.ACTIVE:
        pipeline = getattr(getattr(connection, "pgconn", None), "pipeline_status", PipelineStatus.OFF)
        if pipeline == PipelineStatus.OFF:  # else more statements may be sent
            raise TransactionError(BUSY)


def _check_strings(connection: Any) -> None:
    """Raise TransactionError if psycopg would escape the bytes of jobs wrongly."""
    if connection.info.parameter_status("standard_conforming_strings") == "off":
        raise TransactionError(
            "transaction: standard_conforming_strings is off on its connection, which would change the bytes of jobs: set it "
            "to on for this role, or with SET"
        )


def _is(instance: object, module: str, *names: str) -> bool:
    """Return whether it is an instance of one of these classes of a module, if that is imported."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(instance, tuple(getattr(loaded, name) for name in names))


def _django(transaction: Any) -> Any:
    """Return Django's wrapper of a connection for it or for django.db.connection; None if it is neither."""
    if _is(transaction, "django.utils.connection", "ConnectionProxy"):
        transaction = transaction._connections[transaction._alias]  # it has no other way to what it stands for
    return transaction if _is(transaction, "django.db.backends.base.base", "BaseDatabaseWrapper") else None


def same_settings(transaction: object) -> Any:
    """Return what connections to the same database have in common, for a memory of what they lead to."""
    wrapper = _django(transaction)
    if wrapper is None:
        return id(transaction)
    settings = wrapper.settings_dict  # of a service file, only the options say which database it is, so the alias counts, too
    return wrapper.vendor, wrapper.alias, *(settings.get(name) for name in ("HOST", "PORT", "NAME"))
