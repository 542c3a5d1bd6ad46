"""`jobsctl outbox`: the jobs that transactions of the application have left in its database, for the backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from .. import urls
from ..backends.outbox import MOST_COUNTED, Outbox, OutboxState
from ..errors import ConfigError
from ..supervisor.housekeeper.carrier import Carrier
from ..units import count, format_duration
from . import output
from .common import Context, confirm, fail, json_option, pass_context, yes_option
from .exits import Exit
from .groups import DefaultsToList
from .types import LIMIT
from .waiting import waiting


@click.group("outbox", cls=DefaultsToList)
def outbox_command() -> None:
    """Show and repair jobs that wait in the database of the application; `jobsctl outbox` alone lists them."""


@outbox_command.command("list")
@click.option("--limit", "most", type=LIMIT, default=50, show_default=True, help="List at most this many refused jobs.")
@json_option
@pass_context
def list_command(context: Context, most: int, as_json: bool) -> None:
    """Count the jobs in the outbox, and list those that the backend has refused, with the reason."""
    with _opened(context) as outbox:
        state, refused = outbox.state(), outbox.refused(most)
    if as_json:
        output.json({"waiting": state.waiting, "oldest_age": state.oldest_age, "refused": refused})
        return
    output.echo(told(state))
    if refused:
        rows = [
            (job.id, job.topic, format_duration(round(job.age)), job.tries, _next(job.next_try), job.reason) for job in refused
        ]
        output.table(["job", "topic", "for", "tries", "next try", "reason"], rows)


@outbox_command.command("retry")
@click.argument("job_ids", nargs=-1, required=True, metavar="ID...")
@pass_context
def retry_command(context: Context, job_ids: tuple[str, ...]) -> None:
    """Try refused jobs at once."""
    with _opened(context) as outbox:
        found = outbox.retry(job_ids)
    output.echo(f"{count(found, 'job')} will be tried at once")
    _end(found, len(job_ids))


@outbox_command.command("drop")
@click.argument("job_ids", nargs=-1, required=True, metavar="ID...")
@yes_option
@pass_context
def drop_command(context: Context, job_ids: tuple[str, ...], yes: bool) -> None:
    """Delete jobs from the outbox: they are never enqueued."""
    confirm(f"Delete {count(len(job_ids), 'job')} from the outbox, never to be enqueued?", yes)
    with _opened(context) as outbox:
        found = outbox.drop(job_ids)
    output.echo(f"{count(found, 'job')} deleted")
    _end(found, len(job_ids))


@outbox_command.command("carry")
@pass_context
def carry_command(context: Context) -> None:
    """Carry all jobs to the backend, here and now. A supervisor does this all the time; this is for workers without one."""
    _require(context)
    context.require_shared_queue()
    with waiting(f"{_shown(context)} to answer"):
        carried = Carrier(context.app, lambda state: None).carry_all()
    if carried is None:
        fail("another process carries the jobs of this outbox already, such as the supervisor on this or another machine")
    output.echo(f"{count(carried, 'job')} carried to the backend")


@outbox_command.command("setup")
@pass_context
def setup_command(context: Context) -> None:
    """Create the tables of the outbox, so that the application needs no permission to do so."""
    _require(context)
    with waiting(f"{_shown(context)} to answer"):
        context.app.new_outbox().setup()
    output.echo("the outbox is set up")


def told(state: OutboxState) -> str:
    """Return a sentence about the jobs in an outbox."""
    if not state.waiting:
        return "the outbox is empty"
    more = " or more" if state.waiting >= MOST_COUNTED else ""
    oldest = f", the oldest for {format_duration(round(state.oldest_age or 0.0))}"
    refused = f"; the backend has refused {state.refused:,} of them" if state.refused else ""
    return f"{count(state.waiting, 'job')}{more} in the outbox{oldest}{refused}"


@contextlib.contextmanager
def _opened(context: Context) -> Iterator[Outbox]:
    _require(context)
    outbox = context.app.new_outbox()
    try:
        with waiting(f"{_shown(context)} to answer"):
            outbox.open()
        yield outbox
    finally:
        outbox.close()


def _require(context: Context) -> None:
    if context.app.config.outbox.url is None:
        raise ConfigError('outbox.url: there is no outbox: set it to the database of the application ([outbox] url = "...")')


def _shown(context: Context) -> str:
    return urls.redact(context.app.config.outbox.url or "")


def _next(seconds: float) -> str:
    return "now" if seconds <= 0 else f"in {format_duration(round(seconds))}"


def _end(found: int, asked: int) -> None:
    if found < asked:
        output.echo(f"jobs: {count(asked - found, 'id')} not found: `jobsctl outbox` lists the refused jobs", err=True)
        raise click.exceptions.Exit(Exit.FAILED)
