"""Say why a job has not ended yet, from the backend and the configuration: for a producer whose wait has timed out.

Operators are told more (operating/explain.py). A `Here` adds what is known about the processes on this machine. The number of
jobs that are read is bounded, however many are waiting.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from . import lockfile, urls
from .backends.base import Backend, JobRecord, State
from .backends.flows import Member
from .backends.limits import KEY_LIMIT, LimitState, held_back, key_limit, name_of
from .config import Config
from .escapes import word
from .units import count, format_duration, shown_time

PAGE = 100
"""Number of jobs that are read in one round trip, to find the position of a job."""

MOST_LIMIT_STATES, MOST_TOPICS, MOST_HOLDERS = 1000, 10, 3
"""Most values of limits that are read, topics that are searched for jobs that hold a slot, and such jobs that are named."""

MOST_TARGETS = 5
"""Most targets that are named for which a member of a flow waits."""

MOST_AHEAD = 1000
MOST_BYTES = 4_000_000
"""Bytes of payload after which no further page is read, because messages may be large."""


class Here:
    """The known processes on this machine. This base class knows nothing: see `jobs_core.operating.this_machine`."""

    def of_waiting(self, topic: str) -> Iterator[str]:
        """Explain why workers on this machine do not run jobs of a topic, or which of them would."""
        return iter(())

    def of_reserved(self, owner: str) -> Iterator[str]:
        """Describe the worker that has reserved a job which is not running here."""
        return iter(())

    def of_running(self, job_id: str) -> Iterator[str]:
        """Describe where a job is running on this machine, if it is, without asking the backend."""
        return iter(())


NOWHERE = Here()


class OnThisMachine(Here):
    """The facts that a producer can quickly find out about its own machine."""

    def __init__(self, run_dir: Path, backend_url: str) -> None:
        self._run_dir = run_dir
        self._backend_url = backend_url

    def of_waiting(self, topic: str) -> Iterator[str]:
        with contextlib.suppress(PermissionError):  # another user's lock file: the state is unknown
            if lockfile.holder(self._run_dir) is None:
                yield no_supervisor(self._run_dir, self._backend_url)


def no_supervisor(run_dir: Path, backend_url: str) -> str:
    """Return the message for a run directory without a supervisor."""
    others = "" if urls.scheme(backend_url) == "sqlite" else ", unless workers on another machine do the work"
    return f"no supervisor is running on this machine in {run_dir}: `jobsctl start` starts it{others}"


def unfinished(config: Config, here: Here, backend: Backend, job_id: str) -> list[str]:
    """Return the reasons, as far as a producer knows them, why a job has not ended; none without the feature `lookup`."""
    record = backend.get(job_id) if "lookup" in backend.features else None
    if record is None:
        return []
    if record.state is State.RESERVED:
        return [reserved(record)]
    return list(waits(config, backend, record, here if "multiprocess" in backend.features else NOWHERE, PAGE))


def reserved(record: JobRecord) -> str:
    """Say which worker has reserved a job, and since when."""
    held = format_duration(max(0, round(record.broker_now - (record.since or record.broker_now))))
    since = f"{when(record.since)}, for {held}"
    return f"it has been reserved by worker {record.owner} since {since}: it is running there, or about to"


def waits(config: Config, backend: Backend, record: JobRecord, here: Here, most: int = MOST_AHEAD) -> Iterator[str]:
    """Explain why a queued job is not running, the longest-lasting reason first."""
    topic = record.topic
    if record.state is State.WAITING and record.member is not None:
        yield from waiting(backend, record, record.member)
        return
    yield from held_up(config, backend, topic)
    if record.state is State.SCHEDULED and record.due is not None:
        left = format_duration(max(0, round(record.due - record.broker_now)))
        cause = (
            "after a failed attempt"
            if record.attempt
            else "after a deferral"
            if record.deferrals
            else "as enqueued with a delay"
        )
        yield f"it is scheduled for {when(record.due)}, {left} from now, {cause}"
        yield from here.of_waiting(topic)
        return
    yield from here.of_waiting(topic)
    served = topic in config.served_topics()
    unserved = "" if served else ", but no pool here serves it"
    if record.limits or record.blocked_by:
        yield from limited(backend, record)
    if record.state is State.LIMITED:
        yield f"it is limited{_ahead(backend, record, most)}{unserved}"
    else:
        yield f"it is ready{_ahead(backend, record, most)}{unserved}"
    yield from before(config, backend, topic)


def waiting(backend: Backend, record: JobRecord, member: Member) -> Iterator[str]:
    """Explain for which members of its flow a job waits, and what these are doing."""
    flow = backend.flow(member.flow)
    name = f"{member.flow} {flow.name}".rstrip() if flow else member.flow
    if flow is not None and flow.state == "open":
        yield f"it is a member of flow {name}, whose last part has not arrived: no member runs before that"
        return
    wish = {"done": "are done", "ended": "have ended", "failed": "have ended, one of them not done"}[member.when]
    targets = [_target(backend, each, member) for each in record.waiting_for[:MOST_TARGETS]]
    more = len(record.waiting_for) - len(targets)
    told = ", ".join(targets) + (f" and {more:,} more" if more > 0 else "")
    yield f"it is a member of flow {name}, and waits until these {wish}: {told or 'all that it is after'}"
    if flow is not None and flow.dead:
        yield f"the flow has {count(flow.dead, 'dead member')}: `jobsctl flow retry {flow.id}` runs what is dead again"
    yield f"`jobsctl flow show {member.flow}` shows the flow"


def _target(backend: Backend, target: str, member: Member) -> str:
    """Return what a member waits for, in words: another member with its state, a stage, or the body of the flow."""
    kind = next((each.kind for each in member.after if each.target == target), "job")
    if kind != "job":
        return "all members that do not wait for all" if kind == "all" else f"stage {target}"
    record = backend.get(target)
    if record is None:
        return target
    label = f"{record.member.label} " if record.member is not None and record.member.label else ""
    return f"{label}{target} ({record.state.value})"


def limited(backend: Backend, record: JobRecord) -> Iterator[str]:
    """Explain which limits keep a job waiting, that under which it is filed first, and which jobs hold the slots."""
    names = list(dict.fromkeys(limit for limit in (record.blocked_by, *record.limits) if limit))
    told = "limits" in backend.features  # if not, it has only those of keys
    found = backend.limits(MOST_LIMIT_STATES, sorted({*map(name_of, names)})) if told else [LimitState(record.blocked_by)]
    states = {state.limit: state for state in found}
    for limit in names:
        state = states.get(limit)
        if state is None or not (limit == record.blocked_by or any(held_back(state))):
            continue
        definition = state.definition
        used = f"{state.used:,} of {definition.concurrency:,} used" if definition and definition.concurrency is not None else ""
        facts = [*held_back(state), used, f"{jobs(state.waiting)} waiting under it" if state.waiting else ""]
        called = (
            f"max_per_key of topic {record.topic} for key {record.key}" if limit.startswith(KEY_LIMIT) else f"limit {limit}"
        )
        yield f"it waits for {called}: {', '.join(filter(None, facts)) or 'it had no room when it was last checked'}"
        if not told or (state.used and definition and definition.concurrency is not None):
            yield from _holders(backend, record, limit)


def _holders(backend: Backend, record: JobRecord, limit: str) -> Iterator[str]:
    """Name some of the jobs that hold the slots of a limit."""
    if "browse" not in backend.features:
        return
    found: list[str] = []
    for topic in [record.topic, *(topic for topic in backend.topics() if topic != record.topic)][:MOST_TOPICS]:
        for other in backend.browse(topic, State.RESERVED, PAGE):
            if limit in other.limits or limit == key_limit(other.topic, other.key):
                found.append(f"{other.id} (worker {other.owner})")
        if len(found) >= MOST_HOLDERS:
            break
    if found:
        more = " and others" if len(found) > MOST_HOLDERS else ""
        yield f"its slots are held by {', '.join(found[:MOST_HOLDERS])}{more}"


def held_up(config: Config, backend: Backend, topic: str) -> Iterator[str]:
    """Explain what keeps all jobs of a topic waiting, according to the configuration and the backend."""
    if config.is_unserved(topic):
        yield f"no pool of this configuration serves topic {topic}: add it to the topics of a pool"
    elif topic not in config.served_topics():
        yield f"topic {topic} is produce-only here (serve = false): workers elsewhere must serve it"
    if topic in backend.paused():
        yield f"topic {topic} is paused: run `jobsctl resume {word(topic)}`"


def before(config: Config, backend: Backend, topic: str) -> Iterator[str]:
    """Name the topics with ready jobs that a pool serves before this topic."""
    for name, pool in config.pools.items():
        strict = list(pool.topics) if isinstance(pool.topics, list) else []  # pools with weights serve every topic
        earlier = strict[: strict.index(topic)] if topic in strict else []
        busy = [f"{other} ({ready} ready)" for other in earlier if (ready := _ready(backend, other))]
        if busy:
            yield f"pool {name} serves {', '.join(busy)} before {topic}"


def _ready(backend: Backend, topic: str) -> str:
    """Count the ready jobs of a topic, as text; "" for none.

    With the feature `browse`, read one page and count no further, because an exact count may read all jobs.
    """
    if "browse" not in backend.features:
        return f"{backend.counts([topic])[topic].ready or ''}"
    ready = len(backend.browse(topic, State.READY, PAGE))
    return f"{PAGE} or more" if ready == PAGE else f"{ready or ''}"


def _ahead(backend: Backend, record: JobRecord, most: int) -> str:
    """Count the jobs of the same topic before this job, as text, reading a few pages at most."""
    if "browse" not in backend.features:
        return ""
    looked = size = 0
    while looked < most and size < MOST_BYTES:
        page = backend.browse(record.topic, record.state, PAGE, looked)
        for place, other in enumerate(page, looked):
            if other.id == record.id:
                return f" with {jobs(place)} ahead of it" if place else " and next in line"
            size += len(other.payload)
        looked += len(page)
        if len(page) < PAGE:  # the job was not found: it has been reserved meanwhile
            return ""
    return f" with more than {looked:,} jobs ahead of it"


def jobs(number: int) -> str:
    """Return a number of jobs, for a sentence."""
    return count(number, "job")


def when(at: float | None) -> str:
    """Return a time of the backend, for a sentence."""
    return shown_time(at) if at else "an unknown time"
