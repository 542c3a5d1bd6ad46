"""Flows: jobs that wait for one another, as a list and as a tree."""

from __future__ import annotations

from starlette.responses import Response

from jobs_core.backends.base import Backend
from jobs_core.backends.flows import MOST_LISTED, FlowStatus, MemberStatus
from jobs_core.operating.flow_tree import grown, held_up, known, shown_below
from jobs_core.units import count

from ..errors import Refused
from ..visit import Visit

PAGE = 50


def show(visit: Visit) -> Response:
    """List flows: the failed ones first, then those that run."""
    offset = visit.number("offset", 0, 0, 10_000)

    def read(backend: Backend) -> list[FlowStatus] | None:
        return backend.flows(PAGE + 1, offset) if "flows" in backend.features else None

    found = visit.operate(read)
    more = found is not None and len(found) > PAGE
    shown = None if found is None else found[:PAGE]
    return visit.page("flows.html", flows=shown, more=more, offset=offset, page=PAGE)


def flow(visit: Visit) -> Response:
    """Show a flow with its members, each under the last one that it waits for."""
    name = visit.query("id")

    def read(backend: Backend) -> tuple[FlowStatus | None, list[MemberStatus]]:
        found = backend.flow(name)
        return found, [] if found is None else backend.flow_members(name, MOST_LISTED)

    found, members = visit.operate(read)
    if found is None:
        raise Refused(404, f"there is no flow {name}, or it ended longer ago than it is kept")
    whole = len(members) >= known(found)
    return visit.page(
        "flow.html",
        flow=found,
        roots=grown(members, "" if whole else f" of the {len(members):,} read"),
        held=list(held_up(found, members)),
        whole=whole,
        shown_count=len(members),
        shown=lambda node: shown_below(node.below, ""),
    )


def retry(visit: Visit) -> Response:
    """Run the dead members of a flow again."""
    name = visit.field("id")
    number = visit.operate(lambda backend: backend.retry_flow(name))
    said = f"{count(number, 'member')} of the flow will run again." if number else "No member of the flow can be run again."
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
