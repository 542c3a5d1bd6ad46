"""`on_done` and `on_dead`: the job that is enqueued together with the end of another.

Its function gets the facts about that end for which it has a parameter, see FACTS. A follow-up that cannot be created
(it is too large, a value does not fit) is logged and left out, because the end of the job itself must be recorded. One that
needs the payload store is created later, and the end is recorded with it (`pending_ends`).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from .. import boundary
from ..app import App
from ..backends.base import Delivery, JobRecord, Outcome, Outgoing, Settlement, State
from ..conversion import json_encoder
from ..errors import JobDefinitionError, PayloadError, PayloadStoreUnavailable, UnknownJob
from ..job import Call
from ..message import Message, PackedMessage, decode
from ..options import Policy, encrypts, policy
from ..payloads import blob_of
from ..registry import AnyJob
from ..runs.outcome import encode_result
from ..runs.run import Run
from .pending_ends import PendingEnd

if TYPE_CHECKING:
    from ..webhooks.announcing import Announcer

logger = logging.getLogger("jobs.worker")

FACTS: Final = ("id", "job", "topic", "reason", "error", "result", "attempt", "args", "kwargs")
"""The facts that the function can take, as parameters with these names."""

_ARGUMENTS: Final = frozenset({"args", "kwargs"})

DEPTH: Final = "jobs-on-end-depth"
"""The header that holds the depth of a follow-up: 1, or one more than that of the job that it follows."""

MAX_DEPTH: Final = 10
"""Greatest depth of a follow-up; a deeper one is not enqueued."""


class Follower(Struct, frozen=True):
    """A job that is enqueued at the end of another, and the facts that its function takes."""

    job: AnyJob
    facts: tuple[str, ...]


class OnEnd(Struct, frozen=True):
    """The follow-ups of one job's runs in one topic."""

    app: App
    done: Follower | None
    dead: Follower | None
    configured: bool  # `dead` was configured for the topic or in `[defaults]`, not for the job
    announcer: Announcer | None = None  # of events for webhooks

    def sent(self, message: Message) -> bytes | None:
        """Return the arguments of a message as JSON, before the job may change them, if a follow-up takes them.

        They come from the payload store, which may be out of reach when the job ends.
        """
        takes = any(not _ARGUMENTS.isdisjoint(each.facts) for each in (self.done, self.dead) if each is not None)
        takes = takes or (self.announcer is not None and self.announcer.takes("arguments"))
        return json_encoder.encode((message.args, message.kwargs)) if takes else None

    def of_run(self, run: Run, ending: Settlement) -> Settlement:
        """Return the settlement of a run with the follow-up of its outcome, if it has one; set `run.owed` if it has to wait."""
        outcome = ending.outcome
        if self.announcer is not None and outcome in (Outcome.DONE, Outcome.DEAD):
            ending = _announced(self.announcer, run.delivery, run.message, ending, run)
        follower = self.done if outcome is Outcome.DONE else self.dead if outcome is Outcome.DEAD else None
        if follower is None or (self.configured and follower is self.dead and _depth(run.message)):
            return ending
        end = _FollowUp(self.app, follower, run.delivery, run.message, ending, run).end()
        if isinstance(end, PendingEnd):
            run.owed = end.owed
            return ending
        return end


def policy_of(app: App, job: AnyJob, topic: str) -> Policy:
    """Return the policy for the runs of a job in a topic, including their follow-ups."""
    rules = policy(job.options, topic, app.config)
    pack = app.payloads.result_packer(encrypts(job.options, topic, app.config))
    if pack is not None:
        rules = replace(rules, pack_result=pack)
    if rules.resumable:
        rules = replace(rules, pack_cursor=app.payloads.cursor_packer(encrypts(job.options, topic, app.config)))
    pack_note = app.payloads.note_packer(encrypts(job.options, topic, app.config))
    if pack_note is not None:
        rules = replace(rules, pack_note=pack_note)
    if app.signer:
        rules = replace(rules, sign_result=app.signer.sign_result)
    done, dead = _follower(app, job.on_done), _follower(app, job.on_dead or _configured(app, job, topic))
    announcer = _announcer(app, job.name, topic)
    if done is None and dead is None and announcer is None:
        return rules
    return replace(rules, on_end=OnEnd(app, done, dead, job.on_dead is None, announcer))


def with_on_dead(app: App, delivery: Delivery, message: Message | None, ending: Settlement) -> Settlement | PendingEnd:
    """Add the follow-up, if there is one, to the settlement of a job that becomes a dead letter without a run.

    An unreadable message or an unknown job has only the `on_dead` of its topic, or of `[defaults]`.
    """
    job = app.registry.get(message.job or "") if message else None
    announcer = _announcer(app, message.job if message else None, delivery.topic)
    if announcer is not None:
        ending = _announced(announcer, delivery, message, ending)
    named = job.on_dead if job else None
    if named is None and not _depth(message):
        named = _configured(app, job, delivery.topic)
    follower = _follower(app, named)
    return _FollowUp(app, follower, delivery, message, ending).end() if follower else ending


def _configured(app: App, job: AnyJob | None, topic: str) -> AnyJob | None:
    """Return the job that the configuration names for dead letters of a topic.

    This job does not follow itself, nor (the callers check this) any other follow-up: each failure is reported once.
    """
    name = app.config.topic(topic).on_dead
    found = app.registry.get(name) if name else None
    return None if found is job else found


def _follower(app: App, job: AnyJob | str | None) -> Follower | None:
    found = app.registry.get(job) if isinstance(job, str) else job
    return None if found is None else Follower(found, _facts(found))


def _facts(job: AnyJob) -> tuple[str, ...]:
    parameters = _parameters(job)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return FACTS
    return tuple(each.name for each in parameters if _is_fact(each))


def _parameters(job: AnyJob) -> list[inspect.Parameter]:
    """Return the parameters that a message fills in, not those that are injected."""
    return [each for name, each in inspect.signature(job.function).parameters.items() if name not in job.injections]


def _is_fact(parameter: inspect.Parameter) -> bool:
    return parameter.name in FACTS and parameter.kind is not parameter.POSITIONAL_ONLY


# -- events for webhooks -----------------------------------------------------------------------------


def _announcer(app: App, job: str | None, topic: str) -> Announcer | None:
    if not app.config.webhooks:
        return None
    from ..webhooks.announcing import announcer_of  # late: most applications send no events

    return announcer_of(app, job, topic)


def _announced(
    announcer: Announcer, delivery: Delivery, message: Message | None, ending: Settlement, run: Run | None = None
) -> Settlement:
    """Return the ending with the jobs that tell receivers of it; log why if they cannot be made."""

    def facts() -> dict[str, Any]:
        wanted = ["id", "job", "topic", "attempt", *(["reason", "error"] if dead else [])]
        if message is not None and not _is_encrypted(delivery, message):
            at_hand = blob_of(message) is None or (run is not None and run.sent is not None)
            if announcer.takes("arguments") and at_hand:
                wanted += ["args", "kwargs"]
            if announcer.takes("result") and run is not None and not dead:
                wanted.append("result")
        found = _all_facts(announcer.app, tuple(wanted), delivery, message, ending, run)
        return {name: found[name] for name in wanted}

    dead = ending.outcome is not Outcome.DONE
    try:
        made = announcer.of_end(dead, facts, {DEPTH: _depth(message) + 1})
    except BaseException as error:  # hooks of the application may raise anything
        if boundary.interrupts(error):
            raise
        line = "job %s of topic %s has ended, but no event about it could be enqueued: %s"
        boundary.log(logger, logging.ERROR, line, delivery.id, delivery.topic, boundary.told(error))
        return ending
    return replace(ending, followups=(*ending.followups, *made)) if made else ending


def _is_encrypted(delivery: Delivery, message: Message) -> bool:
    """Return whether the arguments are encrypted in the queue; an event does not tell them, nor the result, then."""
    envelope = decode(delivery.payload, topic=delivery.topic, default_job=message.job)
    return isinstance(envelope, PackedMessage) and envelope.body.key is not None


# -- one follow-up -----------------------------------------------------------------------------------


class _FollowUp:
    """The follow-up of one end: first its envelope, then the message for the backend."""

    def __init__(
        self,
        app: App,
        follower: Follower,
        delivery: Delivery,
        message: Message | None,
        ending: Settlement,
        run: Run | None = None,
    ) -> None:
        self._app = app
        self._follower = follower
        self._delivery = delivery
        self._message = message
        self._ending = ending
        self._run = run
        self._envelope: Message | None = None

    def end(self) -> Settlement | PendingEnd:
        """Return the ending with its follow-up; a pending one if that needs the payload store. Does not wait for the store."""
        if self._reads_store():
            return PendingEnd(self._ending, self.made)
        try:
            return replace(self._ending, followups=(*self._ending.followups, *self.made(may_store=False)))
        except PayloadStoreUnavailable:
            return PendingEnd(self._ending, self.made)

    def _reads_store(self) -> bool:
        if self._message is None or _ARGUMENTS.isdisjoint(self._follower.facts):
            return False
        return (self._run is None or self._run.sent is None) and blob_of(self._message) is not None

    def made(self, *, may_store: bool = True) -> tuple[Outgoing, ...]:
        """Return the message for the backend; an empty tuple if it cannot be created. Raises PayloadStoreUnavailable."""
        job = self._follower.job
        try:
            if self._envelope is None:
                self._envelope = self._enveloped(job)
            return (self._app.outgoing(self._envelope, job.overrides.id is not UNSET, may_store=may_store),)
        except PayloadStoreUnavailable:
            raise
        except BaseException as error:  # keys, hooks and models of the application may raise anything
            if boundary.interrupts(error):
                raise
            line = "job %s of topic %s has ended, but %s could not be enqueued for it: %s"
            boundary.log(logger, logging.ERROR, line, self._delivery.id, self._delivery.topic, job.name, boundary.told(error))
            return ()

    def _enveloped(self, job: AnyJob) -> Message:
        depth = _depth(self._message) + 1
        if depth > MAX_DEPTH:
            raise JobDefinitionError(f"{MAX_DEPTH} jobs have followed each other's ends: on_done and on_dead run in a circle")
        wanted = self._follower.facts
        facts = _all_facts(self._app, wanted, self._delivery, self._message, self._ending, self._run)
        envelope = self._app.message(Call(job, (), {name: facts[name] for name in wanted}))
        return replace(envelope, headers={**envelope.headers, DEPTH: depth})


def _all_facts(
    app: App, wanted: tuple[str, ...], delivery: Delivery, message: Message | None, ending: Settlement, run: Run | None
) -> dict[str, Any]:
    dead = ending.outcome is not Outcome.DONE
    facts: dict[str, Any] = {
        "id": delivery.id,
        "job": message.job if message else None,
        "topic": delivery.topic,
        "reason": (ending.reason or "failed") if dead else "",
        "error": _error(ending.error) if dead and "error" in wanted else "",
        "result": _result(app, run, ending) if run and not dead and "result" in wanted else None,
        "attempt": delivery.previous_attempts + (0 if run is None or run.unfit else 1),
        "args": [],
        "kwargs": {},
    }
    if message and not _ARGUMENTS.isdisjoint(wanted):
        facts["args"], facts["kwargs"] = _arguments(app, delivery, run)
    return facts


def _arguments(app: App, delivery: Delivery, run: Run | None) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments that were sent, not those of the run, which the job may have changed.

    They are empty if they cannot be read, which may be why the job is dead.
    """
    if run is not None and run.sent is not None:
        args, kwargs = msgspec.json.decode(run.sent)
        return args, kwargs
    try:
        sent = app.read(JobRecord(delivery.id, delivery.topic, State.RESERVED, delivery.payload))
    except (PayloadError, PayloadStoreUnavailable):
        return [], {}
    return sent.args, sent.kwargs


def _result(app: App, run: Run, ending: Settlement) -> Any:
    """Return the job's result as plain JSON; None if it is too large or not JSON, by the rules of stored results."""
    stored = ending.result or encode_result(run.value, run.policy.max_result)
    return app.stored_result(run.delivery.id, stored).get("value")


def _error(document: bytes) -> str:
    """Return the error of a dead letter as one line: its class and message."""
    told = msgspec.json.decode(document) if document else {}
    return ": ".join(filter(None, (told.get("type"), told.get("message"))))


def _depth(message: Message | None) -> int:
    depth = message.headers.get(DEPTH) if message else 0
    return depth if type(depth) is int and depth > 0 else 0


# -- problems that a worker finds before it starts -----------------------------------------------------


def problems(app: App) -> list[str]:
    """Return why `on_done` and `on_dead` of this application cannot be used as they are; empty if they can."""
    found = [text for where, job in _uses(app) if (text := _problem(app, where, job))]
    return found or _circles(app)


def _uses(app: App) -> Iterator[tuple[str, AnyJob | str]]:
    for job in app.registry:
        for option, other in (("on_done", job.on_done), ("on_dead", job.on_dead)):
            if other is not None:
                yield f"{job.name}: {option}", other
    named = {"defaults": app.config.defaults.on_dead}
    named |= {f"topics.{name}": topic.on_dead for name, topic in app.config.topics.items()}
    for table, name in named.items():
        if name is not None:
            yield f"{table}.on_dead", name


def _problem(app: App, where: str, job: AnyJob | str) -> str | None:
    if isinstance(job, str):
        try:
            job = app.registry.find(job)
        except UnknownJob as error:
            return f"{where}: {error}"
    for each in _parameters(job):
        if each.default is each.empty and not _is_fact(each) and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            return (
                f"{where}: {job.name} has a parameter {each.name!r}, which would get no value: it may take {', '.join(FACTS)}"
            )
    return None


def _circles(app: App) -> list[str]:
    """Return one line for each circle of jobs that follow each other by `on_done` and `on_dead`."""
    following = {job.name: [_found(app, other).name for other in (job.on_done, job.on_dead) if other] for job in app.registry}
    told: set[frozenset[str]] = set()
    lines = []
    for name in following:
        path = _way_back(following, name)
        if path and frozenset(path) not in told:
            told.add(frozenset(path))
            way = " → ".join((*path, name))
            lines.append(f"{name}: on_done and on_dead run in a circle, perhaps forever: {way}: remove one of them")
    return lines


def _found(app: App, job: AnyJob | str) -> AnyJob:
    return app.registry.find(job) if isinstance(job, str) else job


def _way_back(following: dict[str, list[str]], start: str) -> list[str] | None:
    """Return the names on the shortest path from `start` back to it, with `start` only once; None if there is no path."""
    paths, seen = [[start]], {start}
    for path in paths:
        for after in following.get(path[-1], ()):
            if after == start:
                return path
            if after not in seen:
                seen.add(after)
                paths.append([*path, after])
    return None
