"""The SQLite file: open, create and migrate it, run transactions on it, and translate SQLite's errors."""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ... import private
from ...deadline import left
from ...errors import BackendError, BackendUnavailable, QueueFull
from ...soundness import require_soundness
from ...tally import Tally
from ...uninterrupted import at_fork
from ..base import BackendOptions
from ..limits import Limit
from .netfs import network_type
from .wakeup import WakeUp, pipe_of

SCHEMA_VERSION = 5
MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: ("CREATE TABLE checkpoint (seq INTEGER PRIMARY KEY, cursor BLOB NOT NULL)",),
    2: (
        "ALTER TABLE job ADD COLUMN key TEXT",
        "ALTER TABLE job ADD COLUMN limits TEXT",
        "ALTER TABLE reserved ADD COLUMN slots TEXT",
        "ALTER TABLE owner ADD COLUMN latest REAL NOT NULL DEFAULT 0",
        "lines.sql",
    ),
    3: (
        "ALTER TABLE owner ADD COLUMN latest_before_4 REAL NOT NULL DEFAULT 0",
        "INSERT INTO meta (key, value) VALUES ('members', -140737488355328)",
        "flows.sql",
    ),
    4: ("letters.sql",),
}
"""Statements, and names of scripts, from schema version N to N+1.

They only add, so that processes of the previous release can continue.
"""

_EXCLUSIONS = {
    3: ("latest", "excludes", ("last_housekeep",)),
    4: ("latest_before_4", "excludes_before_4", ("last_housekeep", "last_housekept")),
}
"""How processes of releases before a schema are excluded.

The column of `owner` that only later releases set, the column that is added with the constraints, and the keys of `meta` with
the time of housekeeping that earlier releases write.
"""

_EXCLUDED = "the queue file is used by a later jobs-core: upgrade jobs-core here"

_sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has only fsync

BUSY_TIMEOUT = 2.0
"""Seconds for which an operation tries to get the write lock before it raises BackendUnavailable."""

DOUBTS = 0.2
"""Seconds of waiting for the write lock after which `require_soundness` checks whether this process itself is broken."""


PUSHED, REFUSED = "pushed:", "refused:"
"""Beginnings of the keys in `meta`, before a topic, under which the jobs are counted that were added, or not."""

MOST_COUNTED = 10_000
"""Keys in `meta` above which all these counts begin anew: topics that are named after customers must not fill the file."""


class Transaction:
    """One write transaction, which the functions of the other modules use.

    After the commit, one waiting worker is woken for each topic in `wake`, unless the caller does this itself. The owners in
    `call` are woken, too, and the pipes of the owners in `gone` are removed. `rested` has the ids of flows in which nothing was
    left to run at some moment of the transaction, for callers that wait for the end of a flow.
    """

    __slots__ = (
        "_connection",
        "_durable",
        "_wakes",
        "barred",
        "call",
        "db",
        "definitions",
        "flows",
        "gone",
        "now",
        "options",
        "passed_over",
        "rested",
        "tally",
        "wake",
    )

    db: sqlite3.Connection

    def __init__(self, connection: Connection, durable: bool = True, wakes: bool = True) -> None:
        self._connection = connection
        self._durable = durable
        self._wakes = wakes
        self.tally = connection.tally
        self.options = connection.options
        self.now = 0.0
        self.wake: set[str] = set()
        self.call: tuple[str, ...] = ()
        self.gone: tuple[str, ...] = ()
        self.definitions: dict[str, Limit | None] | None = None  # those that were looked up
        self.passed_over: tuple[str, ...] = ()  # owners whose reserve left a job behind, see `Backend.passed_over`
        self.rested: tuple[str, ...] = ()
        self.flows: dict[int, bool] = {}  # by number: those that changed → whether nothing is left to run
        self.barred: list[tuple[int, int]] = []  # tokens (or 0) and numbers of members of cancelled flows that a reserve found

    def __enter__(self) -> Transaction:
        self._connection.lock.acquire()
        try:
            with self._connection.translated():
                self._connection.begin(self._durable)
            self.db = self._connection.db
            self.now = self.options.now()
        except BaseException:  # a signal handler may raise after the transaction has begun
            self._connection.give_up()
            self._connection.lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._finish(error)
        finally:
            self._connection.lock.release()
        if error is None and self._wakes and self.wake:
            self._connection.wake(self.wake)
        if error is None and self._wakes and (self.call or self.gone):
            self._connection.wake_owners(self.call, self.gone)

    def _finish(self, error: BaseException | None) -> None:
        """Commit, or roll back after an error."""
        if error is None:
            try:
                self.db.execute("COMMIT")
            except sqlite3.Error as failed:
                error = failed
        if error is not None:
            self.tally.kept.clear()  # some of these jobs were pushed by this transaction
            with contextlib.suppress(sqlite3.Error):
                self.db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self._connection.translation(error) from error
            if isinstance(error, _WRONG_VALUES):
                raise self._connection.wrong_values(error) from error

    def count_pushed(self) -> None:
        """Add the jobs that were pushed and not counted yet to the counts of their topics."""
        for topic, number in self.tally.kept.items():
            self.add_to(f"{PUSHED}{topic}", number)
        self.tally.added(self.now)

    def add_to(self, key: str, number: int) -> None:
        """Raise a number in `meta`, which begins at 0."""
        if not self.db.execute("UPDATE meta SET value = value + ? WHERE key = ?", (number, key)).rowcount:
            self.db.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (key, number))

    def first(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> Any:
        """Return the first column of the first row, or None."""
        row = self.db.execute(sql, parameters).fetchone()
        return row[0] if row else None

    def numbers(self, count: int, kind: str = "sequence") -> int:
        """Allot sequence numbers to new jobs, or those of "members" of flows; return the number before the first of them."""
        sql = "UPDATE meta SET value = value + ? WHERE key = ? RETURNING value"
        return int(self.first(sql, (count, kind))) - count

    @property
    def excludes_older_releases(self) -> bool:
        """Return whether the file has been used in a way that releases without limits do not know."""
        return bool(self.first("SELECT value >= 3 FROM meta WHERE key = 'readable_by'"))

    @property
    def excludes_releases_without_flows(self) -> bool:
        """Return whether the file has had a flow, of which releases without flows do not know."""
        return bool(self.first("SELECT value >= 4 FROM meta WHERE key = 'readable_by'"))

    def exclude_older_releases(self, schema: int = 3) -> None:
        """Let processes of releases before this schema use the file no longer, because it has jobs that they would mishandle.

        They check `readable_by` only when they connect. The constraints stop those that are connected: they cannot renew a
        lease, reserve, or keep house, and get an error with the constraint's name; what they hold, they can still settle.
        """
        sql = "UPDATE meta SET value = :schema WHERE key = 'readable_by' AND value < :schema"
        if not self.db.execute(sql, {"schema": schema}).rowcount:
            return
        latest, column, rounds = _EXCLUSIONS[schema]
        self.db.execute(f"UPDATE owner SET {latest} = lease_until WHERE {latest} = 0")
        kept = self.first("SELECT max(value) FROM meta WHERE key LIKE 'last_house%'")
        these = ", ".join(map(repr, rounds))
        for table, condition in (
            ("owner", f"lease_until <= {latest}"),
            ("meta", f"value <= {kept!r} OR key NOT IN ({these})"),
        ):
            self.db.execute(f'ALTER TABLE {table} ADD COLUMN {column} INTEGER CONSTRAINT "{_EXCLUDED}" CHECK ({condition})')
        self.db.execute("INSERT OR IGNORE INTO meta (key, value) SELECT 'owners', count(*) FROM owner")  # see owners.recount


class Connection:
    """One connection to a queue file, and the pipes beside it. One thread at a time.

    SQLite keeps a record of its locks in memory, and a fork copies this record: the child would take the parent's locks for
    its own, and lose writes. Therefore every connection is closed before a fork, in whichever thread, and opened again at
    its next use.
    """

    def __init__(self, path: Path, options: BackendOptions, *, durability: str) -> None:
        self.path = path
        self.options = options
        self._durable = "FULL" if durability == "power" else "NORMAL"
        self._synchronous = ""
        self._patient = True  # True if SQLite itself waits for locks
        self._log = -1  # descriptor of SQLite's write-ahead log, which we sync ourselves
        self._log_failed = False
        self._db: sqlite3.Connection | None = None
        self._is_open = False
        self.tally = Tally()
        self.lock = threading.RLock()  # held while SQLite runs; a fork waits for it
        self.wake_up: WakeUp | None = None
        _connections[id(self)] = self  # without taking a lock: a fork may be waiting for a lock that our caller holds

    # -- opening and closing ---------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and create or migrate the file; do nothing if it is connected."""
        if self._is_open:
            return
        kind = network_type(self.path.parent)
        if kind:
            raise BackendError(
                f"{self.path} is on a network file system ({kind}), where SQLite's locks do not work: "
                "put it on a local disk, or use a backend with a server"
            )
        with self.translated(), self.lock:
            self._connect()
            try:
                owner = self.path.stat().st_uid  # trusted, since the owner of the file can change the jobs anyway
                self.wake_up = WakeUp(self.path.with_name(f"{self.path.name}.wake"), (owner,))
            except BaseException:
                self.disconnect()
                raise
            self._is_open = True

    def _connect(self) -> None:
        with contextlib.suppress(OSError):  # SQLite will raise a better error
            private.create(self.path)  # its log and index get the mode of the file
        # Autocommit, because we begin transactions ourselves. Our lock makes the threads of a process take turns.
        with _connecting:  # makes a fork wait until `in_use` is true
            self._db = sqlite3.connect(
                self.path, timeout=left(BUSY_TIMEOUT), isolation_level=None, check_same_thread=False, cached_statements=256
            )
        self._synchronous, self._patient = "", True
        try:
            self._prepare()
        except BaseException:
            self.disconnect()
            raise

    def disconnect(self) -> None:
        """Close SQLite's connection; the next use opens it again."""
        log, self._log = self._log, -1
        if log >= 0:
            os.close(log)
        if self._db is not None:
            try:
                self._db.close()
            except sqlite3.Error:
                pass
            finally:
                self._db = None  # only now: a fork does not wait for a connection that is not in use

    def close(self) -> None:
        """Disconnect for good; a second call does nothing."""
        if self._is_open and self.tally.kept:
            with contextlib.suppress(BackendError), self.transaction(durable=False, wakes=False) as tx:
                tx.count_pushed()
        with self.lock:
            self._is_open = False
            self.disconnect()
            wake_up, self.wake_up = self.wake_up, None
        if wake_up is not None:
            wake_up.close()

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def in_use(self) -> bool:
        """Return whether SQLite's connection is open."""
        return self._db is not None

    @property
    def db(self) -> sqlite3.Connection:
        """Return SQLite's connection, for callers that hold `lock`; raise BackendUnavailable if `open` was not called."""
        if self._db is None:
            if not self._is_open:
                raise BackendUnavailable(f"{self.path} is not open")
            self._connect()
            assert self._db is not None
        return self._db

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Provide SQLite's connection for reads outside a transaction."""
        with self.translated(), self.lock:
            db = self.db
            self._be_patient(db, True)
            yield db

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Provide SQLite's connection for several reads of one snapshot, so that a job that moves is seen only once."""
        with self.reading() as db:
            try:
                db.execute("BEGIN")
                yield db
            finally:
                self.give_up()

    def _prepare(self) -> None:
        if sqlite3.sqlite_version_info < (3, 35):
            raise BackendError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or later is needed")
        version = self._version()
        if version == 0:
            self._create()
        elif version < SCHEMA_VERSION:
            self._migrate()
        elif version > SCHEMA_VERSION:
            self._refuse_unless_readable(version)
        self._refuse_foreign_code()
        self.db.execute("PRAGMA temp_store = MEMORY")
        self.db.execute("PRAGMA cache_size = -8000")
        self.db.execute(f"PRAGMA journal_size_limit = {64 * 2**20}")

    def _version(self) -> int:
        return int(self.db.execute("PRAGMA user_version").fetchone()[0])

    def _create(self) -> None:
        if self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] and self._version() == 0:
            raise BackendError(f"{self.path} is a SQLite database, but not one of jobs: choose another file")
        self.db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect only before the first table
        self.take_lock("PRAGMA journal_mode = WAL")
        with Transaction(self) as tx:
            if self._version() == 0:  # unless another process was faster
                for script in ("schema.sql", "lines.sql", "flows.sql", "letters.sql"):
                    for statement in _script(script):
                        tx.db.execute(statement)

    def _migrate(self) -> None:
        with Transaction(self) as tx:
            for version in range(self._version(), SCHEMA_VERSION):
                for step in MIGRATIONS[version]:
                    for statement in _script(step) if step.endswith(".sql") else (step,):
                        tx.db.execute(statement)
                tx.db.execute(f"PRAGMA user_version = {version + 1}")

    def _refuse_unless_readable(self, version: int) -> None:
        oldest = self.db.execute("SELECT value FROM meta WHERE key = 'readable_by'").fetchone()[0]
        if oldest > SCHEMA_VERSION:
            raise BackendError(
                f"{self.path} was written by a later jobs-core (schema {version}, this one knows {SCHEMA_VERSION}): "
                "upgrade jobs-core here"
            )

    def _refuse_foreign_code(self) -> None:
        """Refuse triggers and views: none are ours, and their code would run within our transactions, perhaps endlessly."""
        found = self.db.execute("SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'view') LIMIT 1").fetchone()
        if found:
            kind, name = found
            raise BackendError(
                f"{self.path} has a {kind} that does not belong to jobs, {str(name)[:100]!r}: it would run in every operation "
                f"on a job. Remove it (DROP {kind.upper()}), if you know where it comes from, or move the file away"
            )

    # -- transactions ----------------------------------------------------------------------------

    def transaction(self, *, durable: bool = True, wakes: bool = True) -> Transaction:
        """Return a write transaction.

        It takes the write lock when it begins, so that it cannot fail to get the lock midway.

        Without `durable`, it survives a crash of the process, but perhaps not of the machine. A worker's reserve and settle
        are not worth an fsync: if they are lost, jobs run again, but no job is lost.
        """
        return Transaction(self, durable, wakes)

    def begin(self, durable: bool) -> None:
        """Begin a transaction."""
        db, level = self.db, self._durable if durable else "NORMAL"
        if level != self._synchronous:
            db.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level
        self.take_lock("BEGIN IMMEDIATE")

    def give_up(self) -> None:
        """Roll back the transaction that has begun, if any."""
        if self._db is not None and self._db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def sync(self) -> None:
        """Sync earlier commits without `durable` to the disk, for callers that do other work between commit and sync.

        Raises BackendUnavailable if the disk fails; the commits remain, and the next sync includes them.
        """
        if self._durable == "FULL":
            with self.translated(), self.lock:
                if self._log_failed or not self._sync_log():
                    self._checkpoint()

    def _sync_log(self) -> bool:
        """Sync the log as SQLite does on a commit; after a failure, always return False, as the kernel reports it only once."""
        try:
            if self._log < 0:
                self._log = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            _sync_data(self._log)
        except OSError:
            self._log_failed = True
        return not self._log_failed

    def _checkpoint(self) -> None:
        """Write the contents of the log to the file itself, and sync the file."""
        db = self.db
        self._be_patient(db, True)
        busy = db.execute("PRAGMA wal_checkpoint(FULL)").fetchone()[0]
        if busy:
            raise BackendUnavailable(
                f"{self.path}: its write-ahead log cannot be synced to the disk, and cannot be written back into the file yet"
            )
        self._log_failed = False

    def get_ready(self) -> None:
        """Prepare the next transaction now, to save it a statement; that transaction will report any error."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error), self.lock:
                self._be_patient(self._db, False)

    def take_lock(self, sql: str) -> None:
        """Run a statement that takes the write lock, trying every fraction of a millisecond.

        SQLite's own handler sleeps up to 100 ms, although a transaction takes about 1 ms. With 8 writers, the longest wait
        was 18 ms instead of 700.
        """
        now = time.monotonic()
        deadline, doubts = now + left(BUSY_TIMEOUT), now + DOUBTS
        db = self.db
        self._be_patient(db, False)
        while True:
            try:
                db.execute(sql)
                return
            except sqlite3.OperationalError as error:
                now = time.monotonic()
                if not _is_busy(error) or now >= deadline:
                    raise
            if now >= doubts:  # if a job has closed SQLite's descriptor, SQLite reports the file as locked
                require_soundness()
                doubts = now + DOUBTS
            time.sleep(random.uniform(0.0001, 0.0006))

    def _be_patient(self, db: sqlite3.Connection, patient: bool) -> None:
        """Set whether SQLite waits for locks: not for the write lock, for which we wait ourselves, nor once we hold it."""
        if patient is not self._patient:
            db.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000) if patient else 0}")
            self._patient = patient

    def wake(self, topics: set[str]) -> None:
        """Wake, for each of these topics, one worker that waits for it."""
        if self.wake_up is not None:
            with self.translated():
                self.wake_up.wake(topics)

    def wake_owners(self, call: tuple[str, ...], gone: tuple[str, ...]) -> None:
        """Wake some owners, and remove the pipes of others."""
        if self.wake_up is not None:
            with self.translated():
                self.wake_up.wake(map(pipe_of, call))
                for owner in gone:
                    self.wake_up.forget(owner)

    # -- errors ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Translate SQLite's errors, and the file system's, into the core's own with their fix."""
        try:
            yield
        except sqlite3.Error as error:
            raise self.translation(error) from error
        except OSError as error:
            raise BackendError(f"{error.filename or self.path}: {error.strerror}") from error
        except _WRONG_VALUES as error:
            raise self.wrong_values(error) from error

    def wrong_values(self, error: Exception) -> BackendError:
        """Return the error for values, in the file or to be written, of a type that no release uses."""
        return BackendError(
            f"{self.path} contains, or was given, data that no release of jobs writes ({type(error).__name__}: {error})"
        )

    def translation(self, error: sqlite3.Error) -> BackendError:
        text = str(error)
        if _is_busy(error):
            return BackendUnavailable(f"{self.path} has been locked by another process for more than {BUSY_TIMEOUT:g} s")
        if "full" in text:
            return QueueFull(f"{self.path}: the disk is full: make room; jobs already queued are safe")
        if "readonly" in text or "read-only" in text:
            return BackendError(f"{self.path} is read-only for this user: give write permission to it and to its directory")
        if "unable to open" in text:
            return BackendError(f"{self.path} cannot be opened: does the directory exist, and may this user write there?")
        if "not a database" in text or "malformed" in text or "corrupt" in text:
            return BackendError(
                f"{self.path} is damaged or not a SQLite database ({text}): move it away to start with an empty queue, "
                "or restore a copy; `sqlite3 FILE .recover` may save its jobs"
            )
        if "disk I/O" in text:
            return BackendUnavailable(f"{self.path}: {text}")
        return BackendError(f"{self.path}: {text}")


_WRONG_VALUES = (TypeError, ValueError, LookupError, OverflowError)
"""Exceptions that Python raises for rows with values of wrong types, and for numbers and strings that SQLite cannot store."""

_connections: weakref.WeakValueDictionary[int, Connection] = weakref.WeakValueDictionary()
_connecting = threading.Lock()
"""Held while a thread connects, and during a fork, because a fork must not copy SQLite's own locks while they are held."""
_locked_for_fork: list[Connection] = []
_one_fork_at_a_time = threading.RLock()


def _known() -> list[Connection]:
    """Return all connections; safe while other threads add some, because `valuerefs` copies them in one step."""
    return [connection for reference in _connections.valuerefs() if (connection := reference()) is not None]


def _before_fork() -> None:
    """Wait until no thread runs in SQLite, including threads that are connecting, and keep threads out."""
    _one_fork_at_a_time.acquire()
    while True:
        for connection in set(_known()).difference(_locked_for_fork):
            connection.lock.acquire()
            _locked_for_fork.append(connection)
            connection.disconnect()
        _connecting.acquire()
        if all(connection in _locked_for_fork or not connection.in_use for connection in _known()):
            return
        _connecting.release()


def _after_fork() -> None:
    _connecting.release()
    while _locked_for_fork:
        _locked_for_fork.pop().lock.release()
    _one_fork_at_a_time.release()


def _after_fork_in_child() -> None:
    """Forget connections that other threads were opening: in the child, no thread would ever release their locks."""
    kept = list(_locked_for_fork)
    _connections.clear()
    _connections.update((id(connection), connection) for connection in kept)
    _after_fork()


at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


def among(values: Sequence[str]) -> tuple[str, str]:
    """Return an SQL condition that a column is one of these values, and its parameter.

    A single value is compared with `=`, which is twice as fast.
    """
    if len(values) == 1:
        return "= ?", values[0]
    return "IN (SELECT value FROM json_each(?))", json.dumps(values)


def statements(script: str) -> list[str]:
    """Split a script into statements, to be run inside a transaction (executescript would commit it)."""
    found, statement = [], ""
    for line in script.splitlines():
        statement += line.partition("--")[0] + "\n"
        if sqlite3.complete_statement(statement):
            found.append(statement)
            statement = ""
    return found


def _script(name: str) -> list[str]:
    script = pkgutil.get_data(__name__, name)  # importlib.resources takes 10 ms to import
    assert script is not None
    return statements(script.decode())


def _is_busy(error: sqlite3.Error) -> bool:
    return "locked" in str(error) or "busy" in str(error)
