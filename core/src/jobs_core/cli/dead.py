"""`jobsctl dead`: list, show, retry and delete dead letters."""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import msgspec

from ..backends.base import Backend, JobRecord, State
from ..backends.flows import was_refused
from ..errors import NotSupported
from ..escapes import in_one_line
from ..units import shown_time
from . import output
from .common import Context, confirm, fail, json_option, pass_context, yes_option
from .dead_groups import RATE, groups, in_batches, letters, show_groups
from .exits import Exit
from .explain import MOST_DEAD, dead_letter
from .formatting import are, count
from .jobs import as_data, name_of, show
from .searching import Search, search_options
from .topics import doubt
from .types import JOB_ID, LIMIT, TEXT, TOPIC

F = TypeVar("F", bound=Callable[..., Any])
ALL = 1_000_000
MOST_HELD = 1000
"""Most dead letters that are looked up to say why some were not retried; each is a round trip or two."""


def _selecting(command: F) -> F:
    """Add the options that select dead letters to a command."""
    command = search_options(command)
    command = click.option("--group", type=TEXT, help="Every dead letter of this group (see `jobsctl dead groups`).")(command)
    return click.option("--topic", type=TOPIC, help="Every dead letter of this topic, instead of ids.")(command)


@click.group("dead")
def dead_command() -> None:
    """List, group, show, retry and delete dead letters."""


@dead_command.command("list")
@click.argument("topic", required=False, type=TOPIC)
@click.option("--limit", type=LIMIT, default=50, show_default=True, help="List at most this many of a topic.")
@click.option("--group", type=TEXT, help="Only dead letters of this group (see `jobsctl dead groups`).")
@search_options
@json_option
@pass_context
def list_dead(context: Context, topic: str | None, limit: int, group: str | None, as_json: bool, search: Search) -> None:
    """List dead letters, newest first, of TOPIC or of all topics."""
    _doubt(context, topic)
    if group or search.given:
        records = list(itertools.islice(letters(context, topic, search, group), limit))
    else:
        records = context.operate(lambda backend: _dead(backend, topic, limit))
    if as_json:
        output.json([as_data(context, record) for record in records])
        return
    rows = [
        (
            record.id,
            record.topic,
            name_of(context, record),
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
        output.json(as_data(context, record))
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
    _doubt(context, topic)
    show_groups(groups(context, topic, search), as_json)


@dead_command.command("retry")
@click.argument("job_ids", metavar="[ID]...", nargs=-1, type=JOB_ID)
@_selecting
@click.option("--rate", type=RATE, metavar="RATE", help='Retry at most this many in a period, such as "10/s"; not with ids.')
@yes_option
@pass_context
def retry_dead(
    context: Context,
    job_ids: tuple[str, ...],
    topic: str | None,
    group: str | None,
    rate: float | None,
    yes: bool,
    search: Search,
) -> None:
    """Make dead letters ready again and reset their attempts: those with these ids, or all that the options select.

    Those that the options select are retried in batches of up to 100. If you interrupt the command, no batch is half done:
    repeat it to continue.
    """
    if _by_ids(job_ids, topic, group, search):
        done, missed = _one_by_one(context, job_ids, lambda backend, ids: backend.requeue(ids))
        output.echo(f"{are(done, 'job')} ready again")
        _tell_missed(context, missed)
        return
    ids = _selected(context, topic, group, search)
    confirm(f"Run {count(len(ids), 'dead letter')}{_of(topic, group)} again?", yes)
    done = in_batches(context, ids, lambda backend, batch: backend.requeue(batch), rate)
    output.echo(f"{are(done, 'job')} ready again")
    if done < len(ids):
        _tell_held(context, ids)


@dead_command.command("purge")
@click.argument("job_ids", metavar="[ID]...", nargs=-1, type=JOB_ID)
@_selecting
@yes_option
@pass_context
def purge_dead(
    context: Context, job_ids: tuple[str, ...], topic: str | None, group: str | None, yes: bool, search: Search
) -> None:
    """Delete dead letters for good: those with these ids, or all that the options select."""
    if _by_ids(job_ids, topic, group, search):
        confirm(f"Delete {count(len(job_ids), 'dead letter')} for good?", yes)
        deleted, missed = _one_by_one(context, job_ids, lambda backend, ids: backend.drop(ids))
    elif group or search.given:
        ids = _selected(context, topic, group, search)
        confirm(f"Delete {count(len(ids), 'dead letter')}{_of(topic, group)} for good?", yes)
        missed = []
        deleted = in_batches(context, ids, lambda backend, batch: backend.drop(batch))
    else:
        assert topic is not None
        _doubt(context, topic)
        confirm(f"Delete all dead letters of {topic} for good?", yes)
        missed = []
        deleted = context.operate(lambda backend: backend.purge(topic, State.DEAD))
    output.echo(f"{count(deleted, 'dead letter')} deleted")
    _tell_missed(context, missed)


def _by_ids(job_ids: Sequence[str], topic: str | None, group: str | None, search: Search) -> bool:
    """Return whether a command names its dead letters by id; end it unless it either names some or selects some by options."""
    if bool(job_ids) == bool(topic or group or search.given):
        fail("give ids, or a topic with --topic, a group with --group or a filter such as --job; not both", Exit.USAGE)
    return bool(job_ids)


def _selected(context: Context, topic: str | None, group: str | None, search: Search) -> list[str]:
    """Return the ids of the dead letters that a command selects; end it if a group has none."""
    _doubt(context, topic)
    if topic and not group and not search.given:
        return [record.id for record in context.operate(lambda backend: _dead(backend, topic, ALL))]
    ids = [record.id for record in letters(context, topic, search, group)]
    if group and not ids:
        fail(f"no dead letters in group {group}: `jobsctl dead groups` lists the groups")
    return ids


def _of(topic: str | None, group: str | None) -> str:
    return (f" of {topic}" if topic else "") + (f" in group {group}" if group else "")


def _one_by_one(context: Context, job_ids: Sequence[str], action: Callable[[Backend, list[str]], int]) -> tuple[int, list[str]]:
    """Apply an action to each id. Return how many were dead letters, and the ids that were not.

    There is one call for each id, because a backend returns only the number of jobs that it has changed.
    """
    ids = list(dict.fromkeys(map(context.whole_id, job_ids)))
    missed = [job_id for job_id in ids if not context.operate(functools.partial(_one, action, job_id))]
    return len(ids) - len(missed), missed


def _one(action: Callable[[Backend, list[str]], int], job_id: str, backend: Backend) -> int:
    return action(backend, [job_id])


def _tell_missed(context: Context, ids: list[str]) -> None:
    """Report that these ids are not dead letters, with their actual states, and end the command as failed if there are any."""
    for job_id in ids:
        output.echo(f"jobs: {job_id}{_instead(context, job_id)}", err=True)
    if ids:
        raise click.exceptions.Exit(Exit.FAILED)


def _instead(context: Context, job_id: str) -> str:
    """Return the end of the sentence about an id that could not be retried or deleted."""
    try:
        record, held = context.operate(lambda backend: _looked_up(backend, job_id))
    except NotSupported:
        return " is not in the dead letters"
    if held:
        return f" cannot be retried, because {held}; `jobsctl dead purge {job_id}` deletes it"
    return " is not in the dead letters" + (f": it is {record.state.value}" if record else ": unknown job")


def _looked_up(backend: Backend, job_id: str) -> tuple[JobRecord | None, str]:
    """Return a job, and why it stays dead: its flow refused it, was cancelled, or forgotten."""
    record = backend.get(job_id)
    if record is None or record.member is None or record.state is not State.DEAD:
        return record, ""
    if was_refused(record.id, record.reason):
        return record, "its flow refused it: enqueue the job anew"
    flow = backend.flow(record.member.flow)
    if flow is None:
        return record, f"its flow {record.member.flow} ended longer ago than its ttl"
    return record, f"its flow {flow.id} was cancelled" if flow.state == "cancelled" else ""


def _tell_held(context: Context, ids: Sequence[str]) -> None:
    """Report how many of these dead letters stay, for each reason. Looks up the first MOST_HELD one by one."""
    found = context.operate(
        lambda backend: [_looked_up(backend, each)[1] for each in ids[:MOST_HELD]] if "flows" in backend.features else []
    )
    for held, number in collections.Counter(filter(None, found)).items():
        output.echo(f"jobs: {count(number, 'dead letter')} cannot be retried, because {held}", err=True)


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


def _doubt(context: Context, topic: str | None) -> None:
    if topic and (reason := context.operate(lambda backend: doubt(context, backend, topic))):
        output.echo(f"jobs: {reason}", err=True)


def _dead(backend: Backend, topic: str | None, limit: int) -> list[JobRecord]:
    topics = [topic] if topic else backend.topics()
    return [record for name in topics for record in backend.browse(name, State.DEAD, limit)]


def _when(record: JobRecord) -> str:
    return shown_time(record.since or 0.0)


def last_error(record: JobRecord) -> str:
    """Return the last error of a dead letter in one line, without its type if that is the reason."""
    if not record.errors:
        return ""
    error = msgspec.json.decode(record.errors[-1])
    message = str(error.get("message") or "")
    told = message if error.get("type") == record.reason else f"{error.get('type')}: {message}"  # the reason has its own column
    return (told.splitlines() or [""])[0][:120]
