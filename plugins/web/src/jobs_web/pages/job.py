"""One job: what is known about it, why it does not run, and what can be done."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from starlette.responses import Response

from jobs_core import App, ArgumentError, JobsError, Message
from jobs_core.amending import Arguments, amended, arguments_of
from jobs_core.backends.base import Backend, JobRecord, State
from jobs_core.config_rules import arguments as arguments_error
from jobs_core.operating import timeline
from jobs_core.operating.dead import has_expired, held
from jobs_core.operating.discarding import discard
from jobs_core.operating.explain import dead_letter, explain
from jobs_core.operating.ids import missing
from jobs_core.operating.records import as_data, push_line, shown_result
from jobs_core.operating.this_machine import ThisMachine

from ..errors import Refused
from ..hiding import without_messages
from ..live import packed
from ..shown import pretty
from ..visit import Visit

if TYPE_CHECKING:
    from ..site import Site

QUEUED = (State.READY, State.LIMITED, State.WAITING, State.SCHEDULED)

MOST_SHOWN = 100_000
"""Characters of arguments or of a result that a page shows."""


class Call(Struct, forbid_unknown_fields=True):
    """Arguments, as they are edited."""

    args: list[Any] = []
    kwargs: dict[str, Any] = {}


def show(visit: Visit) -> Response:
    """Show a job."""
    return page(visit, visit.query("id"))


def page(visit: Visit, job_id: str, *, edited: str | None = None, to: str = "", problem: str = "") -> Response:
    """Show a job; with `edited`, what the user has typed as arguments, and the problem with it."""
    seen: Seen = visit.site.read("job", job_id)
    record = seen.record
    data, sees = as_data(visit.app, record), visit.sees_arguments
    if not sees:
        data = without_messages(data)
    message = data.get("message") or {}
    runs, errors = data.get("timeline", []), data.get("errors", [])
    told = data.get("progress")
    call = _pretty({"args": message.get("args", []), "kwargs": message.get("kwargs", {})}) if message and sees else ""
    return visit.page(
        "job.html",
        422 if problem else 200,
        record=record,
        mark=_mark(record),
        data=data,
        name=message.get("job") or "(unreadable)",
        call=call[:MOST_SHOWN],
        is_whole=len(call) <= MOST_SHOWN,
        unreadable=data.get("unreadable") or message.get("unreadable", ""),
        headers=message.get("headers") or {},
        events=timeline.events_of(record, runs, errors),
        errors=list(reversed(errors)),
        lines=[timeline.shown_line(line) for line in data.get("log", [])],
        told=told,
        progress=timeline.shown(told) if told else "",
        share=_share(told),
        result=(shown_result(visit.app, record) or "")[:MOST_SHOWN] if sees else "",
        why=seen.why if sees else [],  # it names errors, and values that do not fit a signature
        push=push_line(data) if sees else "",
        can=_can(visit, record),
        edited=edited,
        to=to,
        problem=problem,
    )


class Seen(Struct, frozen=True):
    """What is read of a job."""

    record: JobRecord
    why: list[str]


def read(site: Site, job_id: str) -> Seen:
    """Read a job, and why it does not run; refuse an id that no job has."""
    record = _find(site.app, job_id)
    return Seen(record, _why(site.app, record))


def still(seen: Seen) -> bytes:
    """Return what counts as a change of a job: everything but times that go on."""
    return packed((replace(seen.record, broker_now=0.0), [_DIGITS.sub("", each) for each in seen.why]))


_DIGITS = re.compile("[0-9]+")


def _record(visit: Visit, job_id: str) -> JobRecord:
    return _find(visit.app, job_id)


def _find(app: App, job_id: str) -> JobRecord:
    """Return a job; refuse an id that no job has."""

    def look(backend: Backend) -> JobRecord | str:
        if "lookup" not in backend.features:
            return dead_letter(app, backend, job_id) or f"{job_id} is not a recent dead letter, and others cannot be looked up"
        return backend.get(job_id) or missing(backend, job_id)

    found = app.operate(look)
    if isinstance(found, str):
        raise Refused(404, found)
    return found


def _why(app: App, record: JobRecord) -> list[str]:
    if record.state in (State.DONE, State.UNKNOWN):
        return []
    try:
        here = ThisMachine(app)
        return app.operate(lambda backend: explain(app, backend, record.id, here)).reasons
    except (JobsError, OSError) as error:
        return [f"it is not known: {error}"]


def _can(visit: Visit, record: JobRecord) -> set[str]:
    """Return what can be done with a job in its state on this backend."""
    found = set()
    features = visit.operate(lambda backend: backend.features)
    if record.state in (*QUEUED, State.RESERVED) and "cancel" in features:
        found.add("cancel")
    if record.state is State.DEAD:  # a backend that shows dead letters runs them again, even if it shows no other jobs
        found |= {"retry", "drop"}
    if "browse" in features:
        found |= {"run"} if record.state is State.SCHEDULED else set()
        found |= {"discard"} if record.state in QUEUED and "amend" in features else set()
        found |= {"edit"} if record.state is State.DEAD and "amend" in features else set()
        found |= {"move"} if "edit" in found and "move" in features and record.member is None else set()
    return found


def _share(told: Any) -> float | None:
    """Return the share that is done; None if it is not known."""
    if not told:
        return None
    try:
        return min(1.0, max(0.0, float(told["done"]) / float(told["total"])))
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None


def _pretty(value: Any) -> str:
    return pretty(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


# -- actions -----------------------------------------------------------------------------------------


def cancel(visit: Visit) -> Response:
    """Cancel a job: a queued one at once; a running one is told."""
    job_id = visit.field("id")
    state = visit.operate(lambda backend: backend.cancel(job_id))
    said = {
        State.CANCELLED: "The job is cancelled.",
        State.RESERVED: "The job is running: its worker is told to stop it. A plain function on a thread ends by itself.",
        State.DEAD: "The job is dead already.",
        State.DONE: "The job is done already.",
    }.get(state, "The job is not known any more.")
    return visit.back(said, visit.url("job", id=job_id), good=state in (State.CANCELLED, State.RESERVED))


def retry(visit: Visit) -> Response:
    """Run a dead job again, or a scheduled one now."""
    job_id = visit.field("id")
    if why := _changed(visit, job_id):
        return visit.back(f"Nothing was done: {why}.", visit.url("job", id=job_id), good=False)
    return visit.back(*_requeue(visit, job_id))


def _mark(record: JobRecord) -> str:
    """Return what tells whether a job is as a page has shown it: it may have run since, and failed again."""
    return f"{record.state.value} {record.since!r} {record.redeliveries} {len(record.errors)}"


def _changed(visit: Visit, job_id: str) -> str:
    """Return why a job is not as the page has shown it, on which a user has decided; "" if it is, or the form does not say."""
    seen = visit.form.get("seen", "")
    if not seen or "lookup" not in visit.operate(lambda backend: backend.features):
        return ""
    record = _record(visit, job_id)
    if _mark(record) == seen:
        return ""
    return f"the job has changed since you saw it, and is {record.state.value} now"


def _requeue(visit: Visit, job_id: str) -> tuple[str, str]:
    """Requeue a job; return what was done and where to go. Refuses what cannot be requeued."""
    if not visit.operate(functools.partial(_requeued, job_id)):
        record, why = visit.operate(lambda backend: held(backend, job_id) if "lookup" in backend.features else (None, ""))
        state = f"it is {record.state.value}" if record else "it is not known"
        raise Refused(409, f"the job cannot be run again: {why or state}")
    return "The job is ready to run.", page_of(visit, job_id, "dead")


def _requeued(job_id: str, backend: Backend) -> int:
    """Requeue a job unless it has expired; return whether it was requeued."""
    record = backend.get(job_id) if "lookup" in backend.features else None
    return 0 if record is not None and has_expired(record) else backend.requeue([job_id])


def page_of(visit: Visit, job_id: str, otherwise: str) -> str:
    """Return the path of the page of a job that is no dead letter; of another page if the backend cannot look it up."""
    can = "lookup" in visit.operate(lambda backend: backend.features)
    return visit.url("job", id=job_id) if can else visit.url(otherwise)


def discarded(visit: Visit) -> Response:
    """Move a queued job to the dead letters: it cannot start there, so it can be changed."""
    job_id = visit.field("id")
    if why := _changed(visit, job_id):
        return visit.back(f"Nothing was done: {why}.", visit.url("job", id=job_id), good=False)
    if not visit.operate(lambda backend: discard(backend, [job_id], "to be changed")):
        raise Refused(409, "the job is not queued any more")
    return visit.back("The job is a dead letter now: change it below, and run it.", visit.url("job", id=job_id))


def drop(visit: Visit) -> Response:
    """Delete a dead letter for good."""
    job_id = visit.field("id")
    if asked := visit.unsure(
        "Delete this dead letter for good?", "Its arguments and errors are lost.", visit.url("job", id=job_id)
    ):
        return asked
    if why := _changed(visit, job_id):
        return visit.back(f"Nothing was done: {why}.", visit.url("job", id=job_id), good=False)
    if not visit.operate(lambda backend: backend.drop([job_id])):
        raise Refused(409, "the job is not among the dead letters any more")
    return visit.back("The dead letter is deleted.", visit.url("dead"))


def edit(visit: Visit) -> Response:
    """Run a dead job again with other arguments, or in another topic. The arguments are checked against its signature."""
    job_id, text, to = visit.field("id"), visit.form.get("call", ""), visit.form.get("to", "").strip()
    record = _record(visit, job_id)
    if why := _changed(visit, job_id):
        return page(visit, job_id, edited=text, to=to, problem=f"nothing was done: {why}: look at it again")
    try:
        call = parsed(text) if text.strip() else None
        edit = None if call is None or _is_same(visit, record, call) else functools.partial(_given, call)
        payload = amended(visit.app, record, edit, to)
        if not visit.operate(lambda backend: backend.amend(job_id, record.payload, payload, to)):
            raise Refused(409, "the job has changed in the meantime")
    except JobsError as error:
        return page(visit, job_id, edited=text, to=to, problem=str(error))
    return visit.back(*_requeue(visit, job_id))


def _is_same(visit: Visit, record: JobRecord, call: Call) -> bool:
    """Return whether the arguments were left as they are: a job that only moves need not be known here."""
    message = arguments_of(visit.app, record)
    return call.args == message.args and call.kwargs == message.kwargs


def parsed(text: str) -> Call:
    """Return edited arguments; raises ArgumentError."""
    try:
        call = msgspec.json.decode(text.encode(), type=Call)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ArgumentError(f"invalid arguments: {error}") from None
    if reason := arguments_error([call.args, call.kwargs]):
        raise ArgumentError(reason)
    return call


def _given(call: Call, message: Message) -> Arguments:
    return call.args, call.kwargs
