"""The calls about jobs: enqueue, look, cancel, run again, drop, list."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Struct

from jobs_core import DuplicateJob, JobsError
from jobs_core.backends.base import Backend, JobRecord, Outgoing, State
from jobs_core.operating.producing import Enqueued, NewJob, Producing
from jobs_core.operating.records import as_data, browse, shown_result

from ..errors import Refused
from ..roles import Role
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

HIDDEN_FIELDS = ("message", "result", "errors", "log", "progress", "cursor", "timeline")
"""What shows arguments, results or messages of errors."""


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
    new = decoded(raw, NewJob)
    producing = Producing(visit.app)
    try:
        if seed or _topics(visit):
            told = producing.push(_allowed(visit, [producing.made(new, seed or None)]), seed)[0]
        else:
            told = producing.enqueue(new)
    except DuplicateJob as error:
        raise Refused(409, str(error)) from None
    except JobsError as error:
        raise _unfit(error) from None
    return Answer(201 if told.created else 200, told, {"Location": f"{visit.request.url.path}/{told.id}"})


def _unfit(error: JobsError) -> Exception:
    """Return an error of the caller as such; the guard knows the others."""
    from jobs_core import ArgumentError, BackendError, MessageTooLarge

    if isinstance(error, MessageTooLarge):
        return Refused(413, str(error))
    if isinstance(error, BackendError) and not isinstance(error, ArgumentError):
        return error
    return Refused(422, str(error))


def _enqueue_lines(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Enqueue the jobs on all lines, or none if a line cannot be used."""
    lines = [line for line in raw.split(b"\n") if line.strip()]
    most = MOST_LINES_ONCE if seed else MOST_LINES
    if not lines:
        raise Refused(422, "the body has no line")
    if len(lines) > most:
        how = f" with an {HEADER.title()}" if seed else ""
        raise Refused(413, f"the body has {len(lines):,} lines, the most{how} is {most:,}: send it in several requests")
    producing, made, errors = Producing(visit.app), [], []
    decode = msgspec.json.Decoder(NewJob).decode
    for number, line in enumerate(lines, 1):
        try:
            made.append(producing.made(decode(line), f"{seed}-{number}" if seed else None))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, JobsError) as error:
            errors.append(f"line {number}: {str(error).replace('`', '')}")
            if len(errors) == MOST_ERRORS:
                break
    if errors:
        raise Refused(422, "nothing was enqueued: " + "; ".join(errors))
    told = producing.push(_allowed(visit, made), seed)
    return Answer(200, _batch(told))


def _topics(visit: Visit) -> tuple[str, ...]:
    """Return the topics to which alone the user may enqueue; none if they may enqueue to all."""
    return visit.user.topics if visit.user is not None else ()


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
    if visit.role is Role.READ and not visit.site.settings.show_arguments:
        name = (data.get("message") or {}).get("job")
        data = {key: value for key, value in data.items() if key not in HIDDEN_FIELDS}
        data |= {"message": {"job": name}} if name else {}
    return data


def _parsed(result: str) -> Any:
    """Return the stored result: its value, or why it has none."""
    try:
        found = json.loads(result)
    except ValueError:
        return result
    return found.get("value", found) if isinstance(found, dict) else found


def find(visit: Visit, job_id: str) -> JobRecord:
    """Return the record of a job; refuse an id that the backend does not know."""
    record = visit.app.find(job_id)
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


# -- lists -----------------------------------------------------------------------------------------------


def listed(visit: Visit) -> Page:
    """List the jobs of a topic in one state."""
    query = queried(visit, (STATE, LIMIT, CURSOR))
    topic, state, limit, offset = visit.path("topic"), State(query["state"]), query["limit"], offset_of(visit, query)

    def read(backend: Backend) -> list[JobRecord]:
        return browse(backend, topic, state, limit, offset)

    records = visit.operate(read)
    return Page([view(visit, record) for record in records], next_of(visit, offset, len(records), limit))
