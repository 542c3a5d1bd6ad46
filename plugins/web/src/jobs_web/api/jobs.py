"""The calls about jobs: enqueue, look, cancel, run again, drop, list."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct
from starlette.requests import Request

from jobs_core import (
    App,
    ArgumentError,
    BackendError,
    BackendUnavailable,
    ConfigError,
    DuplicateJob,
    JobsError,
    Message,
    MessageTooLarge,
    PluginError,
)
from jobs_core.amending import Arguments, Edit, amended, setting
from jobs_core.backends.base import Backend, JobRecord, Outgoing, State
from jobs_core.config_rules import arguments as arguments_error
from jobs_core.operating.dead import HAS_EXPIRED, has_expired
from jobs_core.operating.discarding import discard
from jobs_core.operating.explain import QUEUED_OR_RUNNING
from jobs_core.operating.producing import Enqueued, NewJob, Producing
from jobs_core.operating.records import as_data, browse, shown_result
from jobs_core.topics import topic_error

from ..errors import Refused
from ..hiding import without_arguments
from ..visit import Visit
from .once import HEADER, Answer
from .operation import CURSOR, LIMIT, NDJSON, Param, decoded, next_of, offset_of, queried

MOST_LINES = 10_000
"""Most jobs of one request."""

MOST_LINES_ONCE = 1000
"""The same with an Idempotency-Key, whose answer is kept."""

MOST_ERRORS = 20
"""Most lines whose errors are told."""

STATES = tuple(state.value for state in State if state not in (State.UNKNOWN, State.CANCELLED))

STATE = Param("state", "The state of the jobs.", choices=STATES, required=True)

MOST_REASON = 500

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")


class Batch(Struct, frozen=True):
    """What became of the jobs of a batch, in the order of its lines."""

    created: int
    ids: list[str]  # of a job that was not created, the id of the one that it would have duplicated
    duplicates: list[int]  # numbers of the lines whose jobs were not created, from 1


class Page(Struct, frozen=True):
    """A page of jobs."""

    items: list[dict[str, Any]]
    next: str | None


class StateNow(Struct, frozen=True):
    """The state of a job."""

    id: str
    state: str


class Done(Struct, frozen=True):
    """How many jobs or members a call changed."""

    changed: int


# -- enqueue -----------------------------------------------------------------------------------------


def enqueue(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Enqueue one job, or the jobs on the lines of NDJSON."""
    kind = visit.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == NDJSON:
        return _enqueue_lines(visit, raw, seed)
    if kind != "application/json":
        raise Refused(415, f"expected application/json, or {NDJSON} with a job on each line")
    new = _traced(decoded(raw, NewJob), trace_of(visit.request))
    try:
        told = _enqueued(visit, Producing(visit.app), new, seed)
    except DuplicateJob as error:
        raise Refused(409, str(error)) from None
    except JobsError as error:
        raise unfit(error) from None
    return Answer(201 if told.created else 200, told, {"Location": f"{visit.request.url.path}/{quote(told.id, safe='')}"})


def _enqueued(visit: Visit, producing: Producing, new: NewJob, seed: str) -> Enqueued:
    if not seed and not _topics(visit):
        return producing.enqueue(new)
    with producing.around("job", new.job, producing.topic_of(new)):
        [job] = _allowed(visit, [producing.made(new, seed or None)])
        [told] = producing.push([job], seed)
    if not told.created and told.id != job.id and job.unique is not None and job.unique.conflict == "raise":
        raise DuplicateJob(f"{new.job} with its unique key is already enqueued, as {told.id}", existing_id=told.id)
    return told


def trace_of(request: Request) -> dict[str, str]:
    """Return the trace to which a request belongs, as W3C Trace Context has it, for the headers of its jobs; {} without one.

    What does not have the form of the recommendation is left out, as that demands.
    """
    parent, state = request.headers.get("traceparent", ""), request.headers.get("tracestate", "")
    if TRACEPARENT.fullmatch(parent) is None or set(parent[3:35]) == {"0"} or set(parent[36:52]) == {"0"}:
        return {}
    return {"traceparent": parent} | ({"tracestate": state} if TRACESTATE.fullmatch(state) else {})


def _traced(new: NewJob, trace: dict[str, str]) -> NewJob:
    """Return a job with the trace of its request among its headers, unless it names one itself."""
    if not trace or "traceparent" in (new.headers or {}):
        return new
    return msgspec.structs.replace(new, headers={**trace, **(new.headers or {})})


def unfit(error: JobsError) -> Exception:
    """Return an error of the caller as such; the guard knows those of the backend, of the configuration and of plugins."""
    if isinstance(error, MessageTooLarge):
        return Refused(413, str(error))
    is_ours = isinstance(error, (BackendError, ConfigError, PluginError)) and not isinstance(error, ArgumentError)
    return error if is_ours else Refused(422, str(error))


def _enqueue_lines(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Enqueue the jobs on all lines, or none if a line cannot be used."""
    lines = [line for line in raw.split(b"\n") if line.strip()]
    most = MOST_LINES_ONCE if seed else MOST_LINES
    if not lines:
        raise Refused(422, "the body has no line")
    if len(lines) > most:
        how = f" with an {HEADER.title()}" if seed else ""
        raise Refused(413, f"the body has {len(lines):,} lines, the most{how} is {most:,}: send it in several requests")
    producing = Producing(visit.app)
    with producing.around("batch"):
        told = producing.push(_allowed(visit, _made(producing, lines, seed, trace_of(visit.request))), seed)
    return Answer(200, _batch(told))


def _made(producing: Producing, lines: list[bytes], seed: str, trace: dict[str, str]) -> list[Outgoing]:
    """Return the jobs on all lines; refuse them with the reasons if one cannot be used."""
    made, errors = [], []
    decode = msgspec.json.Decoder(NewJob).decode
    for number, line in enumerate(lines, 1):
        try:
            made.append(producing.made(_traced(decode(line), trace), f"{seed}-{number}" if seed else None))
        except (BackendUnavailable, ConfigError, PluginError):
            raise
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, JobsError) as error:
            errors.append(f"line {number}: {str(error).replace('`', '')}")
            if len(errors) == MOST_ERRORS:
                break
    if errors:
        raise Refused(422, "nothing was enqueued: " + "; ".join(errors))
    return made


def _topics(visit: Visit) -> tuple[str, ...]:
    """Return the topics to which alone the user may enqueue; none if they may enqueue to all."""
    return visit.user.topics if visit.user is not None else ()


def own_topic(visit: Visit) -> str:
    """Return the topic of the path; refuse one that is not the user's."""
    name, topics = visit.path("topic"), _topics(visit)
    if reason := topic_error(name):
        raise Refused(422, reason)
    if topics and name not in topics:
        raise Refused(403, f"you may only look at {', '.join(topics)}, not at {name[:128]}")
    return name


def _allowed(visit: Visit, made: list[Outgoing]) -> list[Outgoing]:
    """Return the jobs of a request; refuse all if one is for a topic that is not the user's."""
    topics = _topics(visit)
    for job in made if topics else ():
        if job.topic not in topics:
            raise Refused(403, f"you may only enqueue to {', '.join(topics)}, not to {job.topic}")
    return made


def _batch(told: list[Enqueued]) -> Batch:
    duplicates = [number for number, one in enumerate(told, 1) if not one.created]
    return Batch(len(told) - len(duplicates), [one.id for one in told], duplicates)


# -- one job ---------------------------------------------------------------------------------------------


def view(visit: Visit, record: JobRecord) -> dict[str, Any]:
    """Return a record as JSON can hold it, as far as this user may see it."""
    data = as_data(visit.app, record)
    result = shown_result(visit.app, record)
    if result is not None:
        data["result"] = _parsed(result)
    return data if visit.sees_arguments else without_arguments(data)


def _parsed(result: str) -> Any:
    """Return the stored result: its value, or why it has none."""
    try:
        found = json.loads(result)
    except ValueError:
        return result
    return found.get("value", found) if isinstance(found, dict) else found


def find(visit: Visit, job_id: str) -> JobRecord:
    """Return the record of a job; refuse an id that the backend does not know."""
    return known(visit, job_id, visit.app.find(job_id))


def known(visit: Visit, job_id: str, record: JobRecord | None) -> JobRecord:
    """Return the record of a job, as far as this user may know of it."""
    topics = _topics(visit)
    if record is None or record.state is State.UNKNOWN or (topics and record.topic not in topics):
        raise Refused(404, f"there is no job {job_id[:128]}: it never existed, or finished without a stored result")
    return record


def cancel(visit: Visit, raw: bytes, seed: str) -> Answer:
    job_id = visit.path("id")
    find(visit, job_id)
    return Answer(200, StateNow(job_id, visit.app.cancel(job_id).value))


def retry(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Make a dead or scheduled job ready now."""
    job_id = visit.path("id")
    record = find(visit, job_id)
    if record.state not in (State.DEAD, State.SCHEDULED):
        raise Refused(409, f"job {job_id} is {record.state.value}: only dead and scheduled jobs can be run now")
    if has_expired(record):
        raise Refused(409, f"job {job_id} cannot run again: {HAS_EXPIRED}")
    if not visit.operate(lambda backend: backend.requeue([job_id])):
        raise Refused(409, f"job {job_id} cannot run again: it belongs to a flow that was cancelled, or refused it")
    return Answer(200, StateNow(job_id, find(visit, job_id).state.value))


def drop(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Delete a dead letter for good."""
    job_id = visit.path("id")
    record = find(visit, job_id)
    if record.state is not State.DEAD or not visit.operate(lambda backend: backend.drop([job_id])):
        raise Refused(409, f"job {job_id} is {record.state.value}: only dead letters can be deleted; cancel it instead")
    return Answer(200, Done(1))


class Why(Struct, forbid_unknown_fields=True):
    """Why a job is discarded."""

    reason: str = ""


def discarded(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Move a queued job to the dead letters."""
    job_id, why = visit.path("id"), decoded(raw, Why) if raw else Why()
    if len(why.reason) > MOST_REASON or not why.reason.isprintable():
        raise Refused(422, f"reason: expected up to {MOST_REASON} printable characters")
    record = find(visit, job_id)
    if not visit.operate(lambda backend: discard(backend, [job_id], why.reason or "no reason given")):
        raise Refused(409, f"job {job_id} is {record.state.value}: only queued jobs can be discarded")
    return Answer(200, StateNow(job_id, find(visit, job_id).state.value))


class Change(Struct, forbid_unknown_fields=True):
    """What is to change of a dead letter; the rest stays."""

    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    set: dict[str, Any] | None = None  # single arguments by the names of their parameters
    topic: str = ""


def change(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Give a dead letter other arguments, which are checked against the signature, or another topic."""
    job_id, new = visit.path("id"), decoded(raw, Change)
    visit.form = {"to": new.topic}  # for the audit line
    if new == Change():
        raise Refused(422, "nothing to change: give args, kwargs, set or topic")
    if new.topic and (reason := topic_error(new.topic)):
        raise Refused(422, reason)
    record = find(visit, job_id)
    if record.state is not State.DEAD:
        how = (
            ": its call discard makes it one, under the same id" if record.state in QUEUED_OR_RUNNING - {State.RESERVED} else ""
        )
        raise Refused(409, f"job {job_id} is {record.state.value}, and only dead letters can be changed{how}")
    try:
        payload = amended(visit.app, record, _edit(visit.app, new), new.topic)
    except JobsError as error:
        raise unfit(error) from None
    if not visit.operate(lambda backend: backend.amend(job_id, record.payload, payload, new.topic)):
        raise Refused(409, f"job {job_id} has changed in the meantime")
    return Answer(200, view(visit, find(visit, job_id)))


def _edit(app: App, new: Change) -> Edit | None:
    """Return what changes the arguments; None if they stay."""
    if new.args is None and new.kwargs is None and not new.set:
        return None

    def edit(message: Message) -> Arguments:
        args = message.args if new.args is None else new.args
        kwargs = message.kwargs if new.kwargs is None else new.kwargs
        if reason := arguments_error([args, kwargs, new.set]):
            raise ArgumentError(reason)
        given = msgspec.structs.replace(message, args=args, kwargs=kwargs)
        return setting(app, new.set)(given) if new.set else (args, kwargs)

    return edit


# -- lists -----------------------------------------------------------------------------------------------


def listed(visit: Visit) -> Page:
    """List the jobs of a topic in one state."""
    query = queried(visit, (STATE, LIMIT, CURSOR))
    topic, state, limit, offset = own_topic(visit), State(query["state"]), query["limit"], offset_of(visit, query)

    def read(backend: Backend) -> list[JobRecord]:
        return browse(backend, topic, state, limit, offset)

    records = visit.operate(read)
    return Page([view(visit, record) for record in records], next_of(visit, offset, len(records), limit))
