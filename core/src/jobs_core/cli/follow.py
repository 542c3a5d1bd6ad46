"""`jobsctl follow`: the state, progress and log lines of a job while it runs, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from ..backends.base import JobRecord, State
from ..backends.notes import NONE
from ..errors import NotSupported
from ..following import ENDED, INTERVAL, longer
from ..operating import timeline
from ..operating.ids import unknown
from ..units import shown_time
from . import output
from .common import Context, fail, json_option, pass_context
from .exits import Exit
from .types import DURATION, JOB_ID

UNSEEN = (
    "the backend deleted the notes of this job when it was done: what it told since the last look is not shown; "
    "set keep_done on a backend with history to keep them"
)


@click.command("follow")
@click.argument("job_id", metavar="ID", type=JOB_ID)
@click.option(
    "--for",
    "longest",
    type=DURATION,
    default=0.0,
    metavar="TIME",
    help="Stop after this time, even if the job has not ended; 0: never.",
)
@json_option
@pass_context
def follow_command(context: Context, job_id: str, longest: float, as_json: bool) -> None:
    """Show the states, failed attempts, progress and log lines of a job as they come, until the job has ended.

    The job is read from the backend twice a second, and less often while it waits, every 2 s at least. The exit code is 0 if
    the job is done or has left the backend, else 1.
    """
    record = context.find(job_id)
    job_id = record.id
    if not context.operate(lambda backend: "notes" in backend.features):
        raise NotSupported("notes", context.app.backend_url.partition("://")[0] + "://")
    page = _Page(context, as_json)
    deadline = time.monotonic() + longest if longest else float("inf")
    pause = INTERVAL
    while True:
        page.show(record)
        if record.state in ENDED:
            raise click.exceptions.Exit(Exit.FINE if record.state is State.DONE else Exit.FAILED)
        if time.monotonic() >= deadline:
            fail(f"job {job_id} has not ended: it is {record.state.value}; repeat the command to follow it further")
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        found = context.operate(lambda backend: backend.get(job_id))
        if found is None:
            page.gone(job_id)
            raise click.exceptions.Exit(Exit.FINE)
        pause = longer(pause, found.state) if found.state is record.state else INTERVAL
        record = found


class _Page:
    """What was printed about one job, so that each thing is printed once."""

    def __init__(self, context: Context, as_json: bool) -> None:
        self._context = context
        self._as_json = as_json
        self._state: tuple[object, ...] = ()
        self._progress = b""
        self._lines: tuple[bytes, ...] = ()
        self._errors: tuple[bytes, ...] = ()
        self._runs: tuple[bytes, ...] = ()

    def show(self, record: JobRecord) -> None:
        """Tell what is new in a record, in the order in which it happened."""
        state = record.state, record.attempt, record.owner, record.due
        told = [*self._new_notes(record), *self._new_ends(record)]
        if state != self._state:
            self._state = state
            told.append(("state", _state(record)))
        told.sort(key=lambda one: _at(one[1], last=one[0] == "state" and (record.since is None or record.state in ENDED)))
        for kind, facts in told:
            self._tell(kind, facts)
        if record.state is State.DONE and record.notes == NONE and (self._lines or self._progress):
            output.echo(f"jobs: {UNSEEN}", err=True)

    def _new_notes(self, record: JobRecord) -> Iterator[tuple[str, dict[str, Any]]]:
        lines, progress = record.notes.lines, record.notes.progress
        for line in lines[_known(self._lines, lines) :]:
            yield "line", timeline.read(self._context.app, record, line)
        self._lines = lines or self._lines
        if progress and progress != self._progress:
            self._progress = progress
            yield "progress", timeline.read(self._context.app, record, progress)

    def _new_ends(self, record: JobRecord) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return how runs have ended: those of the timeline if it is kept, else the errors."""
        runs = [msgspec.json.decode(run) for run in record.timeline]
        attempts = {run.get("attempt") for run in runs}
        for run in runs[_known(self._runs, record.timeline) :]:
            at, text = timeline.end_of_run(run)
            yield "run", {**run, "at": at, "text": text}
        for error in map(msgspec.json.decode, record.errors[_known(self._errors, record.errors) :]):
            if timeline.is_untold(error, attempts):
                at, text = timeline.failed(error)
                yield "error", {**error, "at": at, "text": text}
        self._runs, self._errors = record.timeline or self._runs, record.errors or self._errors

    def gone(self, job_id: str) -> None:
        """Tell that the job has left the backend, as jobs do that are done and keep no result."""
        if self._as_json:
            self._tell("state", {"state": State.UNKNOWN.value})
        else:
            output.echo(f"         {job_id} has ended: {unknown(job_id).partition(': ')[2]}")
        if self._lines or self._progress:
            output.echo(f"jobs: {UNSEEN}", err=True)

    def _tell(self, kind: str, facts: dict[str, Any]) -> None:
        if self._as_json:
            facts = facts if kind in ("line", "progress") else {key: value for key, value in facts.items() if key != "text"}
            output.echo_json(
                msgspec.json.encode({"what": kind, **{key: value for key, value in facts.items() if value not in (None, "")}})
            )
        else:
            told = {"at": facts.get("at"), "text": timeline.shown(facts)} if kind == "progress" else facts
            output.echo(timeline.shown_line(told))


def _state(record: JobRecord) -> dict[str, Any]:
    about = f": {record.reason}" if record.reason else ""
    if record.state is State.SCHEDULED:
        about = f" for {shown_time(record.due or 0.0)}"
    elif record.state is State.RESERVED:
        about = f" by {record.owner}"
    facts = {"state": record.state.value, "reason": record.reason, "due": record.due, "owner": record.owner}
    return {"at": record.since, **facts, "text": f"[{record.state.value}]{about}"}


def _at(facts: dict[str, Any], last: bool) -> float:
    """Return where something belongs among what one look has found; the end of the job is last, whatever its clock says."""
    at = facts.get("at")
    return float("inf") if last else float(at) if isinstance(at, (int, float)) else 0.0


def _known(before: tuple[bytes, ...], lines: tuple[bytes, ...]) -> int:
    """Return how many of the lines were there before: the oldest may have been dropped meanwhile."""
    for start in range(len(before)):
        if lines[: len(before) - start] == before[start:]:
            return len(before) - start
    return 0
