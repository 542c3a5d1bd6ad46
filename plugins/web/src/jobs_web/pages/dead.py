"""Dead letters by what went wrong, and what is done with a group of them: at once to a few, by the supervisors to many."""

from __future__ import annotations

from starlette.responses import Response

from jobs_core import dead_actions
from jobs_core.backends.base import Backend, JobRecord
from jobs_core.dead_actions import PAST, Do, Listed
from jobs_core.operating.dead import Group, counted, start
from jobs_core.topics import topic_error
from jobs_core.units import count, interval

from ..errors import Refused
from ..visit import Visit
from .jobs import PAGE, _row

MOST = 100
"""Groups of a topic that the page shows."""

AT_ONCE = 100
"""Dead letters that are retried or dropped in the request itself if the backend has no documents."""


def show(visit: Visit) -> Response:
    """List the groups of dead letters, the largest first."""
    snapshot = visit.site.snapshot()
    dead_in = {name: number.dead for name, number in snapshot.topics.items() if number.dead}

    def read(backend: Backend) -> tuple[list[Group], int] | None:
        if "dead_groups" not in backend.features:
            return None
        return counted(visit.app, backend, list(dead_in), MOST) if dead_in else ([], 0)

    found = visit.operate(read)
    groups, unnamed = found if found is not None else (None, 0)
    return visit.page("dead.html", groups=groups, unnamed=unnamed, topics=dead_in, actions=_actions(visit))


def _actions(visit: Visit) -> list[Listed]:
    """Return the actions of the last week, newest first; none if the backend has no documents."""
    found = visit.operate(lambda backend: dead_actions.listed(visit.app, backend) if "documents" in backend.features else [])
    return list(reversed(found))[:20]


def group(visit: Visit) -> Response:
    """Show a group: what went wrong, its dead letters, and what can be done with them."""
    name = visit.query("id")
    found = _find(visit, name)
    offset = visit.number("offset", 0, 0, 100_000)
    records: list[JobRecord] = []
    for topic in sorted(found.topics):
        room = PAGE + 1 - len(records)
        if room > 0:
            records += visit.operate(lambda backend, topic=topic, room=room: backend.dead_in_group(topic, name, room, offset))  # type: ignore[misc]
    features = visit.operate(lambda backend: backend.features)
    return visit.page(
        "group.html",
        group=found,
        rows=[_row(visit, record) for record in records[:PAGE]],
        more=len(records) > PAGE,
        offset=offset,
        page=PAGE,
        can_move={"amend", "move"} <= features,
        in_background="documents" in features,
    )


def _find(visit: Visit, name: str) -> Group:
    """Return a group by its id; refuse an unknown one."""
    topics = [topic for topic, number in visit.site.snapshot().topics.items() if number.dead]
    groups, _ = visit.operate(lambda backend: counted(visit.app, backend, topics)) if topics else ([], 0)
    found = next((each for each in groups if each.of.id == name), None)
    if found is None:
        raise Refused(404, f"there are no dead letters of group {name} any more")
    return found


def retry(visit: Visit) -> Response:
    """Run the dead letters of a group again, perhaps in another topic, at a rate."""
    return _act(visit, "retry")


def drop(visit: Visit) -> Response:
    """Delete the dead letters of a group for good."""
    found = _find(visit, visit.field("group"))
    letters = count(found.count, "dead letter")
    if asked := visit.unsure(f"Delete {letters} for good?", str(found.of.kind), visit.url("dead", "group", id=found.of.id)):
        return asked
    return _act(visit, "drop")


def _act(visit: Visit, do: Do) -> Response:
    found = _find(visit, visit.field("group"))
    rate, to = _rate(visit.form.get("rate", "")), visit.form.get("to", "").strip()
    if to and (reason := topic_error(to)):
        raise Refused(422, reason)
    topics = sorted(found.topics)
    if "documents" not in visit.operate(lambda backend: backend.features):
        return _at_once(visit, do, found, topics)
    _, total = visit.operate(lambda backend: start(visit.app, backend, do, topics, found.of.id, rate, to))
    said = f"{count(total, 'dead letter')} will be {PAST[do]} by the supervisors" + (f", in {to}" if to else "")
    return visit.back(f"{said}: see below how far they are.", visit.url("dead"))


def _at_once(visit: Visit, do: Do, found: Group, topics: list[str]) -> Response:
    """Act in the request: on a backend where no supervisor can be told to."""
    changed = 0
    for topic in topics:
        ids = [
            record.id
            for record in visit.operate(lambda backend, topic=topic: backend.dead_in_group(topic, found.of.id, AT_ONCE))  # type: ignore[misc]
        ]
        changed += visit.operate(lambda backend, ids=ids: backend.requeue(ids) if do == "retry" else backend.drop(ids))  # type: ignore[misc]
    return visit.back(f"{count(changed, 'dead letter')} {PAST[do]}.", visit.url("dead"))


def _rate(text: str) -> float | None:
    """Return a rate a second; None for none."""
    if not text.strip():
        return None
    try:
        return 1 / interval(text.strip())
    except ValueError as error:
        raise Refused(422, f"the rate: {error}") from None


def stop_action(visit: Visit) -> Response:
    """Cancel an action: the batch that is under way is its last one."""
    name = visit.field("id")
    if not visit.operate(lambda backend: dead_actions.cancel(backend, name)):
        raise Refused(409, "the action has ended already")
    return visit.back("The action is cancelled.", visit.url("dead"))
