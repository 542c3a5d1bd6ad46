"""The calls about dead letters by what went wrong: count them, run a group again, and actions that supervisors carry out."""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from jobs_core import NotSupported, dead_actions
from jobs_core.backends.base import Backend
from jobs_core.backends.letters import DeadGroup
from jobs_core.config_rules import arguments as arguments_error
from jobs_core.dead_actions import Do, Listed
from jobs_core.operating.dead import start, tried
from jobs_core.topics import topic_error
from jobs_core.units import interval

from ..errors import Refused
from ..hiding import without_message
from ..visit import Visit
from .jobs import Done, own_topic
from .once import Answer
from .operation import Param, decoded, queried

MOST_GROUPS = 200

AT_ONCE = 1000
"""Most dead letters that one call runs again."""

MOST_TOPICS = 1000
"""Most topics of one action."""

GROUP = Param("group", "The id of a group of dead letters.", required=True)
_GROUP = re.compile(r"[0-9a-f]{8}")


class Groups(Struct, frozen=True):
    items: list[DeadGroup]


class NewAction(Struct, forbid_unknown_fields=True):
    """An action on dead letters, which the supervisors carry out."""

    topics: list[str]
    group: str = ""  # empty: all groups of these topics
    rate: str | None = None  # such as "10/s"; without one, as fast as they can
    to: str = ""  # the topic in which they run again; empty: where they are
    set: dict[str, Any] = {}  # arguments with which they run again, by the names of their parameters


class ActionNow(Struct, frozen=True):
    """How far an action on dead letters is."""

    id: str
    state: str  # waiting | running | done | failed | cancelled
    do: str
    topics: list[str]
    group: str
    total: int  # dead letters when it began
    done: int
    kept: int  # that stay, because they cannot be retried
    rate: float | None  # a second
    to: str
    by: str
    machine: str  # that carries it out
    error: str


class Actions(Struct, frozen=True):
    items: list[ActionNow]


# -- groups ----------------------------------------------------------------------------------------------


def groups(visit: Visit) -> Groups:
    queried(visit, ())
    topic = own_topic(visit)
    found: list[DeadGroup] = visit.operate(lambda backend: backend.dead_groups([topic], MOST_GROUPS))
    if not visit.sees_arguments:
        found = [replace(group, fingerprint=without_message(group.fingerprint)) for group in found]
    return Groups(found)


def retry_group(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Run again the oldest dead letters of a group."""
    topic, group = own_topic(visit), queried(visit, (GROUP,))["group"]

    def act(backend: Backend) -> int:
        letters = backend.dead_in_group(topic, group, AT_ONCE)
        return backend.requeue([letter.id for letter in letters]) if letters else 0

    return Answer(200, Done(visit.operate(act)))


# -- actions ---------------------------------------------------------------------------------------------


def retry(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Start an action that runs dead letters again."""
    return _start(visit, "retry", decoded(raw, NewAction), seed)


def drop(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Start an action that deletes dead letters for good."""
    new = decoded(raw, NewAction)
    if new.to or new.set:
        raise Refused(422, "to and set are for letters that run again")
    return _start(visit, "drop", new, seed)


def _start(visit: Visit, do: Do, new: NewAction, seed: str) -> Answer:
    if not 1 <= len(new.topics) <= MOST_TOPICS:
        raise Refused(422, f"topics: expected 1 to {MOST_TOPICS:,} of them, got {len(new.topics):,}")
    if reason := next(filter(None, map(topic_error, [*new.topics, *([new.to] if new.to else [])])), None):
        raise Refused(422, reason)
    if new.group and not _GROUP.fullmatch(new.group):
        raise Refused(422, "group: expected the id of a group, such as 1f3c5b7d")
    visit.form = {"topic": ",".join(new.topics), "group": new.group, "to": new.to, "rate": new.rate or ""}  # for the audit line
    rate, topics = _rate(new.rate), sorted({*new.topics})

    def act(backend: Backend) -> str:
        if new.set:
            _try(visit, backend, topics, new)
        return start(visit.app, backend, do, topics, new.group, rate, new.to, new.set, seed)[0]

    name = visit.operate(act)
    if not name:
        raise Refused(404, "there are no such dead letters")
    return Answer(202, _found(visit, name), {"Location": f"{visit.request.url.path.rpartition('/')[0]}/{name}"})


def _try(visit: Visit, backend: Backend, topics: list[str], new: NewAction) -> None:
    """Refuse arguments that fit none of the oldest letters."""
    if reason := arguments_error([new.set]):
        raise Refused(422, reason)
    trial = tried(visit.app, backend, topics, new.group, new.set, new.to)
    if trial.read and not trial.fits:
        raise Refused(422, f"set: {trial.why}")


def _rate(text: str | None) -> float | None:
    try:
        return None if text is None else 1 / interval(text)
    except ValueError as error:
        raise Refused(422, f"rate: {error}") from None


def _listed(visit: Visit) -> list[Listed]:
    def read(backend: Backend) -> list[Listed]:
        if "dead_groups" not in backend.features:
            raise NotSupported("dead_groups", f"{backend.name}://")
        return dead_actions.listed(visit.app, backend)

    return visit.operate(read)


def _found(visit: Visit, name: str) -> ActionNow:
    for one in _listed(visit):
        if one.id == name:
            return _shown(visit, one)
    raise Refused(404, f"there is no action {name[:128]} on dead letters, or it ended more than a week ago")


def _shown(visit: Visit, one: Listed) -> ActionNow:
    progress, action = one.progress, one.progress.action
    return ActionNow(
        one.id, one.state, action.does, action.topics, action.group, action.total, progress.done, progress.kept, action.rate,
        action.to, action.by, progress.machine, progress.error if visit.sees_arguments else "",
    )  # fmt: skip


def actions(visit: Visit) -> Actions:
    """List the actions that go on, and those of the last week, newest first."""
    queried(visit, ())
    return Actions([_shown(visit, one) for one in reversed(_listed(visit))])


def action(visit: Visit) -> ActionNow:
    queried(visit, ())
    return _found(visit, visit.path("id"))


def cancel(visit: Visit, raw: bytes, seed: str) -> Answer:
    """Cancel an action: the batch that is under way is its last one."""
    name = visit.path("id")
    found = _found(visit, name)
    if not visit.operate(lambda backend: dead_actions.cancel(backend, name)):
        raise Refused(409, f"action {name} has ended: it is {found.state}")
    return Answer(200, Done(1))
