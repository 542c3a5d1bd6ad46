"""`jobsctl follow`: the state, progress and log lines of a job while it runs, and how it ends."""

from __future__ import annotations

import time

import click
import msgspec

from ..backends.base import JobRecord, State
from ..errors import NotSupported
from ..following import ENDED, INTERVAL
from . import output, timeline
from .common import Context, fail, json_option, pass_context
from .exits import Exit
from .ids import unknown
from .types import DURATION, JOB_ID


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
    """Show the state, the progress and the log lines of a job as they change, until the job has ended.

    The job is read from the backend twice a second. The exit code is 0 if the job is done or has left the backend, else 1.
    """
    record = context.find(job_id)
    job_id = record.id
    if not context.operate(lambda backend: "notes" in backend.features):
        raise NotSupported("notes", context.app.backend_url.partition("://")[0] + "://")
    page = _Page(context, as_json)
    deadline = time.monotonic() + longest if longest else float("inf")
    while True:
        page.show(record)
        if record.state in ENDED:
            raise click.exceptions.Exit(Exit.FINE if record.state is State.DONE else Exit.FAILED)
        if time.monotonic() >= deadline:
            fail(f"job {job_id} has not ended: it is {record.state.value}; repeat the command to follow it further")
        time.sleep(min(INTERVAL, max(0.0, deadline - time.monotonic())))
        found = context.operate(lambda backend: backend.get(job_id))
        if found is None:
            page.gone(job_id)
            raise click.exceptions.Exit(Exit.FINE)
        record = found


class _Page:
    """What was printed about one job, so that each thing is printed once."""

    def __init__(self, context: Context, as_json: bool) -> None:
        self._context = context
        self._as_json = as_json
        self._state: tuple[object, ...] = ()
        self._progress = b""
        self._lines: tuple[bytes, ...] = ()

    def show(self, record: JobRecord) -> None:
        state = record.state, record.attempt, record.owner
        if state != self._state and record.state not in ENDED:
            self._tell_state(record, state)
        lines = record.notes.lines
        for line in lines[_known(self._lines, lines) :]:
            self._tell("line", timeline.read(self._context, record, line))
        self._lines = lines or self._lines
        if record.notes.progress and record.notes.progress != self._progress:
            self._progress = record.notes.progress
            self._tell("progress", timeline.read(self._context, record, self._progress))
        if state != self._state:
            self._tell_state(record, state)

    def _tell_state(self, record: JobRecord, state: tuple[object, ...]) -> None:
        self._state = state
        self._tell("state", {"at": record.since, "state": record.state.value, "reason": record.reason})

    def gone(self, job_id: str) -> None:
        """Tell that the job has left the backend, as jobs do that are done and keep no result."""
        if self._as_json:
            self._tell("state", {"state": State.UNKNOWN.value})
        else:
            output.echo(f"         {job_id} has ended: {unknown(job_id).partition(': ')[2]}")

    def _tell(self, kind: str, facts: dict[str, object]) -> None:
        if self._as_json:
            output.echo_json(
                msgspec.json.encode({"what": kind, **{key: value for key, value in facts.items() if value not in (None, "")}})
            )
        elif kind == "state":
            reason = f": {facts['reason']}" if facts["reason"] else ""
            output.echo(timeline.shown_line({"at": facts["at"], "text": f"[{facts['state']}]{reason}"}))
        else:
            told = facts if kind == "line" else {"at": facts.get("at"), "text": timeline.shown(facts)}
            output.echo(timeline.shown_line(told))


def _known(before: tuple[bytes, ...], lines: tuple[bytes, ...]) -> int:
    """Return how many of the lines were there before: the oldest may have been dropped meanwhile."""
    for start in range(len(before)):
        if lines[: len(before) - start] == before[start:]:
            return len(before) - start
    return 0
