"""The jobs of a topic in one state: browsed page by page, or searched. A page reads a bounded number of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace
from starlette.responses import RedirectResponse, Response

from jobs_core import JobsError
from jobs_core.backends.base import Backend, JobRecord, State
from jobs_core.operating.ids import flow_instead, whole_id
from jobs_core.operating.records import age, attempt, browse, name_of
from jobs_core.operating.searching import MOST, Search, Stretch, stretch
from jobs_core.units import are, count

from ..errors import Refused
from ..live import packed
from ..visit import Visit

if TYPE_CHECKING:
    from ..site import Site

PAGE = 50

SEARCHES = 0.04
"""Seconds after which a search shows what it has found so far, with a link to go on."""

STATES = (State.READY, State.LIMITED, State.WAITING, State.SCHEDULED, State.RESERVED, State.DEAD, State.DONE)
LABELS = {state.value: state.value for state in STATES}
LABELS |= {"limited": "held by limits", "waiting": "waiting in flows", "reserved": "running"}
COUNTED = {"ready", "limited", "waiting", "scheduled", "reserved", "dead"}


def show(visit: Visit) -> Response:
    """List jobs."""
    snapshot = visit.snapshot()
    topics = list(snapshot.topics)
    topic = visit.query("topic") or _first(snapshot.topics)
    state = next((each for each in STATES if each.value == visit.query("state")), State.READY)
    job, key, text, error = (visit.query(name) or None for name in ("job", "key", "text", "error"))
    if (text or error) and not visit.sees_arguments:
        raise Refused(403, "you may not see arguments and errors, so you cannot search in them")
    search = Search(job, key, text, error)
    offset = visit.number("offset", 0, 0, MOST)
    part, why_not = Stretch([], offset, False), ""
    try:
        if topic:
            part = _records(visit, topic, state, search, offset)
    except JobsError as error:
        why_not = str(error)
    return visit.page(
        "jobs.html",
        topic=topic,
        topics=topics,
        paused=topic in snapshot.paused,
        states=_states(visit, snapshot.topics.get(topic)),
        state=state.value,
        labels=LABELS,
        search=search,
        rows=[row_of(visit, record) for record in part.found],
        acts=acts_on(visit, state),
        followed="" if why_not or search.given or not topic else _list(topic, state, offset),
        offset=offset,
        part=part,
        page=PAGE,
        most=MOST,
        why_not=why_not,
    )


def _first(topics: dict[str, Any]) -> str:
    """Return the topic with the most jobs."""
    return max(topics, key=lambda name: topics[name].ready + topics[name].reserved, default="")


def _records(visit: Visit, topic: str, state: State, search: Search, offset: int) -> Stretch:
    """Return the jobs of a page; of a search, those that it finds in time."""

    if not search.given:
        found: Stretch = visit.site.read("jobs", _list(topic, state, offset))
        return found

    def page(most: int, start: int) -> list[JobRecord]:
        return visit.operate(lambda backend: browse(backend, topic, state, most, start))

    return stretch(visit.app, search, page, offset, PAGE, SEARCHES)


def _list(topic: str, state: State, offset: int) -> str:
    """Return the name of a page of a list, for those who follow it."""
    return f"{offset} {state.value} {topic}"


def read(site: Site, name: str) -> Stretch:
    """Read a page of a list; refuse a name that no list has."""
    start, _, rest = name.partition(" ")
    word, _, topic = rest.partition(" ")
    state = next((each for each in STATES if each.value == word), None)
    if state is None or not topic or not (start.isascii() and start.isdecimal() and len(start) < 10 and int(start) <= MOST):
        raise Refused(404, "there is no such list of jobs")
    offset = int(start)
    records = site.app.operate(lambda backend: browse(backend, topic, state, PAGE + 1, offset))
    return Stretch(records[:PAGE], offset + PAGE, len(records) > PAGE)


def still(seen: Stretch) -> bytes:
    """Return what counts as a change of a list: everything but times that go on."""
    return packed(([replace(each, broker_now=0.0) for each in seen.found], seen.more))


def _states(visit: Visit, counts: Any) -> list[tuple[str, str, int | None]]:
    """Return the states that the backend has: name, label, and the number of jobs if it is counted."""

    def having(backend: Backend) -> list[State]:
        lacks = {State.DONE} - ({State.DONE} if "history" in backend.features else set())
        lacks |= {State.LIMITED, State.WAITING} - set(backend.queued_states)
        return [state for state in STATES if state not in lacks]

    return [
        (state.value, LABELS[state.value], getattr(counts, state.value) if counts and state.value in COUNTED else None)
        for state in visit.operate(having)
    ]


def row_of(visit: Visit, record: JobRecord) -> dict[str, Any]:
    """Return what a table of jobs shows of a job."""
    return {
        "record": record,
        "job": name_of(visit.app, record),
        "attempt": attempt(record),
        "age": age(record),
        "note": _note(record, visit.sees_arguments),
    }


def _note(record: JobRecord, with_error: bool) -> str:
    """Return what is most worth knowing about a job in its state, in one line."""
    if record.state is State.DEAD:
        return f"{record.reason}: {_error(record)}" if record.errors and with_error else record.reason
    if record.state is State.RESERVED:
        return f"by {record.owner}"
    if record.state is State.LIMITED:
        return f"waits for {record.blocked_by}" if record.blocked_by else ""
    if record.state is State.WAITING:
        return f"after {', '.join(record.waiting_for)}" if record.waiting_for else ""
    return _error(record) if record.errors and with_error else ""


def _error(record: JobRecord) -> str:
    try:
        error = msgspec.json.decode(record.errors[-1])
        return str(error.get("message") or error.get("type") or "")[:300]
    except (msgspec.MsgspecError, AttributeError, UnicodeError):  # written by another program
        return ""


# -- several at once -------------------------------------------------------------------------------


def acts_on(visit: Visit, state: State) -> list[tuple[str, str, str]]:
    """Return what the user may do with picked jobs in a state: the name of the action, its label and its kind of button."""
    features = visit.operate(lambda backend: backend.features)
    found = []
    if visit.may("operate") and (state is State.DEAD or ("browse" in features and state is State.SCHEDULED)):
        found.append(("retry", "Run again" if state is State.DEAD else "Run now", "first"))
    if visit.may("operate") and "cancel" in features and state not in (State.DEAD, State.DONE):
        found.append(("cancel", "Cancel", "danger"))
    if visit.may("admin") and state is State.DEAD:
        found.append(("drop", "Delete", "danger"))
    return found


def retry(visit: Visit) -> Response:
    """Run the picked dead jobs again, and the scheduled ones now."""
    ids = _picked(visit)
    return _told(visit, len(ids), visit.operate(lambda backend: backend.requeue(ids)), "ready to run")


def cancel(visit: Visit) -> Response:
    """Cancel the picked jobs: queued ones at once; running ones are told."""
    ids = _picked(visit)
    if asked := visit.unsure(f"Cancel {count(len(ids), 'job')}?", _named(ids), visit.came_from("jobs")):
        return asked

    def act(backend: Backend) -> int:
        return sum(backend.cancel(each) in (State.CANCELLED, State.RESERVED) for each in ids)

    return _told(visit, len(ids), visit.operate(act), "cancelled, or told to stop")


def drop(visit: Visit) -> Response:
    """Delete the picked dead letters for good."""
    ids = _picked(visit)
    question = f"Delete {count(len(ids), 'dead letter')} for good?"
    if asked := visit.unsure(question, _named(ids), visit.came_from("jobs")):
        return asked
    return _told(visit, len(ids), visit.operate(lambda backend: backend.drop(ids)), "deleted")


def _picked(visit: Visit) -> list[str]:
    if not visit.picked:
        raise Refused(400, "pick at least one job first")
    return visit.picked


def _named(ids: Sequence[str]) -> str:
    """Name some of the picked jobs."""
    more = f" and {len(ids) - 5:,} more" if len(ids) > 5 else ""
    return f"They are {', '.join(each[:64] for each in ids[:5])}{more}."


def _told(visit: Visit, picked: int, done: int, what: str) -> Response:
    """Say how many of the picked jobs were changed; the others have changed since the page was made."""
    others = f" {count(picked - done, 'other')} had changed since you saw the page." if done < picked else ""
    said = f"{are(done, 'job')} {what}.{others}"
    return visit.back(said, visit.came_from("jobs"), good=bool(done))


def find(visit: Visit) -> Response:
    """Go to a job, or a flow, by its id or the beginning of one."""
    text = visit.query("id").strip()

    def look(backend: Backend) -> tuple[str, bool]:
        found = whole_id(backend, text, visit.app.run_dir)
        return found, bool(flow_instead(backend, found))

    if not text:
        return RedirectResponse(visit.url("jobs"), 303)
    found, is_flow = visit.operate(look)
    return RedirectResponse(visit.url("flow" if is_flow else "job", id=found), 303)
