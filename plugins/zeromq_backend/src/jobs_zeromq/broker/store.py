"""The broker's store: the core's SQLite engine, for one broker at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3

from jobs_core.backends.base import BackendOptions
from jobs_core.backends.sqlite.engine import Connection, Transaction, owners, parse_url
from jobs_core.errors import BackendError, QueueFull

MIN_FREE = 32 * 2**20
"""Bytes that pushes leave free on the disk, so that queued jobs can still be settled."""


class Store:
    """The SQLite file of a broker, locked against a second broker."""

    def __init__(self, url: str, options: BackendOptions, *, min_free: int = MIN_FREE) -> None:
        self.path, durability = parse_url(url, options.base_dir)
        self._connection = Connection(self.path, options, durability=durability)
        self._min_free = min_free
        self._free: int | None = None  # free bytes when the broker was last idle, at most a second ago
        self._lock = -1
        self._inode: tuple[int, int] | None = None

    def open(self) -> None:
        """Lock and open the file; renew every lease. Raises BackendError."""
        mark = self.path.with_name(f"{self.path.name}.broker")
        existed = mark.exists()
        try:
            self._lock = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock, 20, 0).decode(errors="replace").strip()
            self._unlock()
            raise BackendError(f"{self.path}: another broker (process {pid}) serves this store: stop it first") from None
        except OSError as error:
            raise BackendError(f"{mark}: {error.strerror}: does the directory exist, and may this user write there?") from None
        if existed and not self.path.exists():
            self._unlock()
            raise BackendError(
                f"{self.path} is gone, although a broker kept jobs there: put it back, or remove {mark} to start afresh"
            )
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        try:
            self._connection.open()
            self._inode = self._identity()
            with self.transaction() as tx:
                owners.begin_grace(tx)
            self.sync()  # opens the file descriptor that a sync needs while one is free
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def transaction(self) -> Transaction:
        """Return a write transaction. Its commit survives a crash of this process, and after `sync` one of the machine.

        It collects the topics with new jobs in `Transaction.wake`; pass them to `wake`.
        """
        return self._connection.transaction(durable=False, wakes=False)

    def sync(self) -> None:
        """Sync the commits to the disk; raise BackendUnavailable."""
        self._connection.sync()

    def wake(self, topics: set[str]) -> None:
        """Wake processes that use the file directly, not through the broker, and wait for these topics."""
        self._connection.wake(topics)

    def get_ready(self) -> None:
        """Do work before the broker sleeps, so that the next requests need not wait for it."""
        self._connection.get_ready()
        with contextlib.suppress(OSError):  # a request that needs the value will raise the error
            self._free = self._free_bytes()

    def reading(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """Return SQLite's connection for reading."""
        return self._connection.reading()

    def now(self) -> float:
        """Return the broker's time."""
        return self._connection.options.now()

    def check_room(self) -> None:
        """Raise QueueFull if the disk is nearly full: settling the queued jobs needs room, too."""
        if self._free is None:
            self._free = self._free_bytes()
        if self._free < self._min_free:
            raise QueueFull(
                f"{self.path.parent}: less than {self._min_free / 1e6:.0f} MB are free: make room; jobs already queued are safe"
            )

    def _free_bytes(self) -> int:
        disk = os.statvfs(self.path.parent)
        return disk.f_bavail * disk.f_frsize

    def is_there(self) -> bool:
        """Return whether the file at the store's path is still the one that is open here."""
        return self._identity() == self._inode

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino
