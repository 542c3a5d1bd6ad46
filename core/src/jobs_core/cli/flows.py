"""`jobsctl flows`, `flow show`, `flow cancel`, `flow retry`: flows of jobs that wait for one another."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from .. import boundary
from ..backends.base import Backend
from ..backends.flows import MOST_LISTED, FlowStatus, MemberStatus
from ..backends.letters import GIVE_UP_EXPIRED
from ..errors import BackendError
from ..flows.handle import described
from ..operating.dead import retry_flow
from ..operating.flow_tree import held_up, known, tree
from ..operating.ids import MOST_FLOWS, MOST_SHOWN, SHORTEST, AmbiguousId
from ..operating.in_outbox import explained, look, told
from ..units import count, format_duration
from . import output
from .common import Context, fail, json_option, pass_context
from .types import JOB_ID, LIMIT


@click.command("flows")
@click.option("--limit", "most", type=LIMIT, default=50, show_default=True, help="List at most this many.")
@json_option
@pass_context
def flows_command(context: Context, most: int, as_json: bool) -> None:
    """List flows with the progress of their members: the failed ones first, then those that run, then the others."""
    found = context.operate(lambda backend: backend.flows(most))
    if as_json:
        output.json([msgspec.to_builtins(flow) for flow in found])
        return
    columns = ["id", "name", "state", "members", "waiting", "in work", "done", "dead", "cancelled", "age"]
    output.table(columns, map(_row, found), empty="no flows")
    if context.app.config.outbox.url:
        _tell_of_outbox(context)


def _tell_of_outbox(context: Context) -> None:
    """Say how many jobs the outbox holds: flows among them are not in the list."""
    try:
        state, _ = look(context.app)
    except BackendError as error:
        output.echo(f"jobs: flows that are still in the outbox cannot be counted: {boundary.text_of(error)}", err=True)
        return
    if state.waiting:
        output.echo(f"jobs: {told(state)}: flows among them are not listed until they are carried", err=True)


def _row(flow: FlowStatus) -> tuple[Any, ...]:
    age = format_duration(max(0, round(flow.broker_now - flow.created_at)))
    counts = (flow.total, flow.waiting, flow.active, flow.done, flow.dead, flow.cancelled)
    return (flow.id, flow.name, flow.state, *counts, age)


@click.group("flow")
def flow_command() -> None:
    """Show, cancel and retry one flow."""


@flow_command.command("show")
@click.argument("job_id", metavar="ID", type=JOB_ID)
@click.option("--limit", "most", type=LIMIT, default=200, show_default=True, help="Show at most this many members.")
@json_option
@pass_context
def show_command(context: Context, job_id: str, most: int, as_json: bool) -> None:
    """Show a flow: its progress, what holds it up, and its members, each under what it waits for.

    ID is that of the flow, or its beginning. Of more than 1,000 members, only those that have not ended are known. Of more than
    --limit, the dead ones are shown first.
    """
    waiting = context.app.in_outbox(job_id)
    scheduled = None if waiting is None else context.app.flow_status(waiting.id)
    if waiting is not None and scheduled is not None and scheduled.state == "scheduled":
        flow, members = scheduled, list[MemberStatus]()
    else:
        flow, members = context.operate(lambda backend: _look(backend, job_id, most))
    if as_json:
        output.json({**msgspec.to_builtins(flow), "members": [_as_data(member) for member in members]})
        return
    output.facts({"id": flow.id, "name": flow.name})
    output.echo(described(flow))
    if waiting is not None:
        output.echo(f"- {explained(waiting)}")
    for line in held_up(flow, members):
        output.echo(f"- {line}")
    if members:
        output.echo()
    more = 0 if flow.state == "scheduled" else known(flow) - len(members)
    for line in tree(members, whole=more <= 0):
        output.echo(line)
    if more > 0:
        output.echo(f"… and {count(more, 'more member')} (--limit)")
    if flow.total > MOST_LISTED:
        output.echo("of so large a flow, members that have ended are not listed")


def _look(backend: Backend, text: str, most: int) -> tuple[FlowStatus, list[MemberStatus]]:
    """Return a flow, and up to `most` of its members: the dead ones before any others, because they hold it up."""
    flow = find(backend, text)
    dead = []
    if flow.dead and flow.state != "cancelled" and known(flow) > most:
        dead = _members(backend, flow.id, most, dead=True)
    found = _members(backend, flow.id, most)
    ids, place = {member.id for member in dead}, {member.id: number for number, member in enumerate(found)}
    chosen = [*dead, *(member for member in found if member.id not in ids)][:most]
    return flow, sorted(chosen, key=lambda member: place.get(member.id, most))


def _members(backend: Backend, flow_id: str, most: int, **which: bool) -> list[MemberStatus]:
    """Read up to `most` members, in pages of as many as a backend lists at once."""
    found: list[MemberStatus] = []
    for offset in range(0, most, MOST_LISTED):
        page = backend.flow_members(flow_id, min(most - offset, MOST_LISTED), offset, **which)
        if not page:
            break
        found += page
    return found


def _as_data(member: MemberStatus) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(member)
    return data


@flow_command.command("cancel")
@click.argument("job_id", metavar="ID", type=JOB_ID)
@click.option("--finale", is_flag=True, help="Still run the members that come after all others.")
@pass_context
def cancel_command(context: Context, job_id: str, finale: bool) -> None:
    """Cancel all members of a flow that have not ended. No member starts afterwards; running ones are told to stop."""
    if context.operate(lambda backend: backend.flow(job_id)) is None and context.app.withdraw(job_id):
        output.echo(f"{job_id} deleted from the outbox: nothing of it runs")
        return
    flow = context.operate(lambda backend: find(backend, job_id))
    if not context.operate(lambda backend: backend.cancel_flow(flow.id, finale=finale)):
        fail(f"flow {flow.id} has ended: it is {flow.state}")
    but = '; its finale still runs, but not members with when="done" that wait for a cancelled one'
    output.echo(f"{flow.id} cancelled{but if finale else ''}")


@flow_command.command("retry")
@click.argument("job_id", metavar="ID", type=JOB_ID)
@pass_context
def retry_command(context: Context, job_id: str) -> None:
    """Run the dead members of a flow again, and then what waits for them. Those that have expired stay dead."""
    flow = context.operate(lambda backend: find(backend, job_id))
    retried, expired = context.operate(lambda backend: retry_flow(backend, flow.id))
    if retried:
        output.echo(f"{count(retried, 'member')} requeued")
    if expired:
        they = "1 dead member has" if expired == 1 else f"{expired:,} dead members have"
        fail(f"{they} expired: {GIVE_UP_EXPIRED}; `jobsctl flow show {flow.id}` names them")
    if not retried:
        hint = f"; `jobsctl flow show {flow.id}` says why" if flow.state == "failed" else ""
        fail(f"flow {flow.id} has no dead member that can be retried: it is {flow.state}{hint}")


def find(backend: Backend, text: str) -> FlowStatus:
    """Return the flow whose id is, or begins with, `text`; end the command if there is none, or several."""
    found = backend.flow(text)
    if found is not None:
        return found
    if len(text) >= SHORTEST:
        alike = [flow for flow in backend.flows(MOST_FLOWS) if flow.id.startswith(text)]
        if len(alike) > 1:
            raise AmbiguousId(text, sorted(flow.id for flow in alike)[: MOST_SHOWN + 1])
        if alike:
            return alike[0]
    record = backend.get(text) if "lookup" in backend.features else None
    if record is None:
        said = f"unknown flow {text}: it was never sent, was dropped, or ended longer ago than its ttl"
    elif record.member is None:
        said = f"{text} is a job, not a flow, and does not say of which flow it is: `jobsctl show {text}` shows it"
    else:
        said = f"{text} is a job of flow {record.member.flow}: `jobsctl flow show {record.member.flow}` shows it"
    return fail(said)
