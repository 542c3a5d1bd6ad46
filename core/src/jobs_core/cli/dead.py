"""`jobsctl dead`: list, group, show, retry and drop dead letters."""

from __future__ import annotations

import itertools

import click
import msgspec

from ..backends.base import Backend, JobRecord, State
from ..escapes import in_one_line
from ..operating.explain import MOST_DEAD, dead_letter
from ..operating.records import as_data, name_of
from ..operating.searching import Search
from ..units import shown_time
from . import output
from .common import Context, fail, json_option, pass_context
from .dead_groups import groups, letters, show_groups
from .dead_retry import actions_command, alias, doubt_topic, drop_dead, no_letters_in, retry_dead
from .jobs import show
from .searching import search_options
from .types import JOB_ID, LIMIT, TEXT, TOPIC


@click.group("dead")
def dead_command() -> None:
    """List, group, show, retry and drop dead letters."""


@dead_command.command("list")
@click.argument("topic", required=False, type=TOPIC)
@click.option("--limit", type=LIMIT, default=50, show_default=True, help="List at most this many of a topic.")
@click.option("--group", metavar="GROUP", type=TEXT, help="Only dead letters of this group (see `jobsctl dead groups`).")
@search_options
@json_option
@pass_context
def list_dead(context: Context, topic: str | None, limit: int, group: str | None, as_json: bool, search: Search) -> None:
    """List dead letters, newest first, of TOPIC or of all topics."""
    doubt_topic(context, topic)
    if group or search.given:
        records = list(itertools.islice(letters(context, topic, search, group), limit))
        if group and not records:
            output.echo(f"jobs: {no_letters_in(group)}", err=True)
    else:
        records = context.operate(lambda backend: _dead(backend, topic, limit))
    if as_json:
        output.json([as_data(context.app, record) for record in records])
        return
    rows = [
        (
            record.id,
            record.topic,
            name_of(context.app, record),
            _when(record),
            record.attempt,
            in_one_line(record.reason),
            last_error(record),
        )
        for record in records
    ]
    output.table(["id", "topic", "job", "since", "attempts", "reason", "last error"], rows, empty="no dead letters")


@dead_command.command("show")
@click.argument("job_id", metavar="ID", type=JOB_ID)
@json_option
@pass_context
def show_dead(context: Context, job_id: str, as_json: bool) -> None:
    """Show one dead letter with its tracebacks."""
    job_id = context.whole_id(job_id)
    record = context.operate(lambda backend: _find(context, backend, job_id))
    if record.state is not State.DEAD:
        fail(f"job {job_id} is not dead, but {record.state.value}")
    if as_json:
        output.json(as_data(context.app, record))
    else:
        show(context, record)


@dead_command.command("groups")
@click.argument("topic", required=False, type=TOPIC)
@search_options
@json_option
@pass_context
def groups_of_dead(context: Context, topic: str | None, as_json: bool, search: Search) -> None:
    """Group dead letters, of TOPIC or of all topics, by what went wrong.

    The dead letters of a group have the same type of error, were raised by the same function of the application, and have the
    same message apart from numbers, ids and quoted text. The backend counts them; with a filter such as --error, and on
    rabbitmq://, which does not count, the newest 10,000 dead letters of each topic are read.
    """
    doubt_topic(context, topic)
    show_groups(groups(context, topic, search), as_json)


dead_command.add_command(retry_dead)
dead_command.add_command(drop_dead)
dead_command.add_command(alias(drop_dead, "purge"))
dead_command.add_command(actions_command)


def _find(context: Context, backend: Backend, job_id: str) -> JobRecord:
    """Return the job, even if the backend cannot look up single jobs; end the command if there is none."""
    if "lookup" in backend.features:
        return context.find(job_id)
    record = dead_letter(context.app, backend, job_id)
    if record is None:
        fail(
            f"{job_id} is not among the {MOST_DEAD:,} newest dead letters of each topic, and {backend.name}:// cannot look up "
            "single jobs (set [results] url to record them)"
        )
    return record


def _dead(backend: Backend, topic: str | None, limit: int) -> list[JobRecord]:
    topics = [topic] if topic else backend.topics()
    return [record for name in topics for record in backend.browse(name, State.DEAD, limit)]


def _when(record: JobRecord) -> str:
    return shown_time(record.since) if record.since else ""


def last_error(record: JobRecord) -> str:
    """Return the last error of a dead letter in one line, without its type if that is the reason."""
    if not record.errors:
        return ""
    error = msgspec.json.decode(record.errors[-1])
    message = str(error.get("message") or "")
    told = message if error.get("type") == record.reason else f"{error.get('type')}: {message}"  # the reason has its own column
    return (told.splitlines() or [""])[0][:120]
