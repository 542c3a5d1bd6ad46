"""Log the output that code prints, for jobs that run a framework's commands."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, TextIO, cast

LONGEST_LINE = 16 * 1024
"""Most characters of a logged line; longer ones are logged in parts."""


class _Lines:
    """Logs a text line by line, as it is written."""

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._log(line)
        if len(self._rest) > LONGEST_LINE:
            self.end()
        return len(text)

    def end(self) -> None:
        rest, self._rest = self._rest, ""
        self._log(rest)

    def _log(self, line: str) -> None:
        shown = line.rpartition("\r")[2].rstrip()  # log only the last state of a progress bar
        if shown:
            self._logger.log(self._level, "%s", shown)


_logged: ContextVar[dict[str, _Lines] | None] = ContextVar("logged", default=None)


class _Stream:
    """Replaces sys.stdout or sys.stderr: it logs the text of runs inside `log_printed`, and passes on all other text."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name = name
        self._stream = stream

    def write(self, text: str) -> int:
        logged = _logged.get()
        if logged is None or not isinstance(text, str):
            return self._stream.write(text)
        token = _logged.set(None)  # a handler may print to this stream: that must not be logged again
        try:
            return logged[self._name].write(text)
        finally:
            _logged.reset(token)

    def writelines(self, texts: Any) -> None:
        for text in texts:
            self.write(text)

    def isatty(self) -> bool:
        return _logged.get() is None and self._stream.isatty()

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def log_printed(logger: logging.Logger) -> Iterator[None]:
    """Log what this run prints inside the block: standard output at level info, standard error at level warning.

    Other runs, on other threads or in other tasks, print as before. Bytes that bypass the text stream are not logged.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, _Stream):  # never removed again: another run may be printing when this one ends
            setattr(sys, name, cast(TextIO, _Stream(name, stream)))
    lines = {"stdout": _Lines(logger, logging.INFO), "stderr": _Lines(logger, logging.WARNING)}
    token = _logged.set(lines)
    try:
        yield
    finally:
        _logged.reset(token)
        for each in lines.values():
            each.end()
