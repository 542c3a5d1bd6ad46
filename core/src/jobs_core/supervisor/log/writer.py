"""The one writer of the log: a file that is rotated by size, or standard error. The supervisor alone uses it.

It takes whole lines and keeps them whole: a line is in exactly one file, and follows the lines that were written before it.
It never blocks, and once created it never raises: lines that cannot be written wait in a bounded buffer.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ...config import Logs
from ...logs import line_of
from .file import LogFile
from .stderr import LogStream


class LogWriter:
    """A writer of whole lines to the file `logs.file` or to standard error. Raises ConfigError for an unusable file."""

    def __init__(self, settings: Logs, base_dir: Path) -> None:
        def note(text: str) -> bytes:
            return line_of(text, settings.format)

        self._sink: LogStream | LogFile
        if settings.file is None:
            self._sink = LogStream(2, note)
        else:
            self._sink = LogFile(base_dir / settings.file, int(settings.max_size) or sys.maxsize, settings.keep, note)

    def write(self, block: bytes) -> None:
        """Write whole lines. Blocks: never. Raises: nothing."""
        if block:
            self._sink.write(block)

    def flush(self) -> None:
        """Try to write waiting lines. The loop calls it about once a second while `waiting` returns True."""
        self._sink.flush()

    def waiting(self) -> bool:
        """Return whether lines wait for a full disk: no event announces that it has room."""
        return self._sink.waiting()

    def reopen(self) -> None:
        """Open the file by its name again, after it was moved away (logrotate, then USR1)."""
        self._sink.reopen()

    def fileno(self) -> int:
        """Return the descriptor to watch for writability while `wants_write`."""
        return self._sink.fileno()

    def wants_write(self) -> bool:
        """Return whether lines wait for standard error to become writable. Always False for a file."""
        return self._sink.wants_write()

    def on_writable(self) -> None:
        """Continue to write; called by the loop when `fileno` is writable."""
        self._sink.flush()

    def full(self) -> bool:
        """Return whether so many lines wait for standard error that children's output should stay in their pipes."""
        return self._sink.full()

    def detach(self) -> None:
        """Close without writing; for a child after its fork."""
        self._sink.detach()

    def close(self) -> None:
        """Write waiting lines, for a second at most, and close."""
        self._sink.close()
