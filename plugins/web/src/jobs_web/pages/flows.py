"""Flows: jobs that wait for one another, as a list, as a graph and as a tree."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace
from starlette.responses import Response

from jobs_core.backends.base import Backend, State
from jobs_core.backends.flows import MOST_LISTED, SLICE, After, FlowStatus, MemberStatus
from jobs_core.backends.letters import GIVE_UP_EXPIRED
from jobs_core.operating.dead import retry_flow
from jobs_core.operating.flow_tree import grown, held_up, known, shown_below
from jobs_core.units import count

from ..errors import Refused
from ..graphs import GLYPHS, WORDS, drawn, state_of
from ..live import packed
from ..visit import Visit

if TYPE_CHECKING:
    from ..site import Site

PAGE = 50

MOST_ROWS = 50
"""Members that the table beside the graph has: those that have not ended first."""


def show(visit: Visit) -> Response:
    """List flows: the failed ones first, then those that run."""
    offset = visit.number("offset", 0, 0, 10_000)
    found: list[FlowStatus] | None = visit.site.read("flows", str(offset))
    more = found is not None and len(found) > PAGE
    shown = None if found is None else found[:PAGE]
    return visit.page("flows.html", flows=shown, more=more, offset=offset, page=PAGE)


def read_list(site: Site, offset: str) -> list[FlowStatus] | None:
    """Read a page of flows, and one more; None if the backend has none."""
    start = min(int(offset), 10_000) if offset.isascii() and offset.isdecimal() and len(offset) < 10 else 0
    return site.app.operate(lambda backend: backend.flows(PAGE + 1, start) if "flows" in backend.features else None)


def still_list(found: list[FlowStatus] | None) -> bytes:
    """Return what counts as a change of flows: everything but the time."""
    return packed([replace(each, broker_now=0.0) for each in found or ()])


class Seen(Struct, frozen=True):
    """What is read of a flow."""

    flow: FlowStatus
    members: list[MemberStatus]


def read(site: Site, name: str) -> Seen:
    """Read a flow with its members; refuse an unknown one."""

    def look(backend: Backend) -> Seen | None:
        found = backend.flow(name) if "flows" in backend.features else None
        return None if found is None else Seen(found, backend.flow_members(name, MOST_LISTED))

    found = site.app.operate(look)
    if found is None:
        raise Refused(404, f"there is no flow {name}: it never existed, or is no longer kept")
    return found


def still(seen: Seen) -> bytes:
    """Return what counts as a change of a flow: everything but the time."""
    return packed((replace(seen.flow, broker_now=0.0), seen.members))


def flow(visit: Visit) -> Response:
    """Show a flow: its graph, and its members as a table and as a tree."""
    seen: Seen = visit.site.read("flow", visit.query("id"))
    found, members = seen.flow, seen.members
    whole = len(members) >= known(found)
    names = {member.id: member.label or member.id for member in members}
    rows = sorted(members, key=lambda member: _ENDED.get(member.state, 1))[:MOST_ROWS]
    return visit.page(
        "flow.html",
        flow=found,
        roots=grown(members, "" if whole else f" of the {len(members):,} read"),
        held=list(held_up(found, members)),
        whole=whole,
        shown_count=len(members),
        graph=drawn(members),
        glyphs=GLYPHS,
        words=WORDS,
        rows=[(member, state_of(member), _waits_for(member, names)) for member in rows],
        shown=lambda node: shown_below(node.below, ""),
    )


_ENDED = {State.DEAD.value: 0, State.CANCELLED.value: 2, State.DONE.value: 3}


def _waits_for(member: MemberStatus, names: dict[str, str]) -> str:
    """Return what a member is after: the last three names."""
    told = Counter(_target(each, names) for each in member.after)
    shown = [f"{name} ×{number:,}" if number > 1 else name for name, number in list(told.items())[-3:]]
    return ", ".join([*shown, *([f"{len(told) - 3:,} more"] if len(told) > 3 else [])])


def _target(after: After, names: dict[str, str]) -> str:
    if after.kind == "all":
        return "all others"
    return f"stage {after.target}" if after.kind == "stage" else names.get(after.target, after.target)


def retry(visit: Visit) -> Response:
    """Run the dead members of a flow again."""
    name = visit.field("id")
    number, expired = visit.operate(lambda backend: retry_flow(backend, name, SLICE))
    said = f"{count(number, 'member')} of the flow will run again." if number else "No member of the flow can be run again."
    if expired:
        said += f" {count(expired, 'dead member')} {'has' if expired == 1 else 'have'} expired: {GIVE_UP_EXPIRED}."
    return visit.back(said, visit.url("flow", id=name), good=bool(number))


def cancel(visit: Visit) -> Response:
    """Cancel all members of a flow that have not ended."""
    name = visit.field("id")
    question = "Cancel all members of this flow that have not ended?"
    if asked := visit.unsure(question, "A cancelled flow cannot be continued.", visit.url("flow", id=name)):
        return asked
    done = visit.operate(lambda backend: backend.cancel_flow(name))
    return visit.back(
        "The flow is cancelled." if done else "The flow has ended already.", visit.url("flow", id=name), good=done
    )
