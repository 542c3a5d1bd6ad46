"""Log lines: events and records as text or JSON. Nothing a message carries can forge or break a line."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, TextIO

import msgspec

from . import events
from .events import Event
from .units import format_duration

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def one_line(text: str) -> str:
    """`text` with control characters written out: no new lines, no terminal sequences."""
    return text.translate(_CONTROL)


def sentence(event: Event) -> str:
    """What an event says: cause, consequence, what happens next."""
    match event:
        case events.WorkerStarted(owner, pool, topics, mode, concurrency):
            jobs = "1 job" if concurrency == 1 else f"{concurrency} jobs"
            return f"worker {owner} of pool {pool} serves {', '.join(topics)}, {jobs} at once ({mode})"
        case events.WorkerStopping(owner, running):
            return f"worker {owner} takes no more jobs, {running} still run" if running else f"worker {owner} stops"
        case events.WorkerStopped(owner, done, failed):
            return f"worker {owner} stopped after {done} jobs done and {failed} failed attempts"
        case events.BackendLost(error):
            return f"the backend cannot be reached, trying again until it can: {error}"
        case events.BackendBack(seconds):
            return f"the backend answers again after {format_duration(round(seconds, 1))}"
        case events.OwnerReplaced(old, new, running):
            return f"the lease of {old} ran out and its jobs went to others ({running} still run here); going on as {new}"
        case events.SettledStale(job_id, job, topic):
            return f"{job} {job_id} of {topic} ended here after its lease had run out: it runs elsewhere too"
        case events.JobFailed(job_id, job, topic, attempt, retry_after, error, _):
            pause = format_duration(round(retry_after, 2))
            return f"{job} {job_id} of {topic} failed, attempt {attempt}; again in {pause}: {error}"
        case events.JobDied(job_id, job, topic, attempt, reason, error, _):
            return f"{job} {job_id} of {topic} is dead after {attempt} attempts ({reason}): {error}"
        case events.JobOverdue(job_id, job, topic, timeout):
            return f"{job} {job_id} of {topic} runs longer than its timeout of {format_duration(timeout)}: interrupted"
        case events.TicksMissed(entry, job, first, last, runs):
            what = f"{job} of {_when(last)} is enqueued now" if runs else 'with missed = "skip" they are left out'
            return f"schedule {entry} was not kept here since {_when(first)}: {what}"
        case events.TickRefused(entry, job, error):
            return f"schedule {entry} cannot enqueue {job}, this tick is lost: {error}"
        case events.ClockSetBack(entry, seconds):
            return f"the clock was {format_duration(round(seconds))} ahead: schedule {entry} goes on from the present time"
        case events.ScheduleForgotten(path, error):
            return f"{path} cannot be read: whether scheduled jobs were missed is not known, they go on from now: {error}"
        case events.ScheduleNotSaved(path, error):
            return f"{path} cannot be written: after a restart the last scheduled jobs may be taken for missed: {error}"
    return repr(event)


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


class TextFormatter(logging.Formatter):
    """`2026-11-23 12:00:00.123 WARNING jobs …`, one line a record; a traceback follows indented."""

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", None)
        text = sentence(event) if event else record.getMessage()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        line = f"{stamp}.{int(record.msecs):03d} {record.levelname:<7} [{record.process}] {one_line(text)}"
        context = getattr(record, "job_context", None)
        if context:
            line += " " + " ".join(f"{key}={one_line(str(value))}" for key, value in context.items())
        trace = getattr(event, "traceback", "") or (self.formatException(record.exc_info) if record.exc_info else "")
        return line + "".join(f"\n    | {one_line(part)}" for part in trace.splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", None)
        entry: dict[str, Any] = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": sentence(event) if event else record.getMessage(),
        }
        if event:
            entry |= {"event": type(event).__name__, **msgspec.structs.asdict(event)}
        entry |= getattr(record, "job_context", None) or {}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry, enc_hook=str).decode()


def to_stream(level: str, format_: str, stream: TextIO | None = None) -> None:
    """Send this process's log records to a stream, standard error by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format_ == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
