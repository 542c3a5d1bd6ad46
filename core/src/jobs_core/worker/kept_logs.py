"""The log records and prints of jobs in topics with `keep_logs`, on their way to the notes of their job."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from ..config import Config
from ..runs.notebook import tell_line
from ..runs.run import Run
from ..runs.running import running
from . import log_pipe

OUTPUT = "print"
"""The level of printed lines."""


def kept_topics(config: Config, topics: Iterable[str]) -> frozenset[str]:
    """Return the topics whose jobs keep what they log."""
    return frozenset(topic for topic in topics if config.topic(topic).keep_logs)


@contextmanager
def kept_logs(topics: frozenset[str]) -> Iterator[None]:
    """Keep what the jobs of these topics log and print; without topics, do nothing."""
    if not topics:
        yield
        return
    handler = _Handler(topics)
    root, streams = logging.getLogger(), (sys.stdout, sys.stderr)
    root.addHandler(handler)
    log_pipe.keeps = handler.keep
    if not isinstance(sys.stdout, log_pipe.Printed):  # no supervisor captures what is printed
        sys.stdout, sys.stderr = cast(TextIO, _Stream(streams[0], handler)), cast(TextIO, _Stream(streams[1], handler))
    try:
        yield
    finally:
        log_pipe.keeps = None
        root.removeHandler(handler)
        sys.stdout, sys.stderr = streams


class _Handler(logging.Handler):
    """A handler that gives records to the run in which they are logged."""

    def __init__(self, topics: frozenset[str]) -> None:
        super().__init__()
        self._topics = topics
        self.setFormatter(logging.Formatter("%(message)s"))

    def handle(self, record: logging.LogRecord) -> bool:
        """Keep a record without the handler's lock, which must not be held where a job can be interrupted."""
        if not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        run = running.get()
        if run is None or run.delivery.topic not in self._topics:
            return
        try:
            text = self.format(record)
        except Exception:  # the log itself tells which record cannot be formatted
            return
        self.keep(run, record.levelname.lower(), text)

    def keep(self, run: Run, level: str, text: str) -> None:
        """Keep a line, unless the run has ended: a thread that outlives its run logs to nobody."""
        if run.delivery.topic in self._topics and not run.ended and text.strip():
            tell_line(run, level, text.rstrip())


class _Stream:
    """A standard stream that also gives complete lines to the run that prints them."""

    def __init__(self, stream: TextIO, handler: _Handler) -> None:
        self._stream = stream
        self._handler = handler
        self._begun: dict[str, str] = {}  # unfinished lines by job id

    def write(self, text: str) -> int:
        run = running.get()
        if run is not None and isinstance(text, str):
            *lines, rest = (self._begun.pop(run.delivery.id, "") + text).split("\n")
            for line in lines:
                self._handler.keep(run, OUTPUT, line)
            if rest and len(self._begun) < log_pipe.MOST_PARTIAL:
                self._begun[run.delivery.id] = rest[: log_pipe.LONGEST_LINE]
        return self._stream.write(text)

    def writelines(self, texts: Any) -> None:
        for text in texts:
            self.write(text)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
