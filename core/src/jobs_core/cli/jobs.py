"""`jobsctl list`, `show`, `why`, `result`, `cancel`: commands for single jobs."""

from __future__ import annotations

import functools
import time
from typing import Any

import click
import msgspec

from ..backends.base import Backend, JobRecord, State
from ..errors import MessageError, NotSupported, PayloadError, PayloadStoreUnavailable
from ..escapes import in_one_line, one_line
from ..payloads import HIDDEN, describe
from ..units import format_duration, shown_time
from . import output, timeline
from .common import Context, fail, json_option, pass_context
from .exits import Exit
from .explain import QUEUED_OR_RUNNING
from .formatting import size
from .ids import flow_instead
from .searching import Search, found, search_options
from .topics import doubt
from .types import DURATION, JOB_ID, LIMIT, TOPIC

LONGEST_WAIT = 30.0
"""Longest wait of one request for a result, in seconds."""

_STATES = [
    state.value
    for state in (State.READY, State.LIMITED, State.WAITING, State.SCHEDULED, State.RESERVED, State.DEAD, State.DONE)
]


@click.command("list")
@click.argument("topic", type=TOPIC)
@click.option("--state", type=click.Choice(_STATES), default="ready", show_default=True, help="The state of the jobs to list.")
@click.option("--limit", type=LIMIT, default=50, show_default=True, help="List at most this many.")
@search_options
@json_option
@pass_context
def list_command(context: Context, topic: str, state: str, limit: int, as_json: bool, search: Search) -> None:
    """List the jobs of TOPIC in one state: the next to run first; dead and done ones newest first.

    Done jobs are kept only in topics with keep_done. With a filter, only the first 10,000 jobs are searched.
    """
    if reason := context.operate(lambda backend: doubt(context, backend, topic)):
        output.echo(f"jobs: {reason}", err=True)

    def some(backend: Backend, most: int, offset: int) -> list[JobRecord]:
        return browse(backend, topic, State(state), most, offset)

    records = found(context, some, search, limit)
    if state == State.DONE.value and not records and not context.app.config.topic(topic).keep_done:
        hint = f'topics.{topic}.keep_done = "1h" keeps them for an hour'
        output.echo(f"jobs: topic {topic} keeps no done jobs in this configuration: {hint}", err=True)
    if as_json:
        output.json([as_data(context, record) for record in records])
        return
    rows = [
        (record.id, name_of(context, record), record.priority or "", attempt(record), age(record), owner_or_due(record))
        for record in records
    ]
    output.table(["id", "job", "priority", "attempt", "age", "owner or due"], rows, empty=f"no {state} jobs in {topic}")


def browse(backend: Backend, topic: str, state: State, limit: int, offset: int) -> list[JobRecord]:
    """List jobs of a topic in one state. Raises NotSupported for a state that the backend does not have."""
    if state is State.LIMITED and state not in backend.queued_states:
        raise NotSupported("limits", f"{backend.name}://")
    if state is State.WAITING and state not in backend.queued_states:
        raise NotSupported("flows", f"{backend.name}://")
    if state is State.DONE and "history" not in backend.features:
        raise NotSupported("history", f"{backend.name}://")
    return backend.browse(topic, state, limit, offset)


@click.command("show")
@click.argument("job_id", metavar="ID", type=JOB_ID)
@json_option
@pass_context
def show_command(context: Context, job_id: str, as_json: bool) -> None:
    """Show everything known about a job: state, progress, timeline, message, log, errors."""
    record = context.find(job_id)
    if as_json:
        output.json(as_data(context, record))
        return
    show(context, record)


def show(context: Context, record: JobRecord) -> None:
    """Print a record in readable form, with all the facts of its JSON form."""
    data = as_data(context, record)
    message = data.pop("message", None) or {}
    errors = data.pop("errors", [])
    unreadable = data.pop("unreadable", None)
    cursor = msgspec.json.encode(data.pop("cursor")).decode() if record.cursor else None
    told = data.pop("progress", None)
    lines, runs = data.pop("log", []), data.pop("timeline", [])
    facts = {_label(key): value for key, value in data.items() if value or key == "attempt"}
    progress = timeline.shown(told) if told else None
    output.facts(
        {"job": message.get("job"), **facts, "progress": progress, "cursor": cursor, "result": _shown_result(context, record)}
    )
    output.block("timeline", "\n".join(timeline.lines_of(record, runs, errors)))
    if unreadable:
        output.block("message, as received", f"{unreadable}\n{record.payload[:2000]!r}")
    elif message:
        output.block("message", msgspec.json.format(msgspec.json.encode(message), indent=2).decode())
    if lines:
        output.block("log", "\n".join(map(timeline.shown_line, lines)))
    for error in errors:
        _show_error(dict(error))


def _cursor(context: Context, record: JobRecord) -> Any:
    """Return the cursor of a resumable job, as far as it can be read here."""
    try:
        return msgspec.json.decode(context.app.payloads.unpack_cursor(record.id, record.cursor))
    except PayloadError:
        return HIDDEN
    except ValueError:
        return repr(record.cursor[:200])


def _shown_result(context: Context, record: JobRecord) -> str | None:
    if not record.result:
        return None
    try:
        return context.app.payloads.unpack_result(record.id, record.result).decode()
    except PayloadError:
        return HIDDEN


def _show_error(error: dict[str, Any]) -> None:
    """Print one entry of a job's history: time, place, error, and all other facts, such as those of a worker that died."""
    at, host, pid = (error.pop(key, None) for key in ("at", "host", "pid"))
    kind, message, traceback = (str(error.pop(key, "")) for key in ("type", "message", "traceback"))
    number, log = error.pop("attempt", None), error.pop("log", [])
    if kind == "WorkerDied":
        event = f"a worker died, reported by process {pid} on {host}"
    else:
        event = (f"attempt {number}" if traceback else "not run") + (f", process {pid} on {host}" if pid else "")
    lines = [] if message and message in traceback else [f"{kind}: {message}"]
    told = {_label(key): _plain(key, value) for key, value in error.items() if value is not None}
    lines += [f"{label}: {value}" for label, value in told.items() if value]
    lines += ["its last log lines:", *(f"  {line}" for line in log)] if log else []
    output.block(f"{_time(at)} {event}", "\n".join([*lines, *traceback.splitlines()]))


def _label(key: str) -> str:
    return key.replace("_", " ")


def _plain(key: str, value: Any) -> str:
    return size(value) if key == "peak_memory" else str(value)


@click.command("result")
@click.argument("job_id", metavar="ID", type=JOB_ID)
@click.option(
    "--wait", type=DURATION, default=0.0, metavar="TIME", help='How long to wait for the job to end: seconds or "5m".'
)
@pass_context
def result_command(context: Context, job_id: str, wait: float) -> None:
    """Print what a job returned, as JSON."""
    job_id = context.whole_id(job_id)
    record = _result(context, job_id, time.monotonic() + wait)
    if record is None:
        fail(f"job {job_id} has not ended: `jobsctl why {job_id}` says what it is waiting for")
    elif record.state is State.DEAD:
        fail(f"job {job_id} is dead ({in_one_line(record.reason)}): `jobsctl show {job_id}` has its errors")
    elif record.state is State.CANCELLED:
        fail(f"job {job_id} was cancelled")
    elif record.result is None:
        if flow := context.operate(lambda backend: flow_instead(backend, job_id)):
            fail(flow)
        fail(f"job {job_id} is unknown: it was never enqueued, its result has expired, or it does not store one (store_result)")
    else:
        stored = context.app.stored_result(job_id, record.result)
        if "unstorable" in stored:
            fail(f"job {job_id} is done, but its result is not JSON: {stored['unstorable']}")
        output.echo_json(msgspec.json.encode(stored["value"]))


def _result(context: Context, job_id: str, deadline: float) -> JobRecord | None:
    """Return the record once the job has ended, None at the deadline. No single request waits longer than LONGEST_WAIT."""
    while True:
        left = max(0.0, deadline - time.monotonic())
        fetch = functools.partial(_fetch, job_id=job_id, wait=min(left, LONGEST_WAIT))
        record = context.operate(fetch, f"job {job_id} to end")
        if record is not None or not left:
            return record


def _fetch(backend: Backend, *, job_id: str, wait: float) -> JobRecord | None:
    return backend.fetch_result(job_id, wait)


@click.command("cancel")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True, type=JOB_ID)
@click.option("--force", is_flag=True, help="Replace the worker of a job that has not ended after timeout_grace.")
@pass_context
def cancel_command(context: Context, job_ids: tuple[str, ...], force: bool) -> None:
    """Cancel jobs: queued ones immediately; the worker of a running one is told within 250 ms and interrupts it.

    A plain function on a thread cannot be interrupted: it ends by itself, when it checks current_job().cancelled, or with
    --force.
    """
    missed = False
    options = {"force": True} if force else {}
    job_ids = tuple(map(context.whole_id, job_ids))
    states = context.operate(lambda backend: [backend.cancel(job_id, **options) for job_id in job_ids])
    for job_id, state in zip(job_ids, states, strict=True):
        said = {
            State.CANCELLED: "cancelled",
            State.RESERVED: "is running: "
            + (
                "it is interrupted, or its worker replaced"
                if force
                else ("it is told to stop (a thread cannot be interrupted: see --force)")
            ),
            State.DEAD: "is already dead",
            State.DONE: "is already done",
        }.get(state, "is unknown")
        if state is State.UNKNOWN and (flow := context.operate(functools.partial(_flow_instead, job_id=job_id))):
            said = flow.removeprefix(f"{job_id} ") + f"; `jobsctl flow cancel {job_id}` cancels it"
        missed = missed or state not in (State.CANCELLED, State.RESERVED)
        output.echo(f"{one_line(job_id)} {said}")
    if missed:
        raise click.exceptions.Exit(Exit.FAILED)


def _flow_instead(backend: Backend, *, job_id: str) -> str:
    return flow_instead(backend, job_id)


# -- shared with the dead letters ------------------------------------------------------------------


def as_data(context: Context, record: JobRecord) -> dict[str, Any]:
    """Return a record as data for JSON, with its message decoded if possible."""
    data: dict[str, Any] = {
        "id": record.id, "topic": record.topic, "state": record.state.value, "priority": record.priority,
        "attempt": attempt(record), "redeliveries": record.redeliveries, "crashes": record.crashes,
        "deferrals": record.deferrals, "pushed_at": _time(record.pushed_at), "since": _time(record.since),
        "due": _time(record.due), "owner": record.owner, "cancel_requested": record.cancel_requested,
        "reason": record.reason, "key": record.key, "limits": list(record.limits), "blocked_by": record.blocked_by,
    }  # fmt: skip
    if record.member is not None:
        member = record.member
        data |= {"flow": member.flow, "stage": member.stage, "waiting_for": list(record.waiting_for)}
    data = {key: value for key, value in data.items() if value not in (None, "", []) and value is not False}
    if record.cursor:
        data["cursor"] = _cursor(context, record)
    if record.payload:
        try:
            data["message"] = _message(context, record)
        except MessageError as error:
            data["unreadable"] = str(error)
    if record.notes.progress:
        data["progress"] = timeline.read(context, record, record.notes.progress)
    if record.notes.lines:
        data["log"] = [timeline.read(context, record, line) for line in record.notes.lines]
    if record.timeline:
        data["timeline"] = [msgspec.json.decode(entry) for entry in record.timeline]
    data["errors"] = [msgspec.json.decode(error) for error in record.errors]
    return data


def _message(context: Context, record: JobRecord) -> dict[str, Any]:
    """Return a record's message; if its arguments cannot be read here, with the reason as `unreadable` instead."""
    envelope = context.app.envelope(record)
    try:
        message: dict[str, Any] = msgspec.to_builtins(context.app.payloads.unpacked(envelope))
    except (PayloadError, PayloadStoreUnavailable) as error:
        return {**describe(envelope), "unreadable": str(error)}
    return message


def name_of(context: Context, record: JobRecord) -> str:
    """Return the name of the job in a record's message."""
    try:
        return context.app.envelope(record).job or "?"
    except MessageError:
        return "(unreadable)"


def attempt(record: JobRecord) -> int:
    """Return the number of the running or next attempt, as in log lines; of the last one, if the job has ended."""
    return record.attempt + (record.state in QUEUED_OR_RUNNING or (record.state is State.DONE and bool(record.timeline)))


def age(record: JobRecord) -> str:
    """Return how long ago the job was pushed."""
    return format_duration(max(0, round(record.broker_now - record.pushed_at)))


def owner_or_due(record: JobRecord) -> str:
    return record.owner or _time(record.due) or ""


def _time(at: float | None) -> str | None:
    return shown_time(at) if at else None
