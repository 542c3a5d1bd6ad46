"""Dead letters by what went wrong, and what is done with a group of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from .. import dead_actions
from ..amending import Edit, amended, setting
from ..app import App
from ..backends.base import Backend, JobRecord, State
from ..backends.flows import MOST_LISTED, was_refused
from ..backends.letters import EXPIRED, GIVE_UP_EXPIRED, UNNAMED, DeadGroup, Fingerprint
from ..dead_actions import Action, Do
from ..errors import BackendUnavailable, JobsError
from ..search import EVERY, Search
from .records import name_of

MOST_GROUPS = 1000
"""Most groups of a topic that are listed."""

MOST_TRIED = 100
"""Most dead letters whose new arguments are checked before an action begins."""


class Group(Struct):
    """Dead letters with the same fingerprint."""

    of: Fingerprint
    count: int = 0
    first: float = float("inf")
    last: float = 0.0
    jobs: set[str] = set()
    topics: set[str] = set()
    letters_in: dict[str, int] = {}  # by topic, if the backend has counted them

    def add(self, record: JobRecord, job: str) -> None:
        since = record.since or record.pushed_at  # as the filters do
        self.count += 1
        self.first, self.last = min(self.first, since), max(self.last, since)
        self.jobs.add(job)
        self.topics.add(record.topic)

    def add_counted(self, group: DeadGroup) -> None:
        """Add what the backend has counted in one topic."""
        self.count += group.letters
        self.first, self.last = min(self.first, group.first), max(self.last, group.last)
        self.topics.add(group.topic)
        self.letters_in[group.topic] = group.letters


def by_size(groups: Iterable[Group]) -> list[Group]:
    """Return groups, the largest first."""
    return sorted(groups, key=lambda group: (-group.count, -group.last))


def counted(
    app: App, backend: Backend, topics: Sequence[str], most: int = MOST_GROUPS, *, only: str = "", named: int | None = None
) -> tuple[list[Group], int]:
    """Return the groups that the backend counts, the largest first; with `only`, none but the one with this id.

    The first `named` of them, by default all, have the job of their oldest letter in each topic, each of which is a round trip.
    Also returns the number of letters that are not grouped yet. Raises NotSupported (dead_groups).
    """
    known: dict[str, Group] = {}
    unnamed = 0
    for one in backend.dead_groups(topics, most):
        if one.fingerprint.id == UNNAMED:
            unnamed += one.letters
        elif not only or one.fingerprint.id == only:
            known.setdefault(one.fingerprint.id, Group(one.fingerprint)).add_counted(one)
    found = by_size(known.values())
    for group in found[:named]:
        oldest = (backend.dead_in_group(topic, group.of.id, 1) for topic in sorted(group.topics))
        group.jobs = {name_of(app, letters[0]) for letters in oldest if letters}
    return found, unnamed


class Trial(Struct, frozen=True):
    """How new arguments fit the oldest dead letters of a group: how many were read, and why some cannot be changed, by id."""

    read: int
    misfits: dict[str, str]

    @property
    def fits(self) -> int:
        return self.read - len(self.misfits)

    @property
    def why(self) -> str:
        """Return why the first letter that cannot be changed cannot be; "" if all can."""
        return next(iter(self.misfits.values()), "")


def tried(
    app: App, backend: Backend, topics: Sequence[str], group: str, values: Mapping[str, Any], to: str = "",
    search: Search = EVERY,
) -> Trial:  # fmt: skip
    """Check new arguments against the signatures of the jobs of up to MOST_TRIED letters; change nothing.

    Of all groups, without `group`; of the letters that are read, only those that the search accepts. The jobs have to be
    imported here.
    """
    records: list[JobRecord] = []
    for each in chosen(backend, topics, group):
        if len(records) < MOST_TRIED:
            records += backend.dead_in_group(each.topic, each.fingerprint.id, MOST_TRIED - len(records))
    records = [record for record in records if search.accepts(app, record)]
    edit = setting(app, dict(values))
    reasons = {record.id: reason for record in records if (reason := _misfit(app, record, edit, to))}
    return Trial(len(records), reasons)


def _misfit(app: App, record: JobRecord, edit: Edit, to: str) -> str:
    try:
        amended(app, record, edit, to)
    except BackendUnavailable:
        raise
    except JobsError as error:
        return str(error)
    return ""


def start(
    app: App, backend: Backend, do: Do, topics: Sequence[str], group: str = "", rate: float | None = None, to: str = "",
    values: Mapping[str, Any] | None = None, name: str = "", search: Search = EVERY,
) -> tuple[str, int]:  # fmt: skip
    """Start an action that the supervisors carry out, on a group in these topics, or on all their dead letters.

    With `values`, a retry gives these parameters other values. With `search`, letters that it does not accept stay. Returns its
    id, which is `name` if that is given, and the number of letters among which it searches; an empty id if there are none.
    Raises NotSupported, and ArgumentError.
    """
    found = chosen(backend, topics, group)
    if not found:
        return "", 0
    total = sum(each.letters for each in found)
    dead_in, until = sorted({each.topic for each in found}), max(each.last for each in found)
    action = Action("edit" if values else do, dead_in, until, total, group, rate, to, values=dict(values or {}), search=search)
    return dead_actions.start(app, backend, action, name), total


def chosen(backend: Backend, topics: Sequence[str], group: str = "") -> list[DeadGroup]:
    """Return what the backend counts of a group in these topics, or of all groups."""
    found = backend.dead_groups(topics, dead_actions.MOST_GROUPS)
    return [each for each in found if not group or each.fingerprint.id == group]


HAS_EXPIRED: Final = f"it has expired: {GIVE_UP_EXPIRED}"
"""Why a dead letter that was not started in time is not retried."""


def has_expired(record: JobRecord) -> bool:
    """Return whether a job is dead because it was not started in time."""
    return record.state is State.DEAD and record.reason == EXPIRED


def retry_flow(backend: Backend, flow_id: str, most: float = math.inf) -> tuple[int, int]:
    """Run about `most` dead members of a flow again; return how many, and how many stay dead because they have expired."""
    expired, others = 0, list[str]()
    for offset in itertools.count(0, MOST_LISTED):
        page = backend.flow_members(flow_id, MOST_LISTED, offset, dead=True)
        others += [member.id for member in page if member.reason != EXPIRED]
        expired += sum(member.reason == EXPIRED for member in page)
        if len(page) < MOST_LISTED or len(others) >= most:
            break
    batches = range(0, len(others), dead_actions.BATCH)
    return sum(backend.requeue(others[start : start + dead_actions.BATCH]) for start in batches), expired


def held(backend: Backend, job_id: str) -> tuple[JobRecord | None, str]:
    """Return a job, and why it stays dead: it has expired, or its flow refused it, was cancelled, or forgotten."""
    record = backend.get(job_id)
    if record is not None and has_expired(record):
        return record, HAS_EXPIRED
    if record is None or record.member is None or record.state is not State.DEAD:
        return record, ""
    if was_refused(record.id, record.reason):
        return record, "its flow refused it: enqueue the job anew"
    flow = backend.flow(record.member.flow)
    if flow is None:
        return record, f"its flow {record.member.flow} ended longer ago than its ttl"
    return record, f"its flow {flow.id} was cancelled" if flow.state == "cancelled" else ""
