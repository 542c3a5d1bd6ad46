"""Standard error as the log: written without ever waiting for its reader.

It is shared with other processes (the shell, a pager, journald), so it must not be switched to non-blocking: their writes
would fail. Its kind decides how it is written: a socket with a flag for each call, a pipe or terminal through a separate
open file description, a file as it is.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable

PIECE = 4096
"""Largest write in bytes: a pipe that is writable accepts it at once, and as a whole (PIPE_BUF)."""

FULL = 1024 * 1024
"""Bytes that may wait before children's output is left in their pipes. Beyond twice as much, lines are dropped."""

LAST_PATIENCE = 1.0
"""Seconds that `close` gives a slow reader."""


class LogStream:
    """A writer of whole lines to a descriptor that is shared with other processes."""

    def __init__(self, fd: int, note: Callable[[str], bytes]) -> None:
        self._note = note
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._gone = False  # the reader has closed it; there is nowhere to report that
        self._fd = fd  # watched and written
        self._own = -1  # to be closed at the end
        self._socket: socket.socket | None = None
        self._watched = False  # whether polling is useful: a file is always ready
        self._write = self._writer(fd)

    def _writer(self, fd: int) -> Callable[[bytes], int]:
        """Return a function that writes without waiting: it raises BlockingIOError instead."""
        try:
            mode = os.fstat(fd).st_mode
        except OSError:  # closed, as a daemon's standard error may be
            self._gone = True
            return len
        if stat.S_ISSOCK(mode):
            self._watched = True
            connection = self._socket = socket.socket(fileno=os.dup(fd))
            return lambda data: connection.send(data, socket.MSG_DONTWAIT)
        if stat.S_ISFIFO(mode) or os.isatty(fd):
            self._watched = True
            try:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._fd = self._own = os.open(f"/proc/self/fd/{fd}", flags)
            except OSError:  # another user's terminal, no /proc: poll before each write
                return self._write_if_writable
        return lambda data: os.write(self._fd, data)

    def _write_if_writable(self, data: bytes) -> int:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(self._fd, data)

    def write(self, block: bytes) -> None:
        if self._gone:
            return
        if self._size + len(block) > 2 * FULL:
            self._dropped += block.count(b"\n")
            return
        for piece in pieces(block):
            self._waiting.append(piece)
        self._size += len(block)
        self.flush()

    def flush(self) -> None:
        waiting = self._waiting
        try:
            while waiting:
                piece = waiting[0]
                written = self._write(piece)
                self._size -= written
                if written == len(piece):
                    waiting.popleft()
                else:
                    waiting[0] = piece[written:]
                if self._dropped and not self.full():
                    dropped, self._dropped = self._dropped, 0
                    note = self._note(f"{dropped} log lines were lost: standard error did not accept them")
                    waiting.append(note)
                    self._size += len(note)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOSPC:  # a file on a full disk may take more later; a closed pipe will not
                self._gone = True
                waiting.clear()
                self._size = 0

    def waiting(self) -> bool:
        return bool(self._waiting) and not self._watched

    def fileno(self) -> int:
        return self._fd

    def wants_write(self) -> bool:
        return bool(self._waiting) and self._watched

    def full(self) -> bool:
        return self._size > FULL

    def reopen(self) -> None:
        """Do nothing: standard error cannot be moved away."""

    def detach(self) -> None:
        self._gone = True
        self._waiting.clear()
        self._size = 0
        if self._socket is not None:
            self._socket.close()
        if self._own >= 0:
            os.close(self._own)
            self._own = -1

    def close(self) -> None:
        deadline = time.monotonic() + LAST_PATIENCE
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        self.flush()
        while self._waiting and (left := deadline - time.monotonic()) > 0:
            poll.poll(left * 1000)
            self.flush()
            if not self._watched:
                break
        self.detach()


def pieces(block: bytes) -> list[bytes]:
    """Cut a block into pieces of at most PIECE bytes, at the ends of lines if possible."""
    if len(block) <= PIECE:
        return [block]
    found = []
    start = 0
    while start < len(block):
        end = start + PIECE
        if end < len(block):
            line_end = block.rfind(b"\n", start, end)
            if line_end >= 0:
                end = line_end + 1
        found.append(block[start:end])
        start = end
    return found
