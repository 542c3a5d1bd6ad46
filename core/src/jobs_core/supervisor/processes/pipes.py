"""One child's output, as it arrives at the supervisor: its log records, and whatever it prints.

A child has two pipes. In the *log pipe* each record ends with a NUL, which no formatter lets through: a record with a
traceback has several lines, and lines of another child must not come between. The *raw pipe* is its descriptors 1 and 2.
"""

from __future__ import annotations

import os
from collections import deque

from ...escapes import one_line

END_OF_RECORD = b"\0"
"""Follows every record in the log pipe."""

READ_SIZE = 64 * 1024
"""Bytes read from a pipe at once: the capacity of a pipe."""

LONGEST_RECORD = 512 * 1024
"""Bytes of an unfinished record that are kept; the child's handler clips at half of it."""

LONGEST_LINE = 16 * 1024
"""Bytes of an unfinished raw line; a longer one is cut into several."""

TAIL_LINES = 20
TAIL_WIDTH = 1000


class ChildOutput:
    """The read ends of one child's pipes; the loop calls `read_log` and `read_raw` when they are readable."""

    def __init__(self, log_fd: int, raw_fd: int) -> None:
        self.log_fd = log_fd
        self.raw_fd = raw_fd
        for fd in (log_fd, raw_fd):
            os.set_blocking(fd, False)
        self.log_ended = False
        """True once the log pipe has no writer left; then it is no longer watched."""
        self.raw_ended = False
        """Likewise for the raw pipe. A job's subprocess may hold it for longer than the worker lives."""
        self._record = bytearray()
        self._line = bytearray()
        self._tail: deque[bytes | str] = deque(maxlen=TAIL_LINES)

    @classmethod
    def create(cls) -> tuple[ChildOutput, int, int]:
        """Create the pipes; return the supervisor's side, and the child's log and raw descriptors. Raises OSError."""
        log_read, log_write = os.pipe()
        try:
            raw_read, raw_write = os.pipe()
        except OSError:
            os.close(log_read)
            os.close(log_write)
            raise
        return cls(log_read, raw_read), log_write, raw_write

    def read_log(self) -> bytes:
        """Return the lines of whole records that have arrived, or b""; at the end of the pipe, also an unfinished record."""
        data = _read(self.log_fd)
        if data is None:
            return b""
        self.log_ended = not data
        return self._whole_records(data, last=self.log_ended)

    def read_raw(self) -> list[str]:
        """Return the lines that have arrived, with control characters escaped, without blank lines."""
        data = _read(self.raw_fd)
        if data is None:
            return []
        self.raw_ended = not data
        return self._whole_lines(data, last=self.raw_ended)

    def read_last(self) -> tuple[bytes, list[str]]:
        """Read the rest once the child is dead; do not wait for the pipes' end: subprocesses may hold them open."""
        block = self._whole_records(b"".join(_left(self.log_fd)), last=True)
        lines = self._whole_lines(b"".join(_left(self.raw_fd)), last=True)
        self.log_ended = self.raw_ended = True
        return block, lines

    def _whole_records(self, data: bytes, *, last: bool) -> bytes:
        record = self._record
        record += data
        end = record.rfind(END_OF_RECORD) + 1
        if last or (not end and len(record) > LONGEST_RECORD):
            if record and not record.endswith((END_OF_RECORD, b"\n")):
                record += b"\n"
            end = len(record)
        if not end:
            return b""
        block = bytes(record[:end]).replace(END_OF_RECORD, b"")
        del record[:end]
        self._tail.extend(block[:-1].rsplit(b"\n", TAIL_LINES)[-TAIL_LINES:])
        return block

    def _whole_lines(self, data: bytes, *, last: bool) -> list[str]:
        self._line += data
        if last:
            self._line += b"\n"
        *whole, rest = bytes(self._line).split(b"\n")
        pieces = [piece for line in whole for piece in _cut(line)]
        *more, rest = _cut(rest)
        self._line[:] = rest
        lines = [one_line(piece.decode("utf-8", "replace").rstrip()) for piece in (*pieces, *more)]
        lines = [text for text in lines if text]
        self._tail.extend(lines[-TAIL_LINES:])
        return lines

    def tail(self) -> list[str]:
        """Return the last 20 lines of both pipes, for the report of a crash."""
        texts = (item if isinstance(item, str) else item.decode("utf-8", "replace") for item in self._tail)
        return [text[:TAIL_WIDTH] for text in texts]

    def close(self) -> None:
        """Close both pipes; a child that still writes gets SIGPIPE."""
        for fd in (self.log_fd, self.raw_fd):
            os.close(fd)


def _read(fd: int) -> bytes | None:
    """Read what has arrived; None if nothing has, b"" at the end."""
    try:
        return os.read(fd, READ_SIZE)
    except BlockingIOError:
        return None


def _left(fd: int) -> list[bytes]:
    """Read what is left, in at most 4 reads (256 KiB): a surviving subprocess may continue to write."""
    found: list[bytes] = []
    while len(found) < 4 and (data := _read(fd)):
        found.append(data)
    return found


def _cut(line: bytes) -> list[bytes]:
    """Cut a line into pieces of at most LONGEST_LINE bytes, none of which ends inside a character."""
    pieces = []
    while len(line) > LONGEST_LINE:
        end = LONGEST_LINE
        while end > LONGEST_LINE - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]
