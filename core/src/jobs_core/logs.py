"""Log lines: events and records as text or JSON. Nothing a message carries can forge or break a line.

The supervisor imports this module too: it may load nothing that a process without jobs does not need.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import msgspec

from . import boundary, escapes, events
from .escapes import one_line
from .events import Event
from .running import running
from .units import are, count, format_duration

OUTPUT = "jobs.output"
"""The logger of what jobs print."""

LONGEST_VALUE = 200
"""Characters of a job's name, id or topic in the head of a line; they come from messages."""

_PLAIN_VALUE = re.compile(r"[\w.:@/+<>-]+")


def sentence(event: Event) -> str:
    """What an event says: cause, consequence, what happens next."""
    match event:
        case events.WorkerStarted(owner, pool, topics, mode, concurrency):
            jobs = count(concurrency, "job")
            return f"worker {owner} of pool {pool} serves {', '.join(topics)}, {jobs} at a time ({mode})"
        case events.WorkerStopping(owner, running):
            return f"worker {owner} takes no new jobs; {running} still running" if running else f"worker {owner} is stopping"
        case events.WorkerStopped(owner, done, failed):
            return f"worker {owner} stopped: {count(done, 'job')} done, {count(failed, 'failed attempt')}"
        case events.BackendLost(error):
            return f"the backend cannot be reached; retrying until it answers: {error}"
        case events.BackendBack(seconds):
            return f"the backend answers again after {format_duration(round(seconds, 1))}"
        case events.BackendRisk(advice):
            return f"the backend works, but {advice}"
        case events.OwnerReplaced(old, new, running):
            here = f"{running} still running here"
            return f"the lease of {old} expired and its jobs went to other workers ({here}); continuing as {new}"
        case events.SettledStale(job_id, job, topic, attempt):
            return (
                f"{job} {job_id} in topic {topic}, attempt {attempt}, finished after its lease had expired: another worker is "
                "running it, or has run it, as well"
            )
        case events.JobTaken(job_id, job, topic, attempt):
            return f"{job} {job_id} in topic {topic} was reserved, attempt {attempt}"
        case events.JobDone(job_id, job, topic, attempt, seconds):
            again = f", attempt {attempt}" if attempt > 1 else ""
            return f"{job} {job_id} in topic {topic} finished in {format_duration(_rounded(seconds))}{again}"
        case events.JobSettled(job_id, job, outcome, answer):
            return f"{job or 'job'} {job_id} was settled as {outcome}" + ("" if answer == "settled" else f" ({answer})")
        case events.JobFailed(job_id, job, topic, attempt, retry_after, error, _):
            pause = format_duration(round(retry_after, 2))
            return f"{job} {job_id} in topic {topic} failed, attempt {attempt}; retrying in {pause}: {error}"
        case events.JobDied(job_id, job, topic, attempt, reason, error, _):
            return f"{job} {job_id} in topic {topic} is dead after {count(attempt, 'attempt')} ({reason}): {error}"
        case events.JobOverdue(job_id, job, topic, attempt, timeout):
            limit = format_duration(timeout)
            return f"{job} {job_id} in topic {topic} exceeded its timeout of {limit} and was interrupted, attempt {attempt}"
        case events.LeftBehind(job_id, job, topic, things, closed):
            names = ", ".join(things[:5]) + (", …" if len(things) > 5 else "")
            ended = "ended now, and the loop was closed" if closed else "ended now"
            return (
                f"{job} {job_id} in topic {topic} left in its event loop: {names} ({ended}); "
                "await or cancel these in the job, or make each a job of its own"
            )
        case events.PutOffTooOften(job_id, job, topic, pause):
            wait = format_duration(pause)
            return (
                f"{job} {job_id} in topic {topic} was deferred a hundred times within a second: from now on it waits at least "
                f"{wait} each time; raise Snooze with a longer delay"
            )
        case events.TicksMissed(entry, job, first, last, runs):
            missed = f"the run of {_when(last)} is enqueued now" if runs else 'they are skipped (missed = "skip")'
            return f"schedule {entry} has missed its runs of {job} since {_when(first)}: {missed}"
        case events.TickRefused(entry, job, error):
            return f"schedule {entry} cannot enqueue {job}; this run is lost: {error}"
        case events.TickWaits(entry, job, error):
            return f"schedule {entry} cannot enqueue {job} yet; retrying until it can: {error}"
        case events.ClockSetBack(entry, seconds):
            ahead = format_duration(round(seconds))
            return f"the clock of this machine was {ahead} ahead: schedule {entry} continues from the current time"
        case events.ScheduleForgotten(path, error):
            return f"{path} cannot be read, so missed runs cannot be detected; the schedule continues from now: {error}"
        case events.ScheduleNotSaved(path, error):
            return f"{path} cannot be written; after a restart, the latest scheduled jobs may be treated as missed: {error}"
        case events.SupervisorStarting(pid, run_dir):
            return f"supervisor {pid} is starting in {run_dir}"
        case events.SupervisorServes(workers, pools):
            return f"ready: {count(workers, 'worker')} in {count(pools, 'pool')}"
        case events.SupervisorStopping(how):
            if how == "exit":
                return "stopping immediately: workers are killed, and the jobs they are running go back to their topics"
            return "stopping: no new jobs are taken; waiting for running jobs to finish"
        case events.SupervisorStopped(unrepaired):
            if unrepaired:
                return f"stopped; the jobs of {count(unrepaired, 'dead worker')} go back to their topics at the next start"
            return "stopped"
        case events.CannotServe(error):
            return f"the application cannot be loaded, so nothing was started: {error}"
        case events.CannotPreload(threads):
            return (
                f"threads are running after the import ({', '.join(threads)}), so every worker imports the application itself "
                "and starts more slowly; start threads in the job or in after_fork, or set preload = false"
            )
        case events.StillImporting(generation, module, seconds):
            return f"generation {generation} is still importing {module or 'the application'} ({seconds} s so far)"
        case events.TemplateTrouble(error):
            return f"the template cannot be restarted; retrying. Existing workers continue, new ones have to wait: {error}"
        case events.HelperDied(name, pid, reason, restart_in):
            return f"{name} {pid} died ({reason}); a replacement starts {_soon(restart_in)}"
        case events.WorkerDied(owner, pid, pool, reason, running, restart_in):
            held = f" while running {count(running, 'job')}" if running else ""
            return f"worker {owner} ({pid}) of pool {pool} died{held}: {reason}; a replacement starts {_soon(restart_in)}"
        case events.CannotStart(pool, error, restart_in):
            return f"pool {pool} is short of a worker, retrying {_soon(restart_in)}: {error}"
        case events.KillingWorker(owner, pid, pool, reason):
            return f"worker {owner} ({pid}) of pool {pool} is being killed, after its stacks were written: {reason}"
        case events.WorkerSpared(owner, pid, pool):
            return (
                f"worker {owner} ({pid}) of pool {pool} is working again and was not killed: the request for its stacks woke it"
            )
        case events.JobsHandedBack(owner, released, charged):
            return f"{count(released, 'job')} of dead worker {owner} went back to their topics; {charged} had started"
        case events.PoolGrows(pool, before, after):
            return f"pool {pool} is growing from {before} to {count(after, 'worker')} to clear its backlog in time"
        case events.PoolShrinks(pool, before, after):
            return f"pool {pool} is shrinking from {before} to {count(after, 'worker')}: some were idle"
        case events.Reloading(generation):
            return f"reload: importing generation {generation}"
        case events.Reloaded(generation):
            return f"reload: generation {generation} is serving"
        case events.ReloadRefused(error):
            return f"reload refused, the old code keeps running: {error}"
        case events.Quiet(on):
            return "quiet: workers take no new jobs" if on else "workers take jobs again"
        case events.StacksWritten(directory):
            return f"the stacks of every worker are being appended to its .stacks file in {directory}"
        case events.RunDirGone(run_dir):
            return f"{run_dir} was removed or replaced: stopping, because no command could find this supervisor any more"
        case events.RunDirTrouble(file, error):
            return f"{file} cannot be written; status and metrics are out of date until it can be: {error}"
        case events.TopicUnserved(topic, waiting, senders):
            waits = [f"{are(waiting, 'job')} waiting there"] if waiting else []
            more = f" and {len(senders) - 3} more" if len(senders) > 3 else ""
            goes = [f"{', '.join(senders[:3])}{more} enqueue{'s' if len(senders) == 1 else ''} to it"] if senders else []
            return (
                f"no pool serves topic {topic} ({'; '.join(waits + goes)}): add it to the topics of a pool, "
                f"or set serve = false in [topics.{topic}] if workers elsewhere serve it"
            )
        case events.TopicBacklog(topic, ready, oldest_age, seconds):
            age = "" if oldest_age is None else f", the oldest for {format_duration(round(oldest_age))}"
            return f"topic {topic} has been behind for {format_duration(round(seconds))}: {are(ready, 'job')} ready{age}"
        case events.TopicCaughtUp(topic, ready, seconds):
            return f"topic {topic} has caught up after {format_duration(round(seconds))}: {are(ready, 'job')} ready"
        case events.AlertNotSent(channel, error):
            return f"alert channel {channel} does not work; until it does, alerts appear only in this log: {error}"
        case events.AlertsSentAgain(channel):
            return f"alert channel {channel} works again"
    return repr(event)


def _rounded(seconds: float) -> float:
    """To three digits below a second, to the millisecond above."""
    return float(f"{seconds:.3g}") if seconds < 1 else round(seconds, 3)


def _soon(seconds: float) -> str:
    return f"in {format_duration(round(seconds, 1))}" if seconds > 0 else "immediately"


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def job_context(run: Any) -> dict[str, object]:
    """What a log line says of the run that it was written in."""
    delivery = run.delivery
    return {"job_id": delivery.id, "job": run.job.name, "topic": delivery.topic, "attempt": delivery.attempt + 1}


def _context(record: logging.LogRecord) -> Mapping[str, object]:
    """Looked up while a record is formatted, which is in the thread and task that made it; a run pays nothing for it."""
    given: Mapping[str, object] | None = getattr(record, "job_context", None)
    if given is not None:
        return given
    run = running.get()
    return {} if run is None or getattr(record, "event", None) else job_context(run)


def _message(record: logging.LogRecord) -> str:
    event = getattr(record, "event", None)
    if event:
        return sentence(event)
    try:
        return record.getMessage()
    except Exception as error:  # the caller's mistake; the line still says where
        text = boundary.text_of(record.msg)
        return f"{text!r} cannot be filled in at {record.pathname}:{record.lineno}: {boundary.told(error)}"


class TextFormatter(logging.Formatter):
    """`2026-11-23 12:00:00.123 WARNING [web1-812-3f2a job_id=… job=shop.pay topic=money attempt=2] …`, a line a record.

    What surrounds the message comes first, so that no message can pretend to be in another job. A traceback follows,
    indented.
    """

    def __init__(self, worker: str = "") -> None:
        super().__init__()
        self._worker = worker
        self._clock = (0, "")  # the last second and its text

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
    trace: str = getattr(getattr(record, "event", record), "traceback", "")
    if not trace and record.exc_info:
        try:
            trace = formatter.formatException(record.exc_info)
        except Exception:  # an exception that cannot be told as usual
            trace = boundary.traceback_of(record.exc_info[1]) if record.exc_info[1] is not None else ""
    return f"{trace}\n{record.stack_info}" if record.stack_info else trace


class JsonFormatter(logging.Formatter):
    """One JSON object a line, of characters that are safe to print."""

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
        event = getattr(record, "event", None)
        if event:
            entry |= {"event": type(event).__name__, **msgspec.structs.asdict(event)}
        trace = _traceback(self, record)
        if trace:
            entry["traceback"] = trace
        return json_line(entry)


def json_line(entry: dict[str, Any]) -> str:
    """An object as one line of characters that are safe to print."""
    try:
        line = msgspec.json.encode(entry, enc_hook=str).decode()
    except UnicodeEncodeError:  # halves of characters, as in undecodable file names
        import json

        return json.dumps(entry, default=str)
    return escapes.json(line)


def formatter(format_: str, worker: str = "") -> logging.Formatter:
    """The formatter of `logs.format`; `worker` is said in every line, else the process id."""
    return JsonFormatter(worker) if format_ == "json" else TextFormatter(worker)


def for_raw_line(line: str, format_: str, *, worker: str, pid: int, context: Mapping[str, object] | None = None) -> bytes:
    """A log line for what a child wrote past its logging: C code, a subprocess of a job.

    Called by the supervisor for each line of `ChildOutput.read_raw`; `context` is the job's, where only one can have
    written it (keys as in `job_context`).
    """
    return line_of(line, format_, logging.INFO, OUTPUT, process=pid, worker=worker, job_context=context or {})


def line_of(text: str, format_: str, level: int = logging.WARNING, logger: str = "jobs", **attributes: Any) -> bytes:
    """A log line that goes past the logging of this process."""
    return encoded(_FORMATTERS[format_].format(record_of(text, level, logger, **attributes)))


def record_of(text: str, level: int, logger: str, **attributes: Any) -> logging.LogRecord:
    """A record that goes past the logging of this process; attributes may be `worker`, `process` and `job_context`."""
    level_name = logging.getLevelName(level)
    return logging.makeLogRecord({"name": logger, "levelno": level, "levelname": level_name, "msg": text, **attributes})


_FORMATTERS: dict[str, logging.Formatter] = {"text": TextFormatter(), "json": JsonFormatter()}


def encoded(text: str) -> bytes:
    """A formatted record as the bytes of whole lines."""
    return text.encode("utf-8", "backslashreplace") + b"\n"


class OwnHandler(logging.Handler):
    """A handler of this package's, which a child of the process takes off."""


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
