"""The log as a file that is rotated by size: whole lines, kept in a bounded buffer while the disk is full.

A line is in exactly one file, and follows what was written before it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ...errors import ConfigError

LARGEST_BACKLOG = 4 * 1024 * 1024
"""Bytes that are kept while the disk is full; later lines are counted and dropped, since jobs continue without a log."""


FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""The flags by which the file is opened. Non-blocking: a device or fifo must never block the supervisor."""


class LogFile:
    """The log file and its older ones, `file.1` (the newest) to `file.N`."""

    def __init__(self, path: Path, max_size: int, keep: int, note: Callable[[str], bytes]) -> None:
        self._path = path
        self._max_size = max_size
        self._keep = keep
        self._note = note
        self._backlog: deque[bytes] = deque()
        self._backlog_size = 0
        self._dropped = 0
        self._begun = b""  # the part of the backlog's first line that is already in the file
        self._rotate_at = max_size
        try:
            self._fd = self._open()
        except OSError as error:
            raise ConfigError(f'logs.file = "{path}" cannot be written: {error.strerror}{fix_for(path)}') from None

    # -- writing ---------------------------------------------------------------------------------

    def write(self, block: bytes) -> None:
        if not self._backlog:
            rest = self._put(block)
            if rest:
                self._queue(rest)
            return
        self.flush()
        if self._backlog_size + len(block) > LARGEST_BACKLOG:
            self._dropped += block.count(b"\n")
            return
        self._report_lost_lines()
        self._queue(block)
        self.flush()

    def flush(self) -> None:
        while self._backlog:
            block = self._backlog[0]
            rest = self._put(block)
            self._backlog_size -= len(block) - len(rest)
            if rest:
                self._backlog[0] = rest
                return
            self._backlog.popleft()
            if not self._backlog:
                self._report_lost_lines()

    def waiting(self) -> bool:
        return bool(self._backlog)

    def _report_lost_lines(self) -> None:
        if self._dropped:
            self._queue(self._note(f"{self._dropped} log lines were lost while {self._path} could not be written"))
            self._dropped = 0

    def _queue(self, block: bytes) -> None:
        self._backlog.append(block)
        self._backlog_size += len(block)

    def _put(self, block: bytes) -> bytes:
        """Write a block, in a new file if it does not fit; return the rest that could not be written."""
        if self._size + len(block) > self._rotate_at and not self._begun:
            self._rotate(len(block))
        while block:
            try:
                written = os.write(self._fd, block)
            except OSError:  # no space, over quota, a broken disk: all may be temporary
                break
            self._size += written
            if written == len(block):
                self._begun = b""
                return b""
            _, line_end, begun = block[:written].rpartition(b"\n")
            self._begun = begun if line_end else self._begun + begun
            block = block[written:]
        return block

    # -- files -----------------------------------------------------------------------------------

    def _open(self) -> int:
        """Open the file for appending, and end a line that a killed process left unfinished; raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, FLAGS, 0o600)
        status = os.fstat(fd)
        self._regular = stat.S_ISREG(status.st_mode)
        if self._regular and status.st_mode & stat.S_IRWXO:  # other users must not read it; a group may be intended
            with contextlib.suppress(OSError):
                os.fchmod(fd, 0o600)
        self._size = status.st_size if self._regular else 0
        self._rotate_at = self._max_size
        if self._size and os.pread(fd, 1, self._size - 1) != b"\n":
            with contextlib.suppress(OSError):
                self._size += os.write(fd, b"\n")
        return fd

    def reopen(self) -> None:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self._path), os.fstat(self._fd)):
                return
        previous, size = self._fd, self._size
        try:
            self._fd = self._open()
        except OSError as error:
            self.write(self._note(f"{self._path} cannot be reopened, continuing in the old file: {error.strerror}"))
            return
        if self._begun:  # the old file has no room for a line: move the whole line to the new file
            with contextlib.suppress(OSError):
                if os.fstat(previous).st_size == size:
                    os.ftruncate(previous, size - len(self._begun))
            self._backlog[0] = self._begun + self._backlog[0]
            self._backlog_size += len(self._begun)
            self._begun = b""
        os.close(previous)
        self.flush()

    def _rotate(self, needed: int) -> None:
        """Rename file -> file.1 -> … -> file.N. If that fails, the open file takes all further lines."""
        if not self._regular:
            return
        self._size = os.fstat(self._fd).st_size  # another program may have cut it, as logrotate's copytruncate does
        if self._size == 0 or self._size + needed <= self._rotate_at:
            return
        previous = self._fd
        try:
            self._shift()
            self._fd = self._open()
        except OSError as error:
            self._rotate_at = self._size + max(self._max_size // 10, 1)  # the size at which to try again
            with contextlib.suppress(OSError):
                self._size += os.write(self._fd, self._note(f"{self._path} cannot be rotated: {error.strerror}"))
            return
        os.close(previous)

    def _shift(self) -> None:
        """Give each older file the next number, up to the first free one; the last file is overwritten."""
        if self._keep == 0:
            self._path.unlink(missing_ok=True)
            return
        free = 1
        while free < self._keep and os.path.lexists(f"{self._path}.{free}"):
            free += 1
        for number in range(free, 1, -1):
            os.replace(f"{self._path}.{number - 1}", f"{self._path}.{number}")
        with contextlib.suppress(FileNotFoundError):
            os.replace(self._path, f"{self._path}.1")

    # -- what LogWriter needs besides --------------------------------------------------------------

    def fileno(self) -> int:
        return self._fd

    def wants_write(self) -> bool:
        return False

    def full(self) -> bool:
        return False

    def detach(self) -> None:
        os.close(self._fd)

    def close(self) -> None:
        self.flush()
        os.close(self._fd)


def fix_for(path: Path) -> str:
    """Return the fix for a file that cannot be written."""
    if path.is_symlink():
        return ". It is a symbolic link, which could point anywhere: use the real file, or leave logs.file out"
    return ". Leave logs.file out to log to standard error"
