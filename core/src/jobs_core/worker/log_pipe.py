"""The output of the supervisor's child processes: log records and prints go to the supervisor's pipes.

Each child sets this up right after its fork. Every record is one write, and stays whole even if a job is interrupted in
the middle of it. A full pipe makes jobs wait for the supervisor. It delays the courier by at most 2 s for each record,
since heartbeats have to renew the lease.
"""

from __future__ import annotations

import io
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from .. import boundary, logs
from ..runs.run import Run
from ..runs.running import running
from ..uninterrupted import INTERRUPT
from ..units import count

LONGEST_RECORD = 256 * 1024
"""Bytes of one record; a longer one loses its middle."""

LONGEST_LINE = 16 * 1024
"""Characters of a printed line; a longer one is cut into several records."""

MOST_PARTIAL = 10_000
"""Largest number of unfinished lines that are kept; beyond it, the oldest are logged as they are."""

COURIER = "jobs-courier"
"""Name of the thread that must not wait for the log for longer than COURIER_PATIENCE seconds."""

COURIER_PATIENCE = 2.0


class PipeHandler(logs.OwnHandler):
    """A handler that writes records into the log pipe, each followed by a NUL, which the supervisor removes."""

    def __init__(self, fd: int, format_: str, worker: str) -> None:
        super().__init__()
        self._fd = fd
        self._json = format_ == "json"
        self._rest = b""  # the rest of a record that is partly in the pipe; written before any other
        self._dropped = 0
        self.setFormatter(logs.formatter(format_, worker))
        os.set_blocking(fd, False)

    def handle(self, record: logging.LogRecord) -> bool:
        """Write a record without the handler's lock, which must not be held where a job can be interrupted, see `_put`."""
        if not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, _SENT, False):
            return  # the handler is on our own loggers as well as on the root
        setattr(record, _SENT, True)
        try:
            text = self.format(record)
        except Exception as error:  # a record of the application that cannot be formatted must not fail the job
            text = self.format(_unformattable(record, error))
        self._send(self._clip(logs.encoded(text)) + b"\0")

    def flush(self) -> None:
        """Write all unfinished records and printed lines; called at the end of the process."""
        for key in partial.copy():
            _end_line(key)
        self._send(b"", time.monotonic() + COURIER_PATIENCE)

    def _clip(self, line: bytes) -> bytes:
        if len(line) <= LONGEST_RECORD:
            return line
        if self._json:
            entry = msgspec.json.decode(line)
            shorter = {key: _middle_out(value, 20_000) if isinstance(value, str) else value for key, value in entry.items()}
            line = logs.encoded(logs.json_line(shorter))
            return line if len(line) <= LONGEST_RECORD else logs.line_of("a record longer than 256 KiB was left out", "json")
        return logs.encoded(_middle_out(line.decode().rstrip("\n"), LONGEST_RECORD // 4, "\n    | "))

    def _send(self, data: bytes, deadline: float | None = None) -> None:
        """Write a record; wait while the pipe is full, outside the lock and where a job can be interrupted."""
        while True:
            data, finished = self._put(data)
            if finished:
                return
            if deadline is None and threading.current_thread().name == COURIER:
                deadline = time.monotonic() + COURIER_PATIENCE
            if not _wait_until_writable(self._fd, deadline):
                self._dropped += bool(data)
                return

    def _put(self, data: bytes) -> tuple[bytes, bool]:
        """Write as much as the pipe accepts; return the record if none of it was written, and whether nothing is left.

        An interruption must not strike between a write and the update of `_rest`, nor while the lock is held. It arrives
        when the signal is unblocked.
        """
        assert self.lock
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, (INTERRUPT,))
            with self.lock:
                if self._rest:
                    self._rest = self._rest[self._write(self._rest) :]
                if self._dropped and data and not self._rest:
                    note = self._note(f"{self._dropped} log lines were left out: the log could not be written for a while")
                    written = self._write(note)
                    self._rest, self._dropped = (note[written:], 0) if written else (b"", self._dropped)
                if data and not self._rest and not self._dropped:
                    written = self._write(data)
                    if written:
                        self._rest = data[written:]
                        data = b""
                return data, not data and not self._rest
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (INTERRUPT,))

    def _note(self, text: str) -> bytes:
        return logs.encoded(self.format(logs.record_of(text, logging.WARNING, "jobs"))) + b"\0"

    def _write(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError:  # the supervisor has ended, and this process will end soon
            return len(data)


def _middle_out(text: str, limit: int, line_end: str = "") -> str:
    """Return `text` without its middle, if it is longer than `limit` characters (of up to four bytes)."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}{line_end} ... {count(len(text) - 2 * half, 'character')} left out ... {line_end}{text[-half:]}"


def _unformattable(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    text = f"a record of {record.pathname}:{record.lineno} cannot be formatted: {type(error).__name__}"
    return logs.record_of(text, record.levelno, record.name)


def _wait_until_writable(fd: int, deadline: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000))


_handler: PipeHandler | None = None
_SENT = "_jobs_sent"
OURS = "jobs"
"""Name of our top logger, and first part of the names below it."""


def to_pipe(log_fd: int, level: str, format: str, *, worker: str) -> None:
    """Send this process's log records to the supervisor, each with the name `worker`. Replaces the set-up of a parent."""
    global _handler
    _handler = PipeHandler(log_fd, format, worker)
    partial.clear()
    for logger in (logging.getLogger(), boundary.own_logger(OURS)):
        logger.setLevel(level.upper())
    boundary.last_resort = _past_logging
    take_over()


def take_over() -> None:
    """Ensure that each record is written once, by our handler. Called again after the application was imported.

    Handlers of the application that write elsewhere, to files or to the network, stay. Handlers that write to standard
    output or error are removed from loggers whose records reach the root too: otherwise their lines would be logged a
    second time, as prints. Our own loggers have the handler themselves, and cannot be disabled: when a job calls
    `logging.config.dictConfig`, that removes the root's handlers and disables every logger that it does not name.
    """
    if _handler is None:
        return
    root = logging.getLogger()
    loggers = [logger for logger in root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    for logger in (root, *loggers):
        if _reaches_root(logger):
            logger.handlers[:] = [handler for handler in logger.handlers if not _prints(handler)]
    for logger in (root, *(boundary.own_logger(logger.name) for logger in loggers if _is_ours(logger.name))):
        if logger is root or logger.name == OURS:
            logger.addHandler(_handler)


def _is_ours(name: str) -> bool:
    return name == OURS or name.startswith(f"{OURS}.")


def _reaches_root(logger: logging.Logger) -> bool:
    return logger.parent is None or (logger.propagate and _reaches_root(logger.parent))


def _prints(handler: logging.Handler) -> bool:
    if isinstance(handler, logs.OwnHandler):
        return True
    stream = getattr(handler, "stream", None)
    return stream is not None and (
        isinstance(stream, Printed) or stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    )


def capture(raw_fd: int) -> None:
    """Turn printed lines into log records, and send output that bypasses Python to `raw_fd`. Call it after `to_pipe`.

    Descriptors 1 and 2 become the raw pipe: C code and subprocesses write there. `sys.stdout` and `sys.stderr` are
    replaced by streams that make records, at level info, and that know the job that prints.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not isinstance(stream, Printed):
            stream.flush()
    os.dup2(raw_fd, 1)
    os.dup2(raw_fd, 2)
    if not isinstance(sys.stdout, Printed):  # keep a template's: modules that it imported may hold it
        sys.stdout = Printed(1, "<stdout>")
    if not isinstance(sys.stderr, Printed):
        sys.stderr = Printed(2, "<stderr>")


keeps: Callable[[Run, str, str], None] | None = None
"""Keeps a printed line with the job that prints it, by run, level and text; set in workers of topics with `keep_logs`."""

partial: dict[tuple[int, str | int], tuple[Run | None, str]] = {}
"""Unfinished lines by stream and run (else thread), so that the lines of two jobs do not mix."""


def end_lines(run: Run) -> None:
    """Log the unfinished lines of a run that has ended. Executors call it if `partial` is not empty."""
    for fd in (1, 2):
        if (fd, run.delivery.id) in partial:
            _end_line((fd, run.delivery.id))


def _end_line(key: tuple[int, str | int]) -> None:
    run, text = partial.pop(key, (None, ""))
    _log(run, [text])


class Printed(io.TextIOBase):
    """A replacement for `sys.stdout` or `sys.stderr` that logs each printed line as a record. Any thread may write."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name
        self.mode = "w"
        self.buffer = _PrintedBytes(self)

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        run = running.get()
        key = (self._fd, threading.get_ident() if run is None else run.delivery.id)
        *lines, rest = (partial.pop(key)[1] + text if key in partial else text).split("\n")
        while len(rest) > LONGEST_LINE:
            lines.append(rest[:LONGEST_LINE])
            rest = rest[LONGEST_LINE:]
        if rest:
            partial[key] = (run, rest)
            if len(partial) > MOST_PARTIAL:
                _end_line(next(iter(partial.copy())))
        if lines:
            _log(run, lines)
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """Return the raw pipe's descriptor: a subprocess that is given this stream writes there."""
        return self._fd

    def isatty(self) -> bool:
        return False

    def flush(self) -> None:
        """Do nothing: a line is written when it is complete."""

    def close(self) -> None:
        """Do nothing: code that closes its output must not close it for all jobs."""

    def reconfigure(self, **options: Any) -> None:
        """Accept and ignore the options: programs set an encoding or line buffering here."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    @property
    def line_buffering(self) -> bool:
        return True


class _PrintedBytes(io.RawIOBase):
    """The binary stream under a `Printed`: `sys.stdout.buffer` or `sys.stderr.buffer`."""

    def __init__(self, text: Printed) -> None:
        self._text = text

    def write(self, data: Any, /) -> int:
        octets = bytes(data)
        self._text.write(octets.decode("utf-8", "replace"))
        return len(octets)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._text.fileno()

    def close(self) -> None:
        """Do nothing, like the text stream."""


def _past_logging(level: int, text: str) -> None:
    if _handler is not None:
        first, *trace = text.splitlines()
        record = logs.record_of(first, level, "jobs", traceback="\n".join(trace))
        _handler.handle(record)


def _log(run: Run | None, lines: Iterable[str]) -> None:
    """Log printed lines without the application's own logging, whose set-up could lose or repeat a line."""
    handler = _handler
    if handler is None or not logging.getLogger().isEnabledFor(logging.INFO):
        return
    context = {} if run is None else logs.job_context(run)
    for line in lines:
        line = line.rstrip()
        if not line:
            continue
        if keeps is not None and run is not None:
            keeps(run, "print", line)
        for start in range(0, len(line), LONGEST_LINE):
            part = line[start : start + LONGEST_LINE]
            handler.handle(logs.record_of(part, logging.INFO, logs.OUTPUT, job_context=context))
