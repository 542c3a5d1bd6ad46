"""Log lines: events and records as text or JSON. No text from a job can forge or break a line.

The supervisor imports this module too, so it must not import anything that only processes with jobs need.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import msgspec

from . import boundary, escapes
from .escapes import one_line
from .events import Event
from .runs.running import running

OUTPUT = "jobs.output"
"""The logger for output that jobs print."""

LONGEST_VALUE = 200
"""Most characters of a job's name, id or topic at the head of a line; they come from messages, so they may be long."""

_PLAIN_VALUE = re.compile(r"[\w.:@/+<>-]+")


def job_context(run: Any) -> dict[str, object]:
    """Return the facts about the run in which a log line was written."""
    delivery = run.delivery
    return {"job_id": delivery.id, "job": run.job.name, "topic": delivery.topic, "attempt": delivery.attempt + 1}


def _context(record: logging.LogRecord) -> Mapping[str, object]:
    """Return the context of a record.

    It is looked up when the record is formatted, which happens in the run's thread and task; so runs pay nothing for it.
    """
    given = getattr(record, "job_context", None)
    if type(given) is dict:
        return given
    run = running.get()
    return {} if run is None or _event(record) is not None else job_context(run)


def _event(record: logging.LogRecord) -> Event | None:
    """Return the event of a record, or None; the application's records may have an unrelated attribute `event`."""
    event = getattr(record, "event", None)
    return event if isinstance(event, Event) else None


def _message(record: logging.LogRecord) -> str:
    event = _event(record)
    if event is not None:
        return str(event)
    try:
        return record.getMessage()
    except Exception as error:  # the arguments do not fit the format: log the text, and where the call is
        text = boundary.text_of(record.msg)
        return f"{text!r} cannot be filled in at {record.pathname}:{record.lineno}: {boundary.told(error)}"


class TextFormatter(logging.Formatter):
    """Formats each record as one line.

    `2026-11-23 12:00:00.123 WARNING [web1-812-3f2a job_id=… job=shop.pay topic=money attempt=2] …`: the context comes
    before the message, so that no message can pretend to come from another job. An indented traceback may follow.
    """

    def __init__(self, worker: str = "") -> None:
        super().__init__()
        self._worker = worker
        self._clock = (0, "")  # the last second formatted, and its text

    def format(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        known, stamp = self._clock
        if known != second:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
            self._clock = second, stamp
        where = getattr(record, "worker", None) or self._worker or record.process
        context = "".join(f" {key}={_value(value)}" for key, value in _context(record).items())
        text = one_line(_message(record))
        line = f"{stamp}.{int(record.msecs):03d} {record.levelname:<7} [{where}{context}] {text}"
        return line + "".join(f"\n    | {one_line(part)}" for part in _traceback(self, record).splitlines())


def _value(value: object) -> str:
    text = str(value)[:LONGEST_VALUE]
    if _PLAIN_VALUE.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{one_line(escaped)}"'


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    given = getattr(_event(record) or record, "traceback", "")
    trace = given if type(given) is str else ""
    if not trace and record.exc_info:
        try:
            trace = formatter.formatException(record.exc_info)
        except Exception:  # an exception that cannot be formatted as usual
            trace = boundary.traceback_of(record.exc_info[1]) if record.exc_info[1] is not None else ""
    return f"{trace}\n{record.stack_info}" if record.stack_info else trace


class JsonFormatter(logging.Formatter):
    """Formats each record as a JSON object on one line, with characters that are safe to print."""

    def __init__(self, worker: str = "") -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
        }
        worker = getattr(record, "worker", None) or self._worker
        if worker:
            entry["worker"] = worker
        entry |= _context(record)
        entry["message"] = _message(record)
        event = _event(record)
        if event is not None:
            entry |= {"event": type(event).__name__, **msgspec.structs.asdict(event)}
        trace = _traceback(self, record)
        if trace:
            entry["traceback"] = trace
        return json_line(entry)


def json_line(entry: dict[str, Any]) -> str:
    """Return an object as one line of characters that are safe to print."""
    try:
        line = msgspec.json.encode(entry, enc_hook=str).decode()
    except UnicodeEncodeError:  # unpaired surrogates, as in undecodable file names
        import json

        return json.dumps(entry, default=str)
    return escapes.json(line)


def formatter(format_: str, worker: str = "") -> logging.Formatter:
    """Return the formatter for a value of `logs.format`; every line contains `worker`, or the process id if it is empty."""
    return JsonFormatter(worker) if format_ == "json" else TextFormatter(worker)


def for_raw_line(line: str, format_: str, *, worker: str, pid: int, context: Mapping[str, object] | None = None) -> bytes:
    """Return a log line for output that bypassed a child's logging: from C code, or a subprocess of a job.

    The supervisor calls this for each line of `ChildOutput.read_raw`. If only one job can have written the line, `context`
    describes it, with the keys of `job_context`.
    """
    return line_of(line, format_, logging.INFO, OUTPUT, process=pid, worker=worker, job_context=context or {})


def line_of(text: str, format_: str, level: int = logging.WARNING, logger: str = "jobs", **attributes: Any) -> bytes:
    """Return a log line that bypasses the logging of this process."""
    return encoded(_FORMATTERS[format_].format(record_of(text, level, logger, **attributes)))


def record_of(text: str, level: int, logger: str, **attributes: Any) -> logging.LogRecord:
    """Return a record that bypasses the logging of this process; attributes may be `worker`, `process` and `job_context`."""
    record = logging.LogRecord(logger, level, "", 0, text, None, None)  # makeLogRecord would call the application's factory
    record.__dict__.update(attributes)
    return record


_FORMATTERS: dict[str, logging.Formatter] = {"text": TextFormatter(), "json": JsonFormatter()}


def encoded(text: str) -> bytes:
    """Return a formatted record as the bytes of whole lines."""
    return text.encode("utf-8", "backslashreplace") + b"\n"


class OwnHandler(logging.Handler):
    """A handler of this package; a child process removes it."""


def to_stream(level: str, format_: str, stream: TextIO | None = None) -> None:
    """Send this process's log records to a stream, standard error by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter(format_))
    _install(handler, level)


def to_function(level: str, format_: str, write: Callable[[bytes], object], *, worker: str = "") -> None:
    """Send this process's log records to a function that takes whole lines, such as `LogWriter.write`."""
    handler = _FunctionHandler(write)
    handler.setFormatter(formatter(format_, worker))
    _install(handler, level)


def _install(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class _FunctionHandler(OwnHandler):
    def __init__(self, write: Callable[[bytes], object]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(encoded(self.format(record)))
