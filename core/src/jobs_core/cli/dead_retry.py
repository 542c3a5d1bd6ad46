"""`jobsctl dead retry`, `dead drop` and `dead actions`: what is done with dead letters, one by one or in batches."""

from __future__ import annotations

import collections
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click
import msgspec
from msgspec import Struct

from .. import dead_actions
from ..amending import INSTEAD
from ..backends.base import Backend, JobRecord, State
from ..dead_actions import PAST, Do
from ..errors import BackendError, BackendUnavailable, JobsError, NotSupported
from ..escapes import in_one_line
from ..operating import dead
from ..operating.formatting import are, count
from ..operating.searching import PAGE, Search
from . import output
from .common import Context, confirm, fail, json_option, pass_context, yes_option
from .dead_editing import UNCHANGED, Change, change_options, prepare_for
from .dead_groups import RATE, in_batches, letters
from .exits import Exit
from .searching import search_options
from .topics import doubt
from .types import JOB_ID, TEXT, TOPIC

F = TypeVar("F", bound=Callable[..., Any])

MOST_HELD = 1000
"""Most dead letters that are looked up to say why some were not retried; each is a round trip or two."""

MOST_TOLD = 5
"""Most dead letters that were not retried of which the reason is shown."""


def _selecting(command: F) -> F:
    """Add the options that select dead letters to a command."""
    command = search_options(command)
    command = click.option(
        "--background", is_flag=True, help="Leave the work to the supervisors, which continue if one of them is killed."
    )(command)
    command = click.option(
        "--rate", type=RATE, metavar="RATE", help='At most this many dead letters in a period, such as "10/s".'
    )(command)
    group_help = "Every dead letter of this group (see `jobsctl dead groups`)."
    command = click.option("--group", metavar="GROUP", type=TEXT, help=group_help)(command)
    return click.option("--topic", type=TOPIC, help="Every dead letter of this topic, instead of ids.")(command)


class Selection(Struct, frozen=True):
    """The dead letters that a command takes."""

    topic: str | None
    group: str | None
    search: Search

    @property
    def given(self) -> bool:
        return bool(self.topic or self.group or self.search.given)

    def __str__(self) -> str:
        return (f" of {self.topic}" if self.topic else "") + (f" in group {self.group}" if self.group else "")


@click.command("retry")
@click.argument("job_ids", metavar="[ID]...", nargs=-1, type=JOB_ID)
@_selecting
@change_options
@yes_option
@pass_context
def retry_dead(
    context: Context,
    job_ids: tuple[str, ...],
    topic: str | None,
    group: str | None,
    rate: float | None,
    background: bool,
    yes: bool,
    search: Search,
    change: Change,
) -> None:
    """Make dead letters ready again and reset their attempts: those with these ids, or all that the options select.

    Those that the options select are retried in batches of up to 100. If you interrupt the command, no batch is half done, and
    it says how to continue.

    With --edit, --args, --kwargs or --set, they run with other arguments, which are checked against the signature of the job
    function first; the id stays the same. A dead letter whose new arguments do not fit is not retried.

    A dead letter that has expired is not retried: it would expire again at once.
    """
    chosen = Selection(topic, group, search)
    if change.is_of_one and len(job_ids) != 1:
        fail("--edit, --args and --kwargs are for one dead letter: give its id, or use --set NAME=VALUE", Exit.USAGE)
    retrying = _Retrying(context, change)
    if _by_ids(job_ids, chosen):
        _refuse_background(background)
        prepare_for(context, change)
        done, missed = _one_by_one(context, job_ids, retrying.one, rate)
        output.echo(f"{are(done, 'job')} ready again{_in(change)}")
        _tell_missed(context, [job_id for job_id in missed if job_id not in retrying.reasons])
        retrying.tell()
        return
    if background:
        prepare_for(context, change)
        _start(context, "retry", chosen, rate, yes, change)
        return
    ids = _selected(context, chosen, retrying.expired)
    confirm(f"Run {count(len(ids), 'dead letter')}{chosen} again{_in(change)}?", yes)
    prepare_for(context, change)
    done = in_batches(ids, retrying, rate, "are ready again")
    output.echo(f"{are(done, 'job')} ready again{_in(change)}")
    if done < len(ids):
        _tell_held(context, [job_id for job_id in ids if job_id not in retrying.reasons])
    retrying.tell()


@click.command("drop")
@click.argument("job_ids", metavar="[ID]...", nargs=-1, type=JOB_ID)
@_selecting
@yes_option
@pass_context
def drop_dead(
    context: Context,
    job_ids: tuple[str, ...],
    topic: str | None,
    group: str | None,
    rate: float | None,
    background: bool,
    yes: bool,
    search: Search,
) -> None:
    """Delete dead letters for good: those with these ids, or all that the options select.

    Those that the options select are deleted in batches of up to 100. If you interrupt the command, it says how to continue.
    """
    chosen = Selection(topic, group, search)
    missed: list[str] = []
    if _by_ids(job_ids, chosen):
        _refuse_background(background)
        confirm(f"Delete {count(len(job_ids), 'dead letter')} for good?", yes)
        deleted, missed = _one_by_one(context, job_ids, functools.partial(_drop, context), rate)
    elif background:
        _start(context, "drop", chosen, rate, yes)
        return
    elif group or search.given or rate is not None:
        ids = _selected(context, chosen)
        confirm(f"Delete {count(len(ids), 'dead letter')}{chosen} for good?", yes)
        deleted = in_batches(ids, functools.partial(_drop, context), rate, "are deleted")
    else:
        assert topic is not None
        doubt_topic(context, topic)
        confirm(f"Delete all dead letters of {topic} for good?", yes)
        deleted = context.operate(lambda backend: backend.purge(topic, State.DEAD))
    output.echo(f"{count(deleted, 'dead letter')} deleted")
    _tell_missed(context, missed)


def alias(command: click.Command, name: str) -> click.Command:
    """Return a command under a former name, which help does not list."""
    return click.Command(name, callback=command.callback, params=command.params, help=command.help, hidden=True)


@click.command("actions")
@click.option("--cancel", metavar="ID", type=JOB_ID, help="Cancel this action: the batch that is under way is its last one.")
@json_option
@pass_context
def actions_command(context: Context, cancel: str | None, as_json: bool) -> None:
    """Show what supervisors do with dead letters in the background, and what they have done in the last week.

    `dead retry` and `dead drop` start an action with --background. One supervisor carries it out; if it is killed, another one,
    or the next one to start, continues within 15 seconds.
    """
    found = context.operate(lambda backend: dead_actions.listed(context.app, backend))
    if cancel is not None:
        ids = [each.id for each in found if each.id.startswith(cancel) and each.state in ("waiting", "running")]
        if len(ids) != 1:
            these = "several actions have" if ids else "no action that goes on has"
            fail(f"{these} the id {cancel}: see `jobsctl dead actions`")
        context.operate(lambda backend: dead_actions.cancel(backend, ids[0]))
        output.echo(f"action {ids[0]} is cancelled")
        return
    if as_json:
        output.json([_as_data(each) for each in found])
        return
    rows = [
        (
            each.id, each.state, each.progress.action.does, ", ".join(each.progress.action.topics), each.progress.action.group,
            in_one_line(str(each.progress.action.search)), f"{each.progress.done:,} of {each.progress.action.total:,}",
            each.progress.others or "", each.progress.kept or "",
            "" if each.progress.action.rate is None else f"{each.progress.action.rate:g}/s", each.progress.action.to,
            each.progress.machine, each.progress.action.by, in_one_line(each.progress.error),
        )
        for each in found
    ]  # fmt: skip
    columns = [
        "id", "state", "does", "topics", "group", "filters", "done", "others", "kept", "rate", "to", "machine", "by", "error",
    ]  # fmt: skip
    output.table(columns, rows, empty="no actions on dead letters")


def _as_data(each: dead_actions.Listed) -> dict[str, object]:
    progress, action = each.progress, each.progress.action
    return {
        "id": each.id, "state": each.state, "do": action.does, "topics": action.topics, "group": action.group,
        "filters": msgspec.to_builtins(action.search), "total": action.total, "done": progress.done,
        "others": progress.others, "kept": progress.kept, "rate": action.rate, "to": action.to,
        "values": action.values, "machine": progress.machine, "by": action.by, "error": progress.error,
    }  # fmt: skip


# -- selecting ---------------------------------------------------------------------------------------


def _by_ids(job_ids: Sequence[str], chosen: Selection) -> bool:
    """Return whether a command names its dead letters by id; end it unless it either names some or selects some by options."""
    if bool(job_ids) == chosen.given:
        fail("give ids, or a topic with --topic, a group with --group or a filter such as --job; not both", Exit.USAGE)
    return bool(job_ids)


def _selected(context: Context, chosen: Selection, leave: Callable[[JobRecord], bool] = lambda record: False) -> list[str]:
    """Return the ids of the dead letters that a command selects, but those to `leave`; end it if a group has none."""
    topic, group, search = chosen.topic, chosen.group, chosen.search
    doubt_topic(context, topic)
    if topic and not group and not search.given:
        return [record.id for record in _letters_of(context, topic) if not leave(record)]
    found, ids = 0, []
    for record in letters(context, topic, search, group):
        found += 1
        if not leave(record):
            ids.append(record.id)
    if group and not found:
        fail(no_letters_in(group))
    return ids


def no_letters_in(group: str) -> str:
    """Return the message for a group that has no dead letters, perhaps mistyped."""
    return f"no dead letters in group {group}: `jobsctl dead groups` lists the groups"


def _letters_of(context: Context, topic: str) -> Iterator[JobRecord]:
    for offset in itertools.count(0, PAGE):
        page = context.operate(lambda backend, offset=offset: backend.browse(topic, State.DEAD, PAGE, offset))  # type: ignore[misc]
        yield from page
        if len(page) < PAGE:
            return


def doubt_topic(context: Context, topic: str | None) -> None:
    """Say if there is probably no such topic."""
    if topic and (reason := context.operate(lambda backend: doubt(context, backend, topic))):
        output.echo(f"jobs: {reason}", err=True)


# -- in the background -------------------------------------------------------------------------------


def _refuse_background(background: bool) -> None:
    if background:
        fail("--background is for a topic, a group or filters: leave it out", Exit.USAGE)


def _start(context: Context, do: Do, chosen: Selection, rate: float | None, yes: bool, change: Change = UNCHANGED) -> None:
    """Start an action that the supervisors carry out."""
    doubt_topic(context, chosen.topic)
    topics = [chosen.topic] if chosen.topic else context.operate(lambda backend: backend.topics())
    group, to, values, search = chosen.group or "", change.to, dict(change.values), chosen.search
    total = sum(each.letters for each in context.operate(lambda backend: dead.chosen(backend, topics, group)))
    if not total:
        fail(f"no dead letters{chosen}: `jobsctl dead groups` lists the groups")
    if values:
        trial = context.operate(lambda backend: dead.tried(context.app, backend, topics, group, values, to, search))
        if trial.misfits and not trial.fits:
            fail(f"none of the first {count(trial.read, 'dead letter')} can be changed like that: {trial.why}")
    letters_ = f"{count(total, 'dead letter')}{chosen}"
    if search.given:
        letters_ = f"those of {letters_} that the filters select"
    then = f" again{_in(change)}" if do == "retry" else " for good"
    confirm(f"{'Run' if do == 'retry' else 'Delete'} {letters_}{then}, in the background?", yes)
    name, total = context.operate(
        lambda backend: dead.start(context.app, backend, do, topics, group, rate, to, values, search=search)
    )
    these = f"of {count(total, 'dead letter')}, those that the filters select" if search.given else count(total, "dead letter")
    output.echo(f"action {name} is started: {these} will be {PAST['edit' if values else do]}")
    output.echo(f"`jobsctl dead actions` shows it, `jobsctl dead actions --cancel {name}` cancels it", err=True)


# -- steps -------------------------------------------------------------------------------------------


def _drop(context: Context, ids: list[str]) -> int:
    return context.operate(lambda backend: backend.drop(ids))


class _Retrying:
    """Retries dead letters, each changed first if that is wanted; `reasons` says why some were not retried."""

    def __init__(self, context: Context, change: Change) -> None:
        self._context = context
        self._change = change
        self.reasons: dict[str, str] = {}

    def expired(self, record: JobRecord) -> bool:
        """Return whether a letter has expired, and is not retried."""
        if not dead.has_expired(record):
            return False
        self.reasons[record.id] = dead.HAS_EXPIRED
        return True

    def one(self, ids: list[str]) -> int:
        """Retry a letter of which nothing is known yet."""
        record = self._context.operate(lambda backend: backend.get(ids[0]) if "lookup" in backend.features else None)
        return 0 if record is not None and self.expired(record) else self(ids)

    def __call__(self, ids: list[str]) -> int:
        if self._change.given:
            ids = self._changed(ids)
        return self._context.operate(lambda backend: backend.requeue(ids)) if ids else 0

    def _changed(self, ids: list[str]) -> list[str]:
        """Change dead letters; return the ids of those that were changed, or had been before this command was interrupted."""
        found = self._context.operate(lambda backend: self._records(backend, ids))
        payloads: list[tuple[JobRecord, bytes]] = []
        for record in found:
            try:
                payloads.append((record, self._change.payload(self._context, record)))
            except JobsError as error:
                if self._change.is_of_one:
                    raise
                self.reasons[record.id] = str(error)
        return self._context.operate(lambda backend: self._amend(backend, payloads))

    def _records(self, backend: Backend, ids: list[str]) -> list[JobRecord]:
        for feature in ("amend", *(("move",) if self._change.to else ())):
            if feature not in backend.features:
                raise NotSupported(feature, f"{backend.name}://", INSTEAD)
        found = map(backend.get, ids)
        return [record for record in found if record is not None and record.state is State.DEAD]

    def _amend(self, backend: Backend, payloads: Sequence[tuple[JobRecord, bytes]]) -> list[str]:
        amended = []
        for record, payload in payloads:
            try:
                if backend.amend(record.id, record.payload, payload, self._change.to):
                    amended.append(record.id)
                else:
                    self.reasons[record.id] = "it has changed in the meantime"
            except BackendUnavailable:
                raise
            except BackendError as error:  # a member of a flow, which is not moved
                self.reasons[record.id] = str(error)
        return amended

    def tell(self) -> None:
        """Say which dead letters were not retried, and end the command as failed if there are any."""
        for job_id, reason in itertools.islice(self.reasons.items(), MOST_TOLD):
            output.echo(f"jobs: {job_id} was not retried: {reason}", err=True)
        if (more := len(self.reasons) - MOST_TOLD) > 0:
            output.echo(f"jobs: {count(more, 'more dead letter')} {'was' if more == 1 else 'were'} not retried", err=True)
        if self.reasons:
            raise click.exceptions.Exit(Exit.FAILED)


def _in(change: Change) -> str:
    return f" in {change.to}" if change.to else ""


def _one_by_one(
    context: Context, job_ids: Sequence[str], action: Callable[[list[str]], int], rate: float | None
) -> tuple[int, list[str]]:
    """Apply an action to each id, at most `rate` a second. Return how many were dead letters, and the ids that were not.

    There is one call for each id, because a backend returns only the number of jobs that it has changed.
    """
    ids = list(dict.fromkeys(map(context.whole_id, job_ids)))
    missed, began = [], time.monotonic()
    for place, job_id in enumerate(ids):
        if rate is not None:
            time.sleep(max(0.0, began + place / rate - time.monotonic()))
        if not action([job_id]):
            missed.append(job_id)
    return len(ids) - len(missed), missed


def _tell_missed(context: Context, ids: list[str]) -> None:
    """Report that these ids are not dead letters, with their actual states, and end the command as failed if there are any."""
    for job_id in ids:
        output.echo(f"jobs: {job_id}{_instead(context, job_id)}", err=True)
    if ids:
        raise click.exceptions.Exit(Exit.FAILED)


def _instead(context: Context, job_id: str) -> str:
    """Return the end of the sentence about an id that could not be retried or deleted."""
    try:
        record, held = context.operate(lambda backend: dead.held(backend, job_id))
    except NotSupported:
        return " is not in the dead letters"
    if held:
        return f" cannot be retried, because {held}; `jobsctl dead drop {job_id}` deletes it"
    return " is not in the dead letters" + (f": it is {record.state.value}" if record else ": unknown job")


def _tell_held(context: Context, ids: Sequence[str]) -> None:
    """Report how many of these dead letters stay, for each reason. Looks up the first MOST_HELD one by one."""
    found = context.operate(
        lambda backend: [dead.held(backend, each)[1] for each in ids[:MOST_HELD]] if "flows" in backend.features else []
    )
    for held, number in collections.Counter(filter(None, found)).items():
        output.echo(f"jobs: {count(number, 'dead letter')} cannot be retried, because {held}", err=True)
