"""One connection to the server: statements with a deadline, errors of the core, and the tables made where they are missing."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

from jobs_core.errors import BackendError, BackendUnavailable

from .errors import READ_ONLY, may_be_repeated, translated
from .url import Target

COMMAND_TIMEOUT = 10.0
"""Seconds that a statement may take; then the server counts as unreachable, and the connection is closed."""

CONNECT_TIMEOUT = 5
"""Seconds that a connection may take to be made, for each address."""

SETTINGS = (
    (0, "statement_timeout", "'9s'"),
    (0, "lock_timeout", "0"),
    (0, "idle_in_transaction_session_timeout", "'10s'"),
    (140000, "idle_session_timeout", "0"),
    (170000, "transaction_timeout", "0"),
    (0, "default_transaction_isolation", "'read committed'"),
    (0, "search_path", "pg_catalog, pg_temp"),
    (0, "standard_conforming_strings", "on"),
    (0, "enable_seqscan", "off"),
    (0, "enable_bitmapscan", "off"),
    (0, "jit", "off"),
)
"""What each session sets, from which version of the server on: roles and databases may have other defaults.

The server ends a statement shortly before we give it up. Without that, one that waits for a lock would go on to wait after its
connection was closed, and each repetition would leave another. The server also ends a transaction whose process hangs, since it
holds locks. The functions need to see what others have committed since they began. They find names in no schema in which other
roles may create functions, which would run with the permissions of this role. psycopg escapes lists of bytes wrongly without
standard_conforming_strings. Plans are as said in sql/plans.sql."""

SCHEMA_VERSION = 2
"""The version of the tables and functions, that of the first release. Stores of version 1, the state before limits, flows and
notes, are from development alone: a setup carries their jobs over, but workers of both versions do not run side by side."""

GONE = ("claim(text, double precision, text[], text, boolean)", "deliveries(text, text, double precision)")
"""Functions of version 1 that have no successor; a setup drops them."""

EMPTIED = 0.0
"""In place of the version of tables that have lost even that."""

SCRIPTS = (
    "schema.sql",
    "lines_schema.sql",
    "flows_schema.sql",
    "counts.sql",
    "low_water.sql",
    "sizes.sql",
    "functions.sql",
    "limits.sql",
    "lines.sql",
    "serving.sql",
    "flows.sql",
    "notes.sql",
    "settling.sql",
    "transactions.sql",
    "letters.sql",
    "statistics.sql",
)
"""The functions, and the tables that were added since version 1, where they are missing."""

_DEFINITION = re.compile(r"^CREATE OR REPLACE FUNCTION .*?\$\$;", re.MULTILINE | re.DOTALL)
_FUNCTION = re.compile(r"^CREATE OR REPLACE FUNCTION .*?\.(\w+)\(", re.MULTILINE)

REPEATS = 5
"""Most repetitions of a statement that collides with another one."""

LOOK = 0.25
"""Seconds after which a wait for the server notices an interrupt of the process."""

_PREPARES_NOTHING: Mapping[str, Any] = {"prepare_threshold": None}
"""For a proxy that pools transactions: the next statement may run on another connection to the server."""

RV = TypeVar("RV")

logger = logging.getLogger("jobs.postgres")


class DeadlineConnection(psycopg.Connection[TupleRow]):
    """A connection on which no statement waits longer than COMMAND_TIMEOUT for a server that does not answer."""

    _begins = False
    _begun: PQGen[Any] | None = None  # of a statement that was sent and is not answered

    def wait(self, gen: PQGen[RV], interval: float = LOOK, timeout: float | None = None) -> RV:
        if self._begins:
            self._begins = False
            with contextlib.suppress(StopIteration):  # raised if the answer is there
                self._begun = _continued(gen, next(gen))
            return None  # type: ignore[return-value] # nobody reads what `execute` returns of it
        return super().wait(gen, interval, COMMAND_TIMEOUT if timeout is None else timeout)

    def begin(self, statement: bytes, parameters: Sequence[Any]) -> psycopg.Cursor[TupleRow]:
        """Send a statement; `end` waits for its answer, which then is that of the cursor. No other may be sent before that."""
        self._begins = True
        try:
            return self.execute(statement, parameters, binary=True)
        finally:
            self._begins = False

    def end(self) -> None:
        """Wait for the answer of the statement that was begun. Raises psycopg.Error."""
        begun, self._begun = self._begun, None
        if begun is not None:
            with self.lock:
                self.wait(begun)


def _continued(gen: PQGen[RV], state: Any) -> PQGen[RV]:
    """Continue a generator that has just yielded this state."""
    while True:
        try:
            state = gen.send((yield state))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class Collision(Exception):
    """Raised inside a transaction that collided with another one."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class Begun:
    """A statement that was sent before its answer is needed."""

    statement: str
    parameters: Sequence[Any]
    connection: DeadlineConnection
    cursor: psycopg.Cursor[TupleRow]
    ended: bool = False
    error: psycopg.Error | OSError | None = None


class ServerConnection:
    """A connection that is made by `connect`; one thread uses it. Errors are those of the core."""

    def __init__(self, target: Target, *, outbox: bool = False) -> None:
        self.target = target
        self._outbox = outbox
        self.schema = sql.Identifier(target.schema).as_string(None)
        self._connection: DeadlineConnection | None = None
        self._opened = self._in_transaction = False
        self._begun: Begun | None = None

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._connection.closed

    def connect(self) -> None:
        """Connect. Raises BackendUnavailable, BackendError."""
        self._close()
        try:
            self._connect()
        except BaseException:
            self._close()
            raise
        self._opened = True

    def _connect(self) -> None:
        with self.translated():
            self._connection = DeadlineConnection.connect(
                **self.target.conninfo,  # type: ignore[arg-type]
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT,
                application_name="jobs",
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
                tcp_user_timeout=int(COMMAND_TIMEOUT * 1000),
                client_encoding="UTF8",
                **_PREPARES_NOTHING if self.target.pooling else {},
            )
            if not self.target.pooling:  # else it would set them for other clients of the proxy
                self._connection.execute(_settings(self._connection.info.server_version).encode())
        if self._connection.info.parameter_status("standard_conforming_strings") == "off":
            raise BackendError(
                f"{self.target.shown}: standard_conforming_strings is off, and cannot be changed through a proxy that pools "
                "transactions: set it to on for this role"
            )

    def disconnect(self) -> None:
        self._opened = False
        self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        self._begun = None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    @property
    def raw(self) -> DeadlineConnection:
        """Return the connection of psycopg; raises BackendUnavailable if there is none."""
        if self._connection is None:
            raise BackendUnavailable(f"{self.target.shown} is not connected")
        return self._connection

    def rows(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[TupleRow]:
        """Execute one statement, again after a collision; return its rows."""
        for left in range(REPEATS, -1, -1):
            with self.translated():
                try:
                    return self._alive().execute(statement.encode(), parameters, binary=True).fetchall()
                except psycopg.Error as error:
                    if self._in_transaction and may_be_repeated(error):
                        raise Collision(error) from error
                    if not (left and may_be_repeated(error)):
                        raise
        raise AssertionError("unreachable")

    def begin(self, statement: str, parameters: Sequence[Any]) -> None:
        """Send a statement, and let the server work; `end` returns its rows. Other statements wait for it."""
        with self.translated():
            connection = self._alive()
            self._begun = Begun(statement, parameters, connection, connection.begin(statement.encode(), parameters))

    def end(self) -> list[TupleRow]:
        """Return the rows of the statement that was begun; execute it again if it has collided with another one."""
        begun = self._begun
        if begun is None:
            raise BackendUnavailable(f"{self.target.shown}: the connection was closed before the answer came")
        self._wait_for_begun(begun)
        self._begun = None
        with self.translated():
            if begun.error is None:
                return begun.cursor.fetchall()
            if isinstance(begun.error, OSError) or not may_be_repeated(begun.error):
                raise begun.error
        return self.rows(begun.statement, begun.parameters)

    def _wait_for_begun(self, begun: Begun) -> None:
        if not begun.ended:
            begun.ended = True
            try:
                begun.connection.end()
            except (psycopg.Error, OSError) as error:
                begun.error = error
                self._close_if_useless(error)

    def _close_if_useless(self, error: Exception) -> None:
        connection = self._connection
        if connection is not None and (connection.broken or _is_useless_after(error)):
            connection.close()

    def value(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
        """Execute one statement; return the first value of its first row."""
        return self.rows(statement, parameters)[0][0]

    def function(self, name: str, *parameters: Any) -> Any:
        """Call a function of the schema; return its value."""
        return self.value(self.call(name, len(parameters)), parameters)

    def transaction(self, action: Callable[[], RV]) -> RV:
        """Run the statements of `action` as one transaction, again from the start after a collision."""
        for left in range(REPEATS, -1, -1):
            with self.translated():
                try:
                    with self._alive().transaction():
                        self._in_transaction = True
                        return action()
                except Collision as collision:
                    if not left:
                        raise collision.error from None
                finally:
                    self._in_transaction = False
        raise AssertionError("unreachable")

    def sql(self, statement: str) -> str:
        """Return a statement with the schema in place of {s}."""
        return statement.replace("{s}", self.schema)

    def call(self, name: str, count: int) -> str:
        return f"SELECT * FROM {self.schema}.{name}({', '.join(['%s'] * count)})"

    def _alive(self) -> DeadlineConnection:
        """Return the connection, made again if it was lost."""
        if self._begun is not None:
            self._wait_for_begun(self._begun)
        if self._opened and not self.connected:
            self.connect()
        return self.raw

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Raise the errors of the core for those of psycopg; close the connection if it is of no use any more."""
        try:
            yield
        except (psycopg.Error, OSError) as error:
            self._close_if_useless(error)
            raise translated(error, self.target.shown, outbox=self._outbox) from error

    # -- tables ------------------------------------------------------------------------------------

    def prepare_store(self) -> None:
        """Make the tables and functions if they are missing. Raises BackendError if they are of another release."""
        encoding = self._alive().info.parameter_status("server_encoding")
        if encoding not in ("UTF8", None):
            raise BackendError(
                f"{self.target.shown}: the encoding of this database is {encoding}, which cannot store every key and error: "
                "keep the jobs in one that was created with ENCODING 'UTF8' (TEMPLATE template0)"
            )
        version = self.version()
        if version == SCHEMA_VERSION:
            return
        if version is not None and version > SCHEMA_VERSION:
            raise BackendError(
                f"{self.target.shown}: the tables in schema {self.target.schema} are of a newer release (version {version:g}, "
                f"this one knows {SCHEMA_VERSION}): update jobs-postgres here"
            )
        if version == EMPTIED:
            logger.warning(
                "the tables in schema %s of %s were emptied, by hand or by another program: the jobs in them are lost",
                self.target.schema,
                self.target.shown,
            )
        self.setup(again=False)

    def version(self) -> float | None:
        """Return the version of the tables, or EMPTIED; None if there are none."""
        # Not to_regclass, which may answer from a cache what was so before another process made the tables.
        catalogue = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = %s AND tablename = 'meta')"
        exists = self.value(catalogue, (self.target.schema,))
        return (
            self.value(f"SELECT coalesce(max(value), {EMPTIED}) FROM {self.schema}.meta WHERE key = 'schema'")
            if exists
            else None
        )

    def setup(self, *, again: bool = True) -> None:
        """Make the tables if they are missing, and the functions; any number of processes may do so at once.

        Without `again`, nothing is done if another process has made them meanwhile: its statements would wait for ours.
        """
        self.transaction(lambda: self._set_up(again=again))

    def _set_up(self, *, again: bool) -> None:
        self.value("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"jobs setup {self.target.schema}",))
        if not again and self.version() == SCHEMA_VERSION:
            return
        for statements in self.scripts():
            try:
                self.raw.execute(statements.encode())
            except psycopg.Error as error:
                if may_be_repeated(error):  # workers are at work
                    raise Collision(error) from error
                raise

    def scripts(self) -> list[str]:
        """Return the SQL that makes the tables that are missing, and all functions."""
        version = f"UPDATE {self.schema}.meta SET value = {SCHEMA_VERSION} WHERE key = 'schema';\n"
        gone = "".join(f"DROP FUNCTION IF EXISTS {self.schema}.{each};\n" for each in GONE)
        return [*self.defining(SCRIPTS), gone, self.script("rights.sql"), self.script("plans.sql"), version]

    def defining(self, names: Sequence[str]) -> list[str]:
        """Return the SQL of files, whose functions replace those of an earlier release with other results or arguments."""
        texts = [self.script(name) for name in names]
        functions = sorted({name for text in texts for name in _FUNCTION.findall(text)})
        wrapped = [_DEFINITION.sub(rf"CALL {self.schema}.define($define$\g<0>$define$);", text) for text in texts]
        listed = sql.Literal(functions).as_string(None)
        end = (
            f"CALL {self.schema}.drop_others({listed});\n"
            f"DROP PROCEDURE {self.schema}.drop_others;\nDROP PROCEDURE {self.schema}.define;\n"
        )
        return [self.script("define.sql"), *wrapped, end]

    def script(self, name: str, role: str = "") -> str:
        """Return the SQL of a file for this schema, and for a role that it names."""
        text = (files(__package__) / "sql" / name).read_text(encoding="utf-8").replace("{s}", self.schema)
        return text.replace("{role}", sql.Identifier(role).as_string(None)) if role else text


def _settings(version: int) -> str:
    return "; ".join(f"SET {name} = {value}" for since, name, value in SETTINGS if version >= since)


def _is_useless_after(error: Exception) -> bool:
    """Return whether a new connection may do what this one cannot: the server is silent or, for this session, read-only."""
    if not isinstance(error, psycopg.Error):
        return False
    return error.sqlstate == READ_ONLY or (error.sqlstate is None and isinstance(error, psycopg.OperationalError))
