"""Actions on groups of dead letters that go on when the command that started them has ended, or a supervisor is killed.

An action is a document of kind ACTION, signed where there are `signing_keys`. The housekeeper of one machine carries it out: it
holds the document CLAIM, whose time to live it renews; if it is killed, another one goes on once that has expired. An action
takes the letters that were dead when it began, and that its search accepts, oldest first, in batches of up to BATCH. If a batch
is killed, its successor takes those that are left: letters that were retried are no longer among the dead ones, or died later
than the action began, so none is retried twice. A document of kind PROGRESS, which stays for KEPT seconds, says how far an
action is. To cancel an action is to delete its document.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Struct

from . import boundary
from .amending import INSTEAD, amended, setting
from .app import App
from .backends.base import Backend, JobRecord, State
from .backends.documents import ABSENT, Document, all_of
from .backends.letters import EXPIRED, GIVE_UP_EXPIRED
from .errors import (
    ArgumentError,
    BackendUnavailable,
    JobsError,
    MessageError,
    NotSupported,
    PayloadStoreUnavailable,
    SignatureError,
)
from .ids import new_id, new_token
from .machines import who
from .sealed import seal, unseal
from .search import EVERY, Search
from .topics import topic_error

ACTION: Final = "dead-action"
PROGRESS: Final = "dead-progress"
CLAIM: Final = "dead-claim"

BATCH: Final = 100
"""Most dead letters in one step."""

CLAIMED: Final = 15.0
"""Seconds for which an action belongs to a machine that is silent."""

KEPT: Final = 7 * 86400.0
"""Seconds for which it is known how an action ended."""

MOST_GROUPS: Final = 10_000
"""Most groups of a topic that an action on all of them takes."""

SLOWEST: Final = 1e-6
FASTEST: Final = 1e9
"""Rates of an action, in letters a second: what is outside is no rate that anybody chose."""

_PAGES = 10
_LOOKING = 0.2
"""Seconds after which a step reads no further page of letters, of which a search may have to fetch the arguments."""

Do: TypeAlias = Literal["retry", "drop", "edit"]
"""To edit is to retry with other arguments. An older release refuses this name, and so does not retry them as they were."""

Filtered: TypeAlias = Literal["retry those", "drop those", "edit those"]
"""The same, with a search. An older release, which would take all letters, refuses these names."""

FILTERED: Final[dict[Do, Filtered]] = dict(zip(get_args(Do), get_args(Filtered), strict=True))
PLAIN: Final[dict[str, Do]] = {**{do: do for do in FILTERED}, **{filtered: do for do, filtered in FILTERED.items()}}

PAST: Final[dict[str, str]] = {"retry": "retried", "drop": "dropped", "edit": "changed and retried"}

logger = logging.getLogger("jobs.housekeeper")


class Action(Struct, frozen=True, omit_defaults=True):
    """What is to be done, and to which dead letters."""

    do: Do | Filtered
    topics: list[str]
    until: float  # broker's clock: letters of jobs that died later stay
    total: int  # how many there were
    group: str = ""  # empty: all groups of the topics
    rate: float | None = None  # most letters a second
    to: str = ""  # retry, edit: the topic to which they move
    by: str = ""  # who started it, for people
    values: dict[str, Any] = {}  # edit: parameters and their new values
    search: Search = EVERY  # letters that it does not accept stay; `do` is one of Filtered if it has a test

    @property
    def does(self) -> Do:
        """Return what is done to the letters that the search accepts."""
        return PLAIN[self.do]


class Progress(Struct, omit_defaults=True):
    """How far an action is."""

    action: Action
    done: int = 0
    kept: int = 0  # letters that stay, because they cannot be retried, or their arguments cannot be searched
    others: int = 0  # letters that the search does not accept
    machine: str = ""  # that carries it out
    pending: list[str] = []  # ids that are being moved and retried
    ended: str = ""  # done | failed
    error: str = ""  # why it failed, or why the last letter stayed


class Listed(Struct, frozen=True):
    """An action, as operators see it."""

    id: str
    progress: Progress
    state: str  # waiting | running | done | failed | cancelled


def start(app: App, backend: Backend, action: Action, name: str = "") -> str:
    """Start an action; return its id, which may be chosen. Raises NotSupported, and ArgumentError for secret values."""
    needed = (
        "documents",
        "dead_groups",
        *(("amend",) if action.to or action.values else ()),
        *(("move",) if action.to else ()),
    )
    for feature in needed:
        if feature not in backend.features:
            raise NotSupported(feature, f"{backend.name}://", INSTEAD if feature in ("amend", "move") else "")
    if action.values and app.config.encryption_keys:
        raise ArgumentError(
            "arguments are encrypted here, but an action that supervisors carry out keeps its values readable in the backend: "
            "change the dead letters in the foreground"
        )
    if action.search.text is not None and app.config.encryption_keys:
        raise ArgumentError(
            "arguments are encrypted here, but an action that supervisors carry out keeps its --text readable in the backend: "
            "leave out --background"
        )
    name = name or new_id()
    do: Do | Filtered = FILTERED[action.does] if action.search.given else action.does
    action = msgspec.structs.replace(action, by=who(), do=do)
    backend.put_document(ACTION, name, seal(app.signer, ACTION, name, action), f"start-{name}")
    return name


def listed(app: App, backend: Backend) -> list[Listed]:
    """Return the actions that have not ended, and those that ended lately, oldest first. Raises NotSupported."""
    if "documents" not in backend.features:
        raise NotSupported("documents", f"{backend.name}://")
    running = {}
    for document in all_of(backend, ACTION):
        try:
            running[document.name] = _read(app, document.name, backend)
        except SignatureError:
            continue
    told = {document.name: _told(document) for document in all_of(backend, PROGRESS)}
    progress = {name: its for name, its in told.items() if its is not None}
    found = []
    for name in sorted(running.keys() | progress.keys()):
        action, its = running.get(name), progress.get(name)
        if action is not None and its is None:
            found.append(Listed(name, Progress(action), "waiting"))
        elif its is not None:
            found.append(Listed(name, its, its.ended or ("running" if action is not None else "cancelled")))
    return found


def _told(document: Document | None) -> Progress | None:
    """Return the progress that a document tells; None if there is none, or it cannot be read."""
    try:
        return None if document is None else msgspec.json.decode(document.data, type=Progress)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def cancel(backend: Backend, name: str) -> bool:
    """Cancel an action: the batch that is under way is its last one. Return whether there was one."""
    return backend.delete_document(ACTION, name, new_token())


def _read(app: App, name: str, backend: Backend) -> Action | None:
    """Return an action; None if it was cancelled or has ended. Raises SignatureError."""
    document = backend.document(ACTION, name)
    if document is None:
        return None
    try:
        action = msgspec.json.decode(unseal(app.signer, document).body, type=Action)
    except msgspec.MsgspecError as error:
        raise SignatureError(f"it is not an action that this release knows: {error}") from None
    if action.rate is not None and not SLOWEST <= action.rate <= FASTEST:
        raise SignatureError(f"its rate is {action.rate:g} a second, not {SLOWEST:g} to {FASTEST:g}")
    if action.to and (reason := topic_error(action.to)):
        raise SignatureError(f"its target: {reason}")
    if bool(action.values) != (action.does == "edit"):
        raise SignatureError("new arguments belong to an edit, and to nothing else")
    if action.search.given != (action.do in get_args(Filtered)):
        raise SignatureError("what it does, and the filters of its dead letters, do not belong together")
    return action


class _Running:
    """What this process knows of an action that it may carry out."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.progress: Progress | None = None  # once it is claimed
        self.claim = ABSENT  # version of the claim
        self.next = 0.0  # monotonic time of the next step
        self.held: set[str] = set()  # ids that stay
        self.others: set[str] = set()  # ids that the search does not accept
        self.begun: set[str] = set()  # ids that a killed machine had selected, and may have changed
        self.places = [(topic, action.group) for topic in action.topics if action.group]
        self.topics = [] if action.group else [*dict.fromkeys(action.topics)]
        self.offset = 0
        self.found_new = False  # whether letters were seen for the first time since the offset was last 0

    def release(self) -> None:
        self.progress, self.claim = None, ABSENT


class DeadActions:
    """The actions that this machine may carry out. One thread uses it: the housekeeper's."""

    def __init__(self, app: App, machine: str) -> None:
        self._app = app
        self._machine = machine
        self._version = -1
        self._running: dict[str, _Running] = {}
        self._refused: dict[str, int] = {}  # id → the version that was refused, and logged

    def look(self, backend: Backend, version: int) -> None:
        """Find the actions, if `version`, of their kind, has changed."""
        if version == self._version:
            return
        found = {document.name: document.version for document in all_of(backend, ACTION)}
        for name in self._running.keys() - found.keys():
            del self._running[name]
        self._refused = {name: its for name, its in self._refused.items() if found.get(name) == its}
        for name, its in found.items():
            if name not in self._running and name not in self._refused:
                try:
                    action = _read(self._app, name, backend)
                except SignatureError as error:
                    logger.error("action %s on dead letters is refused: %s", name, error)
                    self._refused[name] = its
                    continue
                if action is not None:
                    self._running[name] = _Running(action)
        self._version = version

    def next(self) -> float:
        """Return the monotonic time of the next step; infinite if there is none."""
        return min((one.next for one in self._running.values()), default=float("inf"))

    def work(self, backend: Backend) -> None:
        """Do a step of each action whose time has come. Raises BackendUnavailable."""
        for name, one in list(self._running.items()):
            if time.monotonic() < one.next:
                continue
            try:
                if self._claim(backend, name, one) and not self._step(backend, name, one):
                    del self._running[name]
            except BackendUnavailable:
                one.release()
                raise
            except Exception as error:  # whatever is wrong with an action, it must not end the housekeepers of all machines
                del self._running[name]
                self._end(backend, name, one, "failed", boundary.text_of(error))

    def _claim(self, backend: Backend, name: str, one: _Running) -> bool:
        """Claim an action, or renew the claim; return whether it is ours."""
        data = msgspec.json.encode(self._machine)
        pause = 1 / one.action.rate if one.action.rate else 0.0
        version = backend.put_document(CLAIM, name, data, new_token(), expected=one.claim, ttl=CLAIMED + pause)
        if version is None:  # another machine carries it out
            one.release()
            one.next = time.monotonic() + CLAIMED / 3
            return False
        one.claim = version
        return True

    def _step(self, backend: Backend, name: str, one: _Running) -> bool:
        """Do one batch; return whether the action goes on."""
        if _read(self._app, name, backend) is None:  # it was cancelled
            backend.delete_document(CLAIM, name, new_token(), expected=one.claim)
            return False
        if one.progress is None:
            one.progress = self._known(backend, name, one)
            if one.progress.ended:
                self._end(backend, name, one, one.progress.ended, one.progress.error)
                return False
        action, progress = one.action, one.progress
        size = BATCH if action.rate is None else max(1, min(BATCH, int(action.rate)))
        batch = self._batch(backend, one, size)
        progress.kept, progress.others = len(one.held), len(one.others)
        if batch is None:
            self._end(backend, name, one, "done", progress.error)
            return False
        if action.does != "drop":
            batch = self._unexpired(one, progress, batch)
        ids = [record.id for record in batch]
        if batch and (action.to or action.values):
            ids = self._change(backend, name, one, batch)
        changed = 0
        if ids:
            changed = backend.drop(ids) if action.does == "drop" else backend.requeue(ids)
        if changed < len(ids):
            topic, group = one.places[0]
            left = {record.id for record in backend.dead_in_group(topic, group, 2 * BATCH, one.offset)}
            one.held |= left.intersection(ids)
        progress.kept, progress.others = len(one.held), len(one.others)
        progress.done += changed
        one.begun.difference_update(record.id for record in batch)
        progress.pending = [*one.begun]
        self._store(backend, name, progress)
        seen = progress.done + progress.kept + progress.others
        all_done = seen >= action.total  # as far as was counted: the next step finds out
        at_once = action.rate is None or all_done or (not batch and action.search.given)  # that step has only looked
        one.next = time.monotonic() + (0.0 if at_once else max(len(batch), 1) / (action.rate or 1.0))
        return True

    def _known(self, backend: Backend, name: str, one: _Running) -> Progress:
        """Return the progress of an action that this machine has claimed, having retried what was pending."""
        action = one.action
        progress = _told(backend.document(PROGRESS, name)) or Progress(action)
        progress.machine = self._machine
        if progress.pending:
            found = [record for record in map(backend.get, progress.pending) if record is not None]
            moved = [record.id for record in found if record.state is State.DEAD and record.topic == action.to]
            progress.done += backend.requeue(moved) if moved else 0
            one.begun |= {*progress.pending} - {*moved}  # with new arguments, the search may no longer accept them
            progress.pending = [*one.begun]
        self._store(backend, name, progress)
        return progress

    def _store(self, backend: Backend, name: str, progress: Progress) -> None:
        backend.put_document(PROGRESS, name, msgspec.json.encode(progress), new_token(), ttl=KEPT)

    def _batch(self, backend: Backend, one: _Running, size: int) -> list[JobRecord] | None:
        """Return some letters, perhaps none yet; None once there are none left.

        Those that stay are passed by and read once more at the end: if others have left meanwhile, those behind have moved up.
        """
        until = time.monotonic() + _LOOKING
        for _ in range(_PAGES):
            if not one.places:
                if not one.topics:
                    return None
                topic = one.topics.pop(0)
                one.places = [(topic, group.fingerprint.id) for group in backend.dead_groups([topic], MOST_GROUPS)]
                continue
            topic, group = one.places[0]
            most = BATCH if one.offset or one.action.search.given else size
            page = backend.dead_in_group(topic, group, most, one.offset)
            old = [record for record in page if (record.since or 0.0) <= one.action.until]
            new = [record for record in old if record.id not in one.held and record.id not in one.others]
            one.found_new = one.found_new or bool(new)
            if chosen := [record for record in new if self._accepts(one, record)]:
                return chosen[:size]
            if old:  # all of them stay
                one.offset += len(old)
            elif one.offset and one.found_new:
                one.offset, one.found_new = 0, False
            else:
                one.places.pop(0)
                one.offset, one.found_new = 0, False
            if time.monotonic() >= until:
                break
        return []

    def _accepts(self, one: _Running, record: JobRecord) -> bool:
        """Return whether the search of an action accepts a letter; if not, the letter is noted as one that stays."""
        try:
            if record.id in one.begun or one.action.search.judges(self._app, record):
                return True
            one.others.add(record.id)
        except (MessageError, PayloadStoreUnavailable) as error:
            one.held.add(record.id)
            if one.progress is not None:
                one.progress.error = boundary.text_of(error)
        return False

    def _unexpired(self, one: _Running, progress: Progress, batch: list[JobRecord]) -> list[JobRecord]:
        """Return the letters that may be retried; the others, which have expired, stay."""
        expired = [record.id for record in batch if record.reason == EXPIRED]
        if expired:
            one.held.update(expired)
            progress.kept, progress.error = len(one.held), f"letters have expired: {GIVE_UP_EXPIRED}"
        return [record for record in batch if record.reason != EXPIRED]

    def _change(self, backend: Backend, name: str, one: _Running, batch: list[JobRecord]) -> list[str]:
        """Give letters the arguments and the topic of the action; return the ids of those that were changed.

        If this is killed, its successor retries what was moved, and changes again what stayed in its topic.
        """
        progress, to, values = one.progress, one.action.to, one.action.values
        assert progress is not None
        edit = setting(self._app, values) if values else None
        progress.pending = [*one.begun.union(record.id for record in batch)]
        self._store(backend, name, progress)
        moved = []
        for record in batch:
            try:
                if backend.amend(record.id, record.payload, amended(self._app, record, edit, to), to):
                    moved.append(record.id)
                else:  # it has changed
                    one.held.add(record.id)
            except BackendUnavailable:
                raise
            except JobsError as error:
                one.held.add(record.id)
                progress.kept, progress.error = len(one.held), boundary.text_of(error)
        return moved

    def _end(self, backend: Backend, name: str, one: _Running, ended: str, error: str) -> None:
        progress = one.progress or self._known(backend, name, one)
        progress.ended, progress.error, progress.pending = ended, error[:200], []
        self._store(backend, name, progress)
        backend.delete_document(ACTION, name, new_token())
        backend.delete_document(CLAIM, name, new_token())
        told = f"{PAST[progress.action.does]} {progress.done:,} of {progress.action.total:,}"
        level = logging.INFO if ended == "done" else logging.ERROR
        logger.log(level, "action %s on dead letters is %s: %s%s", name, ended, told, f": {error}" if error else "")
