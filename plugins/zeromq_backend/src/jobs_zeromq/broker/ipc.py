"""A Unix socket that only its owner can reach, and on which only one broker listens."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from jobs_core.errors import BackendError


class PrivateSocket:
    """The right to listen at a path, as a lock file beside it: ZeroMQ would take the path over from a listening process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        private_directory(path.parent)
        lock = path.with_name(f"{path.name}.lock")
        try:
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise BackendError(f"{lock}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise BackendError(f"{path}: another broker is listening there: stop it first, or choose another path") from None

    def close(self) -> None:
        """Free the path for other brokers."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._lock)


def private_directory(directory: Path) -> None:
    """Make a directory that only this user may enter; raise BackendError if it is not private."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise BackendError(f"{directory}: {error.strerror}") from None
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise BackendError(
            f"{directory}: other users may enter the directory of the broker's socket: give it its own, chmod 700 {directory}"
        )
