"""`jobsctl list`, `show`, `why`, `result`, `cancel`: commands for single jobs."""

from __future__ import annotations

import functools
import time
from typing import Any

import click
import msgspec

from ..backends.base import Backend, JobRecord, State
from ..escapes import in_one_line, one_line
from ..operating import timeline
from ..operating.formatting import size
from ..operating.ids import flow_instead
from ..operating.records import age, as_data, attempt, browse, name_of, owner_or_due, shown_result, time_of
from ..operating.searching import Search
from . import output
from .common import Context, fail, json_option, pass_context
from .exits import Exit
from .searching import found, search_options
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
    """List the jobs of TOPIC in one state: the next to run first, or for dead and done jobs the newest.

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
        output.json([as_data(context.app, record) for record in records])
        return
    rows = [
        (record.id, name_of(context.app, record), record.priority or "", attempt(record), age(record), owner_or_due(record))
        for record in records
    ]
    output.table(["id", "job", "priority", "attempt", "age", "owner or due"], rows, empty=f"no {state} jobs in {topic}")


@click.command("show")
@click.argument("job_id", metavar="ID", type=JOB_ID)
@json_option
@pass_context
def show_command(context: Context, job_id: str, as_json: bool) -> None:
    """Show everything known about a job: state, progress, timeline, message, log, errors."""
    record = context.find(job_id)
    if as_json:
        output.json(as_data(context.app, record))
        return
    show(context, record)


def show(context: Context, record: JobRecord) -> None:
    """Print a record in readable form, with all the facts of its JSON form."""
    data = as_data(context.app, record)
    message = data.pop("message", None) or {}
    errors = data.pop("errors", [])
    unreadable = data.pop("unreadable", None)
    cursor = msgspec.json.encode(data.pop("cursor")).decode() if record.cursor else None
    told = data.pop("progress", None)
    lines, runs = data.pop("log", []), data.pop("timeline", [])
    facts = {_label(key): value for key, value in data.items() if value or key == "attempt"}
    progress = timeline.shown(told) if told else None
    output.facts(
        {
            "job": message.get("job"),
            **facts,
            "progress": progress,
            "cursor": cursor,
            "result": shown_result(context.app, record),
        }
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
    output.block(f"{time_of(at)} {event}", "\n".join([*lines, *traceback.splitlines()]))


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
    if context.app.config.outbox.url:
        states = [
            context.app.cancel(job_id, force=force) if state is State.UNKNOWN else state
            for job_id, state in zip(job_ids, states, strict=True)
        ]
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
        if state is State.SCHEDULED:
            said = f"cannot be cancelled now: {_in_outbox(context, job_id)}"
        elif state is State.UNKNOWN and (flow := context.operate(functools.partial(_flow_instead, job_id=job_id))):
            said = flow.removeprefix(f"{job_id} ") + f"; `jobsctl flow cancel {job_id}` cancels it"
        missed = missed or state not in (State.CANCELLED, State.RESERVED)
        output.echo(f"{one_line(job_id)} {said}")
    if missed:
        raise click.exceptions.Exit(Exit.FAILED)


def _in_outbox(context: Context, job_id: str) -> str:
    """Say why a job that the outbox holds cannot be cancelled."""
    item = context.app.in_outbox(job_id)
    if item is not None and item.id != job_id:
        return f"it is a member of flow {item.id} in the outbox; `jobsctl flow cancel {item.id}` cancels the flow"
    return "it is on its way from the outbox to the backend: try again"


def _flow_instead(backend: Backend, *, job_id: str) -> str:
    return flow_instead(backend, job_id)
