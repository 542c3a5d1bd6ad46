"""Enqueue inside a transaction of the application on this database; sql/transactions.sql has the other half."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from jobs_core.backends.base import Backend, BackendOptions, Outgoing
from jobs_core.backends.transactions import Enlisted
from jobs_core.errors import BackendUnavailable, TransactionError

from .connection import ServerConnection
from .rows import facts
from .transactions import awaits, execute, execute_async, same_settings
from .url import Target

VERSION = 1
"""The version of the function `enqueue` that is called here."""

_PLACE = """
    SELECT concat_ws('/', system_identifier, (SELECT oid FROM pg_database WHERE datname = current_database()))
      FROM pg_control_system()"""
_MISSING = {
    "3F000": "its database has no tables of jobs in the schema {schema} (`{setup}` creates them)",
    "42883": "its database has no tables of jobs in the schema {schema}, or those of another release (`{setup}` creates them)",
    "42501": "its role may not enqueue: grant it USAGE of the schema {schema}, and EXECUTE of this function",
}


class Joining(abc.ABC):
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

    def place(self, *, anew: bool = False) -> str:
        """Return what names the database; asked once, on a connection of its own that is closed again."""
        if self._place is None or anew:
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

    def explained(self, error: Exception) -> TransactionError | None:
        """Return the error for a transaction on a database without these tables; None if the error says something else."""
        why = _MISSING.get(_sqlstate(error))
        if why is None:
            return None
        told = why.format(schema=self._target.schema, setup=self._setup_command)
        return TransactionError(f"transaction: {told}; this application is configured for {self._target.shown}")

    def elsewhere(self) -> TransactionError:
        return TransactionError(
            f"transaction: it is on another database than the jobs, which are in {self._target.shown}: enqueue without "
            "transaction=, or use an outbox in that database"
        )


class PostgresTransactionCalls(Joining, Backend):
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


class PostgresTransaction(Enlisted):
    """A transaction on the database of the store."""

    def __init__(self, calls: Joining, transaction: object, *, waits: bool) -> None:
        self._calls = calls
        self._transaction = transaction
        self.awaits = waits

    def push(self, messages: Sequence[Outgoing], patience: float) -> Mapping[str, str]:
        if self.awaits:
            raise TransactionError("transaction: its connection is one for an event loop: await .aenqueue(...)")
        statement, parameters = self._calls.enqueuing(messages, patience)
        for _ in range(2):
            try:
                answer = execute(self._transaction, statement, parameters)
            except Exception as error:
                raise self._calls.explained(error) or error from error.__cause__
            found = self._conflicts(answer, patience)
            if found is not None:
                return found
            parameters[1] = self._calls.place(anew=True)
        raise self._calls.elsewhere()

    async def apush(self, messages: Sequence[Outgoing], patience: float) -> Mapping[str, str]:
        import asyncio  # late: whoever awaits has it

        statement, parameters = await asyncio.to_thread(self._calls.enqueuing, messages, patience)
        for _ in range(2):
            try:
                answer = await execute_async(self._transaction, statement, parameters)
            except Exception as error:
                raise self._calls.explained(error) or error from error.__cause__
            found = self._conflicts(answer, patience)
            if found is not None:
                return found
            parameters[1] = await asyncio.to_thread(self._calls.place, anew=True)
        raise self._calls.elsewhere()

    def _conflicts(self, answer: str, patience: float) -> Mapping[str, str] | None:
        """Return the conflicts; None if the transaction is on another database."""
        decoded: dict[str, Any] = msgspec.json.decode(answer)
        refused = decoded.get("refused")
        if refused == "busy":
            raise BackendUnavailable(
                f"gave up after {patience:g} s (enqueue_timeout): another transaction, which has not ended, holds a unique key "
                "or id of these jobs; the job was not enqueued, and your transaction may go on"
            )
        conflicts: Mapping[str, str] | None = None if refused else decoded["conflicts"]
        return conflicts


def _sqlstate(error: BaseException) -> str:
    """Return the server's code of an error, of which SQLAlchemy and Django raise their own."""
    for each in (error, getattr(error, "orig", None), error.__cause__):
        code = getattr(each, "sqlstate", None)
        if code:
            return str(code)
    return ""
