"""Dead letters by what went wrong, and what is done with a group of them: at once to a few, by the supervisors to many."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from starlette.responses import Response

from jobs_core import ArgumentError, JobsError, dead_actions
from jobs_core.amending import amended, arguments_of, setting
from jobs_core.backends.base import Backend, JobRecord, State
from jobs_core.config_rules import arguments as arguments_error
from jobs_core.dead_actions import PAST, Do, Listed
from jobs_core.operating.dead import Group, Trial, counted, start, tried
from jobs_core.topics import topic_error
from jobs_core.units import count, interval

from ..errors import Refused
from ..hiding import without_message
from ..live import packed
from ..visit import Visit
from .jobs import PAGE, acts_on, row_of

if TYPE_CHECKING:
    from ..site import Site

MOST = 50
"""Groups that the page shows, the largest ones."""

AT_ONCE = 100
"""Dead letters that are retried or dropped in the request itself if the backend has no documents."""

VALUE = "value-"
"""What the names of fields with new arguments begin with."""

MOST_ACTIONS = 20
"""Actions that the page shows, the newest first."""

MOST_PARAMETERS = 30
"""Parameters of a job for which the page has a field."""


class Seen(Struct, frozen=True):
    """What is read of all dead letters."""

    topics: dict[str, int]  # with the number of their dead letters
    groups: list[Group] | None  # None: the backend does not group them
    unnamed: int
    actions: list[Listed]  # of the last week, newest first


def show(visit: Visit) -> Response:
    """List the groups of dead letters, the largest first."""
    visit.snapshot()  # the page tells its age
    seen: Seen = visit.site.read("dead")
    return visit.page(
        "dead.html",
        groups=seen.groups and [_as_seen(visit, each) for each in seen.groups[:MOST]],
        more=max(0, len(seen.groups or ()) - MOST),
        unnamed=seen.unnamed,
        topics=seen.topics,
        actions=seen.actions,
    )


def _as_seen(visit: Visit, found: Group) -> Group:
    """Return a group as far as the user may see it."""
    return found if visit.sees_arguments else replace(found, of=without_message(found.of))


def read(site: Site, name: str = "") -> Seen:
    """Read the groups of dead letters, and the actions on them."""
    dead_in = {name: number.dead for name, number in site.snapshot().topics.items() if number.dead}

    def look(backend: Backend) -> Seen:
        groups: list[Group] | None = None
        unnamed = 0
        if "dead_groups" in backend.features:
            groups, unnamed = counted(site.app, backend, list(dead_in), named=MOST) if dead_in else ([], 0)
        actions = dead_actions.listed(site.app, backend) if "documents" in backend.features else []
        return Seen(dead_in, groups, unnamed, list(reversed(actions))[:MOST_ACTIONS])

    return site.app.operate(look)


def still(seen: Seen) -> bytes:
    """Return what counts as a change of dead letters."""
    return packed(seen)


def group(visit: Visit) -> Response:
    """Show a group: what went wrong, its dead letters, and what can be done with them."""
    return _page(visit, visit.query("id"))


def _page(visit: Visit, name: str, problem: str = "") -> Response:
    """Show a group; with a problem, what the user has filled in stays."""
    offset = visit.number("offset", 0, 0, 100_000)
    seen: SeenGroup = visit.site.read("dead/group", f"{name} {offset}")
    found, records = _as_seen(visit, seen.group), seen.records
    features = visit.operate(lambda backend: backend.features)
    return visit.page(
        "group.html",
        422 if problem else 200,
        group=found,
        rows=[row_of(visit, record) for record in records[:PAGE]],
        acts=acts_on(visit, State.DEAD),
        more=len(records) > PAGE,
        offset=offset,
        page=PAGE,
        can_move={"amend", "move"} <= features,
        can_edit="amend" in features,
        parameters=_parameters(visit, found, records) if "amend" in features else [],
        in_background="documents" in features,
        most=AT_ONCE,
        problem=problem,
    )


class SeenGroup(Struct, frozen=True):
    """What is read of a group."""

    group: Group
    records: list[JobRecord]  # of the page, and one more


def read_group(site: Site, name: str) -> SeenGroup:
    """Read a page of a group, which is named with the offset of the page; refuse an unknown group."""
    group, _, text = name.rpartition(" ")
    offset = min(int(text), 100_000) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    found = _known(site, group)
    return SeenGroup(found, site.app.operate(lambda backend: _letters(backend, found, offset)))


def still_group(seen: SeenGroup) -> bytes:
    """Return what counts as a change of a group: everything but the time."""
    return packed((seen.group, [replace(record, broker_now=0.0) for record in seen.records]))


def _letters(backend: Backend, found: Group, offset: int) -> list[JobRecord]:
    """Return the dead letters of a page, topic by topic, and one more if there are more."""
    records: list[JobRecord] = []
    for topic, number in sorted(found.letters_in.items()):
        if (room := PAGE + 1 - len(records)) and offset < number:
            records += backend.dead_in_group(topic, found.of.id, room, offset)
        offset = max(0, offset - number)
    return records


class Parameter(Struct, frozen=True):
    """A parameter of the jobs of a group."""

    name: str
    written: str  # its type and default
    now: str  # its value in the oldest letter, as JSON; "" if that does not pass it
    typed: str  # what the user has typed


def _parameters(visit: Visit, found: Group, records: list[JobRecord]) -> list[Parameter]:
    """Return the parameters of the jobs of a group that are known here; none if there is no such job."""
    written: dict[str, str] = {}
    for name in sorted(found.jobs):
        try:
            written |= visit.app.registry.find(name).arguments.written()
        except JobsError:
            continue
    now = _arguments(visit, records[0]) if records else {}
    return [
        Parameter(name, text, _json(now[name]) if name in now else "", visit.form.get(VALUE + name, ""))
        for name, text in list(written.items())[:MOST_PARAMETERS]
    ]


def _arguments(visit: Visit, record: JobRecord) -> dict[str, Any]:
    """Return the arguments of a letter by the names of their parameters, as far as they can be read here."""
    try:
        message = arguments_of(visit.app, record)
        known = visit.app.registry.find(message.job or "").arguments
        names = list(known.written())
        return {**dict(zip(names, message.args, strict=False)), **message.kwargs}
    except JobsError:
        return {}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()[:200]


def _find(visit: Visit, name: str) -> Group:
    return _known(visit.site, name)


def _known(site: Site, name: str) -> Group:
    """Return a group by its id; refuse an unknown one."""
    topics = [topic for topic, number in site.snapshot().topics.items() if number.dead]
    groups, _ = site.app.operate(lambda backend: counted(site.app, backend, topics, only=name)) if topics else ([], 0)
    found = next((each for each in groups if each.of.id == name), None)
    if found is None:
        raise Refused(404, f"there are no dead letters of group {name} any more")
    return found


class Change(Struct, frozen=True):
    """What is to be done with the letters of a group."""

    do: Do
    rate: float | None = None
    to: str = ""
    values: dict[str, Any] = {}

    @property
    def past(self) -> str:
        return PAST["edit" if self.values else self.do]


def retry(visit: Visit) -> Response:
    """Run the dead letters of a group again, perhaps with other arguments or in another topic, at a rate."""
    found = _find(visit, visit.field("group"))
    to = visit.form.get("to", "").strip()
    if to and (reason := topic_error(to)):
        raise Refused(422, reason)
    change = Change("retry", _rate(visit.form.get("rate", "")), to)
    try:
        change = replace(change, values=_values(visit))
        if change.values and (asked := _ask(visit, found, change)):
            return asked
        return _act(visit, found, change)
    except JobsError as error:
        if not any(name.startswith(VALUE) for name in visit.form):
            raise
        return _page(visit, found.of.id, str(error))


def drop(visit: Visit) -> Response:
    """Delete the dead letters of a group for good."""
    found = _find(visit, visit.field("group"))
    letters = count(found.count, "dead letter")
    if asked := visit.unsure(f"Delete {letters} for good?", str(found.of.kind), visit.url("dead", "group", id=found.of.id)):
        return asked
    return _act(visit, found, Change("drop"))


def _values(visit: Visit) -> dict[str, Any]:
    """Return the new arguments of a form: JSON if it is valid JSON, else a string, as on the command line."""
    found: dict[str, Any] = {}
    for field, text in visit.form.items():
        name = field.removeprefix(VALUE)
        if name == field or not text.strip():
            continue
        try:
            found[name] = msgspec.json.decode(text.strip().encode())
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            found[name] = text
        if reason := arguments_error(found[name]):
            raise ArgumentError(f"{name}: {reason}")
    return found


def _ask(visit: Visit, found: Group, change: Change) -> Response | None:
    """Check new arguments, and ask whether they are meant; None if the user is sure. Raises ArgumentError."""
    topics, values = sorted(found.topics), change.values
    trial = visit.operate(lambda backend: tried(visit.app, backend, topics, found.of.id, values, change.to))
    if not trial.fits:
        raise ArgumentError(trial.why or "there are no such dead letters any more")
    question = f"Change {count(found.count, 'dead letter')} and run them again?"
    return visit.unsure(question, _told(trial), visit.url("dead", "group", id=found.of.id), _example(visit, found, change))


def _told(trial: Trial) -> str:
    """Say what was checked."""
    checked = f"The arguments fit the signature in {trial.fits:,} of {count(trial.read, 'letter')} checked."
    stay = f" {count(len(trial.misfits), 'letter')} would stay dead: {trial.why}." if trial.misfits else ""
    return checked + stay


def _example(visit: Visit, found: Group, change: Change) -> list[tuple[str, str]]:
    """Return the arguments of the oldest letter that can be changed, before and after."""
    edit = setting(visit.app, change.values)
    for topic in sorted(found.topics):
        for record in visit.operate(lambda backend, topic=topic: backend.dead_in_group(topic, found.of.id, AT_ONCE)):  # type: ignore[misc]
            try:
                message = arguments_of(visit.app, record)
                before, after = (message.args, message.kwargs), edit(message)
                amended(visit.app, record, edit, change.to)
            except JobsError:
                continue
            return [(f"{record.id} has", _call(*before)), ("it would have", _call(*after))]
    return []


def _call(args: list[Any], kwargs: dict[str, Any]) -> str:
    """Return arguments as a call writes them."""
    named = [f"{name}={msgspec.json.encode(value).decode()}" for name, value in kwargs.items()]
    return ", ".join([*(msgspec.json.encode(value).decode() for value in args), *named])[:2000]


def _act(visit: Visit, found: Group, change: Change) -> Response:
    topics = sorted(found.topics)
    if "documents" not in visit.operate(lambda backend: backend.features) or (
        change.values and visit.app.config.encryption_keys  # an action would keep the new arguments readable
    ):
        return _at_once(visit, change, found, topics)
    _, total = visit.operate(
        lambda backend: start(visit.app, backend, change.do, topics, found.of.id, change.rate, change.to, change.values)
    )
    where = f", in {change.to}" if change.to else ""
    said = f"{count(total, 'dead letter')} will be {change.past} by the supervisors{where}"
    return visit.back(f"{said}: see below how far they are.", visit.url("dead"))


def _at_once(visit: Visit, change: Change, found: Group, topics: list[str]) -> Response:
    """Act in the request: on a backend where no supervisor can be told to."""
    changed = 0
    for topic in topics:
        if changed < AT_ONCE:
            changed += visit.operate(functools.partial(_in_topic, visit, change, found.of.id, topic, AT_ONCE - changed))
    left = found.count - changed
    rest = f" {count(left, 'letter')} {'is' if left == 1 else 'are'} left." if left > 0 else ""
    return visit.back(f"{count(changed, 'dead letter')} {change.past}.{rest}", visit.url("dead"))


def _in_topic(visit: Visit, change: Change, group: str, topic: str, most: int, backend: Backend) -> int:
    """Act on letters of one topic; return how many there were."""
    records = backend.dead_in_group(topic, group, most)
    ids = [record.id for record in records if not change.values or _amend(visit, record, change)]
    if not ids:
        return 0
    return backend.drop(ids) if change.do == "drop" else backend.requeue(ids)


def _amend(visit: Visit, record: JobRecord, change: Change) -> bool:
    """Change a letter; return whether it fits, and is as it was read."""
    try:
        payload = amended(visit.app, record, setting(visit.app, change.values), change.to)
    except JobsError:
        return False
    return visit.operate(lambda backend: backend.amend(record.id, record.payload, payload, change.to))


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
