"""Enqueue inside a transaction of the application on this database; sql/transactions.sql has the other half."""

from __future__ import annotations

import abc
from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from jobs_core.backend_kit import new_id
from jobs_core.backends.base import Backend, BackendOptions, Outgoing
from jobs_core.backends.flows import Part
from jobs_core.backends.transactions import Enlisted
from jobs_core.errors import BackendUnavailable, TransactionError

from .connection import ServerConnection
from .errors import READ_ONLY
from .flows import part_rows
from .joining import ids_of, labels_of
from .rows import facts
from .transactions import FAILED, awaits, execute, execute_async, same_settings
from .url import Target

VERSION = 1
"""The version of the function `enqueue` that is called here."""

Storing: TypeAlias = Generator[tuple[str, list[Any]], Any, Mapping[str, str]]
"""Statements of which the second parameter names the database, each of which is sent the answer; returns the conflicts."""

_PLACE = """
    SELECT pg_catalog.concat_ws('/', system_identifier,
                                (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
      FROM pg_catalog.pg_control_system()"""
_MISSING = {
    "3F000": "its database has no tables of jobs in the schema {schema} (`{setup}` creates them)",
    "42883": "its database has no tables of jobs in the schema {schema}, or those of another release (`{setup}` creates them)",
    "42501": "its role may not enqueue: grant it USAGE of the schema {schema}, and EXECUTE of the functions that it needs "
    '(see "Enqueue inside your own transaction" in the documentation)',
}

_READ_ONLY = (
    "transaction: it is read-only, or on a standby: enqueue in one that may write to the primary, or without transaction= "
    "(inside Django's atomic, with on_commit=False)"
)


class Enlisting(abc.ABC):
    """What pushes into transactions on one database, of the store of jobs or of an outbox; it needs no open connection."""

    _setup_command = "jobsctl setup"

    def __init__(self, target: Target) -> None:
        self._target = target
        self._place: str | None = None  # names the database, once it was asked
        self._shared: dict[Any, bool] = {}  # settings of other connections, and whether they lead to this database

    def enlist(self, transaction: object) -> Enlisted:
        return PostgresTransaction(self, transaction, waits=awaits(transaction))

    def shares(self, transaction: object) -> bool:
        settings = same_settings(transaction)
        known = self._shared.get(settings)
        if known is None:
            known = self._shared[settings] = execute(transaction, _PLACE, ()) == self.place()
        return known

    def place(self) -> str:
        """Return what names the database; asked once, on a connection of its own that is closed again."""
        if self._place is None:
            connection = ServerConnection(self._target)
            connection.connect()
            try:
                self._place = self._prepare(connection)
            finally:
                connection.disconnect()
        return self._place

    @abc.abstractmethod
    def _prepare(self, connection: ServerConnection) -> str:
        """Create the tables that are missing; return what names the database."""

    @abc.abstractmethod
    def enqueuing(self, messages: Sequence[Outgoing], patience: float) -> tuple[str, list[Any]]:
        """Return the statement that stores messages, and its parameters, of which the second names the database."""

    @abc.abstractmethod
    def storing(self, part: Part, messages: Sequence[Outgoing], patience: float) -> Storing:
        """Yield the statements that store a part of a flow, in the form of `enqueuing`; return the conflicts."""

    def explained(self, error: Exception) -> TransactionError | None:
        """Return the error for a transaction in which nothing can be enqueued, such as a failed one; else None."""
        if isinstance(error, UnicodeEncodeError):
            return TransactionError(
                f"transaction: the client_encoding of its connection is {error.encoding}, which cannot encode these jobs: set "
                "it to UTF8"
            )
        code = _sqlstate(error)
        if code == "25P02":
            return TransactionError(FAILED)
        if code == READ_ONLY:
            return TransactionError(_READ_ONLY)
        why = _MISSING.get(code)
        if why is None:
            return None
        told = why.format(schema=self._target.schema, setup=self._setup_command)
        return TransactionError(f"transaction: {told}; this application is configured for {self._target.shown}")

    def elsewhere(self) -> TransactionError:
        self._place = None  # the store may have moved to another server: ask again next time
        return TransactionError(
            f"transaction: it is on another database than the jobs, which are in {self._target.shown}: enqueue without "
            "transaction=, or use an outbox in that database"
        )


class PostgresTransactionCalls(Enlisting, Backend):
    """The calls for transactions of callers, a base class of `PostgresBackend`."""

    _options: BackendOptions

    def _prepare(self, connection: ServerConnection) -> str:
        connection.prepare_store()
        return str(connection.function("place"))

    def enqueuing(self, messages: Sequence[Outgoing], patience: float) -> tuple[str, list[Any]]:
        listed, payloads, plain, lined = facts(messages)
        schema = ServerConnection(self._target).schema
        statement = f"SELECT {schema}.enqueue(%s, %s, %s::jsonb, %s::bytea[], %s, %s, %s, %s, %s)::text"
        wakes = self._target.notify
        return statement, [VERSION, self.place(), listed, payloads, plain, lined, self._options.cancelled_ttl, patience, wakes]

    def storing(self, part: Part, messages: Sequence[Outgoing], patience: float) -> Storing:
        schema = ServerConnection(self._target).schema
        rows, *_ = facts(messages, members=True)
        begin = f"SELECT {schema}.begin_flow(%s, %s, %s, %s, %s, %s::jsonb, %s::text[], %s::text[], %s)::text"
        named = new_id(), part.flow, part.number, rows, ids_of(messages), labels_of(messages)
        begun = yield begin, [VERSION, self.place(), *named, patience]
        if "answer" in begun:
            answer: Mapping[str, str] = begun["answer"]
            return answer
        end = (
            f"SELECT {schema}.end_flow(%s, %s, %s, %s::bigint[], %s::jsonb, %s::jsonb, %s::jsonb, %s::bytea[], %s::jsonb, "
            "%s::jsonb, %s::jsonb, %s::bigint[], %s, %s)::text"
        )
        stored = part_rows(part, messages, begun)
        yield end, [VERSION, self.place(), *stored, self._options.cancelled_ttl, self._target.notify]
        return {}


Steps: TypeAlias = Generator[tuple[str, Sequence[Any]], Any, Mapping[str, str]]
"""Statements with their parameters, each of which is sent the answer; returns the conflicts."""


class PostgresTransaction(Enlisted):
    """A transaction on the database of an outbox, or of the store."""

    def __init__(self, calls: Enlisting, transaction: object, *, waits: bool) -> None:
        self._calls = calls
        self._transaction = transaction
        self.awaits = waits

    def push(self, messages: Sequence[Outgoing], patience: float) -> Mapping[str, str]:
        return self._run(self._pushing(messages, patience))

    async def apush(self, messages: Sequence[Outgoing], patience: float) -> Mapping[str, str]:
        return await self._arun(self._pushing(messages, patience))

    def push_flow(self, parts: Sequence[tuple[Part, list[Outgoing]]], patience: float) -> Mapping[str, str]:
        return self._run(self._pushing_flow(parts, patience))

    async def apush_flow(self, parts: Sequence[tuple[Part, list[Outgoing]]], patience: float) -> Mapping[str, str]:
        return await self._arun(self._pushing_flow(parts, patience))

    # -- steps ---------------------------------------------------------------------------------------

    def _run(self, steps: Steps) -> Mapping[str, str]:
        if self.awaits:
            raise TransactionError("transaction: its connection is one for an event loop: await .aenqueue(...)")
        self._calls.place()
        answer = None
        while True:
            try:
                statement, parameters = steps.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # what Steps returns
            try:
                answer = execute(self._transaction, statement, parameters)
            except Exception as error:
                raise self._calls.explained(error) or error from error.__cause__

    async def _arun(self, steps: Steps) -> Mapping[str, str]:
        import asyncio  # late: whoever awaits has it

        await asyncio.to_thread(self._calls.place)
        answer = None
        while True:
            try:
                statement, parameters = steps.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # what Steps returns
            try:
                answer = await execute_async(self._transaction, statement, parameters)
            except Exception as error:
                raise self._calls.explained(error) or error from error.__cause__

    def _pushing(self, messages: Sequence[Outgoing], patience: float) -> Steps:
        return (yield from self._asking(*self._calls.enqueuing(messages, patience), patience))["conflicts"]  # type: ignore[no-any-return]

    def _pushing_flow(self, parts: Sequence[tuple[Part, list[Outgoing]]], patience: float) -> Steps:
        """Push all parts, or none: a refused one undoes those before it."""
        if parts[1:]:
            yield "SAVEPOINT jobs_flow", ()
        for part, messages in parts:
            conflicts = yield from self._pushing_part(part, messages, patience)
            if conflicts:
                if parts[1:]:
                    yield "ROLLBACK TO SAVEPOINT jobs_flow", ()
                return conflicts
        if parts[1:]:
            yield "RELEASE SAVEPOINT jobs_flow", ()
        return {}

    def _pushing_part(self, part: Part, messages: list[Outgoing], patience: float) -> Steps:
        storing = self._calls.storing(part, messages, patience)
        answer = None
        while True:
            try:
                statement, parameters = storing.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # what Storing returns
            answer = yield from self._asking(statement, parameters, patience)

    def _asking(self, statement: str, parameters: list[Any], patience: float) -> Generator[tuple[str, Sequence[Any]], Any, Any]:
        """Execute a function of transactions.sql, of which the second parameter names the database; return what it answers."""
        answer: dict[str, Any] = msgspec.json.decode((yield statement, parameters))
        refused = answer.get("refused")
        if refused == "busy":
            raise BackendUnavailable(
                f"gave up after {patience:g} s (enqueue_timeout): another transaction, which has not ended, holds a unique key "
                "or id of these jobs; the job was not enqueued, and your transaction may go on"
            )
        if refused == "read-only":
            raise TransactionError(_READ_ONLY)
        if refused:
            raise self._calls.elsewhere()
        return answer


def _sqlstate(error: BaseException) -> str:
    """Return the server's code of an error, of which SQLAlchemy and Django raise their own."""
    for each in (error, getattr(error, "orig", None), error.__cause__):
        code = getattr(each, "sqlstate", None) or getattr(each, "pgcode", None)  # psycopg2 has the other name
        if code:
            return str(code)
    return ""
