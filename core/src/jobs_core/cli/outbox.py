"""`jobsctl outbox`: the jobs that transactions of the application have left in its database, for the backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import click

from .. import urls
from ..backends.base import Backend
from ..backends.outbox import Outbox, OutboxItem
from ..errors import ConfigError
from ..operating.in_outbox import next_try, told
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
    """Count the jobs in the outbox, and list the jobs and flows that the backend has refused, with the reason."""
    with _opened(context) as outbox:
        state, refused = outbox.state(), outbox.refused(most)
    if as_json:
        output.json({"waiting": state.waiting, "oldest_age": state.oldest_age, "refused": refused})
        return
    output.echo(told(state))
    if refused:
        rows = [
            (item.id, _what(item), format_duration(round(item.age)), item.tries, next_try(item.next_try or 0.0), item.reason)
            for item in refused
        ]
        output.table(["id", "topic", "for", "tries", "next try", "reason"], rows)


@outbox_command.command("retry")
@click.argument("job_ids", nargs=-1, required=True, metavar="ID...")
@pass_context
def retry_command(context: Context, job_ids: tuple[str, ...]) -> None:
    """Try refused jobs and flows again at once; ID is that of a job or of a flow."""
    with _opened(context) as outbox:
        found = outbox.retry(job_ids)
    output.echo(f"{count(found, 'job or flow', 'jobs or flows')} will be tried at once")
    _end(found, len(job_ids))


@outbox_command.command("drop")
@click.argument("job_ids", nargs=-1, required=True, metavar="ID...")
@yes_option
@pass_context
def drop_command(context: Context, job_ids: tuple[str, ...], yes: bool) -> None:
    """Delete jobs and flows from the outbox: they are never enqueued. A flow that has been carried in part is cancelled."""
    confirm(f"Delete {count(len(job_ids), 'job or flow', 'jobs or flows')} from the outbox, never to be enqueued?", yes)
    with _opened(context) as outbox:
        found = outbox.drop(job_ids)
    if found:
        context.operate(lambda backend: _cancel_parts(backend, job_ids))
    output.echo(f"{count(found, 'job or flow', 'jobs or flows')} deleted")
    _end(found, len(job_ids))


@outbox_command.command("carry")
@pass_context
def carry_command(context: Context) -> None:
    """Carry all jobs to the backend once. A supervisor does this continuously; use it for workers without one."""
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
    """Create the tables of the outbox, so that the application needs no permission to create them."""
    _require(context)
    with waiting(f"{_shown(context)} to answer"):
        context.app.new_outbox().setup()
    output.echo("the outbox is set up")


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


def _cancel_parts(backend: Backend, ids: Sequence[str]) -> None:
    """Cancel the flows of which the backend has some parts, to which no further part will come."""
    for flow_id in ids if "flows" in backend.features else ():
        flow = backend.flow(flow_id)
        if flow is not None and flow.state == "open":
            backend.cancel_flow(flow_id)


def _what(item: OutboxItem) -> str:
    if item.members is None:
        return item.topic
    return f"flow {item.topic}".rstrip() + f" of {count(item.members, 'member')}"


def _end(found: int, asked: int) -> None:
    if found < asked:
        output.echo(f"jobs: {count(asked - found, 'id')} not found: `jobsctl outbox` lists the refused jobs", err=True)
        raise click.exceptions.Exit(Exit.FAILED)
