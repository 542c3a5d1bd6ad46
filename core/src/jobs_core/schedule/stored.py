"""Entries of the schedule that are made, paused and changed at run time, as documents that all machines read.

A document of kind `schedule` has the name of its entry. It defines the entry, or only says whether the entry of this name in
code or configuration is paused. Ticks before its last change are not enqueued: so an entry begins when it is added, and the
ticks of a pause are left out. Each tick is pushed only if the document still is what the machine has read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Struct

from .. import boundary, events
from ..app import current_app
from ..backends.base import Backend
from ..backends.documents import ABSENT, LARGEST, NAME, Document, all_of
from ..errors import NotSupported, ScheduleError, SignatureError
from ..ids import new_token
from ..job import Call
from ..machines import who
from ..message import decode, encode
from ..options import encrypts
from ..sealed import seal, unseal
from ..units import seconds as seconds_of
from ..units import shown
from .entries import Entry, entries, problems_of
from .times import zone

if TYPE_CHECKING:
    from ..app import App
    from ..handle import JobHandle

T = TypeVar("T")

KIND = "schedule"
"""The kind of these documents."""

FEATURE = (
    "documents",
    "the schedule cannot change at run time there: use [schedule] in the configuration, set [results] url, or see "
    '"Backends" in the documentation',
)


HIDDEN = "code or configuration has an entry of this name, and that one is used: remove one of them"
"""Why the document of an entry is not obeyed, if its name is taken."""


class StoredEntry(Struct, frozen=True, omit_defaults=True):
    """The body of a document: an entry, or, without a job, whether the entry of this name elsewhere is paused."""

    job: str = ""
    cron: str | None = None
    every: float | None = None
    tz: str = "UTC"
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    topic: str | None = None
    missed: Literal["skip", "once"] = "once"
    paused: bool = False
    by: str = ""  # who changed it last, for people


class Stored(Struct, frozen=True):
    """A document as it was read."""

    name: str
    version: int
    since: int  # milliseconds: ticks up to then are not enqueued
    issued_at: int
    said: StoredEntry
    entry: Entry | None = None  # if it defines one


class Known:
    """What one reader knows of the documents; it logs what it refuses once."""

    def __init__(self, app: App, static: Sequence[Entry]) -> None:
        self._app = app
        self._static = {entry.name for entry in static}
        self._issued: dict[str, int] = {}  # name → when the newest document that was accepted had been issued
        self._refused: dict[str, int] = {}  # name → the version that was refused
        self.refused: dict[str, str] = {}  # name → why its document is not obeyed
        self.version = -1  # of the kind, as it was last read
        self.stored: dict[str, Stored] = {}
        self.versions: dict[str, int] = {}  # of all documents, those that are refused too

    def read(self, documents: Sequence[Document]) -> None:
        """Take over all documents of the kind."""
        found = {}
        self.refused = {}
        for document in documents:
            try:
                found[document.name] = self._read(document)
            except Exception as error:  # whatever is wrong with a document, it must not end the housekeepers of all machines
                self._refuse(document, boundary.text_of(error))
                if isinstance(error, SignatureError) and document.name in self.stored:
                    found[document.name] = self.stored[document.name]  # what held before holds on
        self._issued = {name: stored.issued_at for name, stored in found.items()}
        self.stored = found
        self.versions = {document.name: document.version for document in documents}

    def _refuse(self, document: Document, why: str) -> None:
        self.refused[document.name] = why
        if self._refused.get(document.name) != document.version:
            self._refused[document.name] = document.version
            events.emit(events.ScheduleDocumentRefused(document.name, why))

    def _read(self, document: Document) -> Stored:
        stored = read_document(self._app, document)
        if stored.issued_at < self._issued.get(document.name, 0):
            raise SignatureError("it is older than the one that it replaces")
        if stored.entry is None:
            return stored
        if document.name in self._static:
            self._refuse(document, HIDDEN)
            return msgspec.structs.replace(stored, entry=None)
        if problems := list(problems_of(self._app, stored.entry)):
            raise ScheduleError("; ".join(problems))
        return stored


def read_document(app: App, document: Document) -> Stored:
    """Return what a document says; raise SignatureError if it cannot be trusted, or ScheduleError."""
    sealed = unseal(app.signer, document)
    try:
        said = msgspec.json.decode(sealed.body, type=StoredEntry)
    except msgspec.MsgspecError as error:
        raise ScheduleError(f"it does not describe an entry: {error}") from None
    entry = _entry(document.name, said) if said.job else None
    if entry is not None:
        try:
            _ = entry.after, zone(entry.tz)
        except ValueError as error:
            raise ScheduleError(f"{entry.where}: {error}") from None
    return Stored(document.name, document.version, int(document.changed_at * 1000), sealed.issued_at, said, entry)


def _entry(name: str, said: StoredEntry) -> Entry:
    if (said.cron is None) == (said.every is None):
        raise ScheduleError("an entry has either cron or every")
    return Entry(
        name,
        f"schedule entry {name}",
        said.job,
        said.cron,
        said.every,
        said.tz,
        said.args,
        said.kwargs,
        said.topic,
        said.missed,
    )


class Schedule:
    """The schedule of an application's backend, to be changed at run time, by any process that can enqueue.

    Without `app`, the current application. Any thread may use it. Methods raise NotSupported (documents), BackendUnavailable,
    and ScheduleError for what cannot be done. A change holds when the method has returned: on backends with `guards`, no tick
    of a paused or removed entry is enqueued from then on.
    """

    def __init__(self, app: App | None = None) -> None:
        self._app = app

    @property
    def app(self) -> App:
        return self._app or current_app()

    def add(
        self,
        name: str,
        call: Call[Any],
        *,
        cron: str | None = None,
        every: float | str | None = None,
        tz: str | None = None,
        missed: Literal["skip", "once"] = "once",
        replace: bool = False,
    ) -> None:
        """Add an entry: `schedule.add("acme", report.call("acme"), cron="0 6 * * MON", tz="Europe/Berlin")`.

        `tz` belongs to `cron` and is UTC by default. Of the options of `using`, the entry keeps the topic alone. With
        `replace`, an entry of this name that was made at run time is replaced; a pause stays.
        """
        app = self.app
        said = self._described(call, cron, every, tz, missed)
        self._refuse_static(name)
        entry = _entry(name, said)
        if problems := list(problems_of(app, entry)):
            raise ScheduleError("; ".join(problems))

        def change(before: StoredEntry | None) -> StoredEntry:
            if before is not None and before.job and not replace:
                hint = "remove it first, or replace it (--replace, replace=True)"
                raise ScheduleError(f"schedule entry {name} exists already: {hint}")
            return msgspec.structs.replace(said, paused=before.paused if before is not None else False)

        self._change(name, change)

    def remove(self, name: str) -> None:
        """Remove an entry that was made at run time."""

        def remove(backend: Backend) -> bool:
            document = backend.document(KIND, name)
            if document is None or _only_pauses(app, document):
                return False
            return backend.delete_document(KIND, name, new_token(), expected=document.version)

        app = self.app
        _refuse_name(name)
        if not self._operate(remove):
            static = name in self._static_names()
            hint = (
                "it is in the code or the configuration: remove it there, or pause it" if static else "there is no such entry"
            )
            raise ScheduleError(f"schedule entry {name} was not made at run time: {hint}")

    def pause(self, name: str) -> None:
        """Enqueue no ticks of an entry on any machine until it is resumed; entries of code and configuration too."""
        self._set_paused(name, paused=True)

    def resume(self, name: str) -> None:
        """Enqueue the ticks of a paused entry again, from now on."""
        self._set_paused(name, paused=False)

    def run(self, name: str) -> JobHandle[Any]:
        """Enqueue the job of an entry now, whether it is paused or not; its ticks stay as they are."""
        try:
            stored = {one.name: one for one in self.stored()}.get(name)
        except NotSupported:  # a backend without documents has the entries of code and configuration alone
            stored = None
        entry = stored.entry if stored is not None else None
        entry = entry or next((one for one in entries(self.app) if one.name == name), None)
        if entry is None:
            raise self._unknown(name)
        return self.app.enqueue(call_of(self.app, entry, {"schedule": name, "tick": time.time()}))

    def stored(self) -> list[Stored]:
        """Return what the documents of the backend say, by name; those that cannot be trusted or read are left out."""
        stored, refused = self.read()
        for name, why in refused.items():
            events.emit(events.ScheduleDocumentRefused(name, why))
        return stored

    def read(self) -> tuple[list[Stored], dict[str, str]]:
        """Return what the documents of the backend say, by name; and why others cannot be trusted or read, by name."""
        found, refused = [], {}
        for document in self._operate(_all):
            try:
                found.append(read_document(self.app, document))
            except (SignatureError, ScheduleError) as error:
                refused[document.name] = str(error)
        return found, refused

    def _set_paused(self, name: str, *, paused: bool) -> None:
        def change(before: StoredEntry | None) -> StoredEntry:
            if before is None and name not in self._static_names():
                raise self._unknown(name)
            return msgspec.structs.replace(before or StoredEntry(), paused=paused)

        self._change(name, change)

    def _change(self, name: str, change: Callable[[StoredEntry | None], StoredEntry]) -> None:
        """Replace a document by what `change` makes of it, again whenever another process was faster."""
        app = self.app

        def attempt(backend: Backend) -> bool:
            document = backend.document(KIND, name)
            before = None if document is None else _trusted(app, document)
            said = msgspec.structs.replace(change(before.said if before is not None else None), by=who())
            version, issued_at = (before.version, before.issued_at) if before is not None else (ABSENT, 0)
            data = seal(app.signer, KIND, name, said, replaces=version, after=issued_at)
            if len(data) > LARGEST:
                raise ScheduleError(
                    f"schedule entry {name} takes {len(data):,} bytes with its arguments, the most is {LARGEST:,}: "
                    "pass a reference (a path, a key) instead of the data"
                )
            return backend.put_document(KIND, name, data, new_token(), expected=version) is not None

        _refuse_name(name)
        while not self._operate(attempt):
            pass

    def _operate(self, action: Callable[[Backend], T]) -> T:
        def supported(backend: Backend) -> T:
            if "documents" not in backend.features:
                raise NotSupported(FEATURE[0], f"{backend.name}://", FEATURE[1])
            return action(backend)

        return self.app.operate(supported)

    def _static_names(self) -> set[str]:
        return {*self.app.config.schedule, *(job.name for job in self.app.registry if job.cron is not None)}

    def _refuse_static(self, name: str) -> None:
        if name in self._static_names():
            raise ScheduleError(f"schedule entry {name} is in the code or the configuration: choose another name")

    def _unknown(self, name: str) -> ScheduleError:
        return ScheduleError(f"there is no schedule entry {name}: `jobsctl schedule` lists them")

    def _described(
        self, call: Call[Any], cron: str | None, every: float | str | None, tz: str | None, missed: Literal["skip", "once"]
    ) -> StoredEntry:
        """Return an entry for a call, with its arguments as JSON."""
        if not isinstance(call, Call):
            name = getattr(call, "name", None) or getattr(call, "__name__", None)
            example = f"{name}.call(...)" if isinstance(name, str) else "my_job.call(...)"
            raise ScheduleError(f"expected the call of a job, such as {example}, got {shown(call)}")
        app, job = self.app, call.job
        if (cron is None) == (every is None):
            raise ScheduleError(f"{job.name}: give either cron or every")
        if tz is not None and cron is None:
            raise ScheduleError(f"{job.name}: tz belongs to cron, but this entry has every: leave it out")
        try:
            seconds = None if every is None else float(seconds_of(every))
        except ValueError as error:
            raise ScheduleError(f"{job.name}: every: {error}") from None
        given = {name for name in job.overrides.__struct_fields__ if getattr(job.overrides, name) is not UNSET}
        if others := sorted(given - {"topic"}):
            raise ScheduleError(f"{job.name}: an entry keeps no {', '.join(others)} of using(): give it to @job")
        message = app.message(call)
        if (message.args or message.kwargs) and encrypts(job.options, message.topic, app.config):
            raise ScheduleError(f"{job.name} encrypts its arguments, but an entry keeps them readable: schedule it without any")
        plain = decode(encode(message, limit=int(app.config.max_message)), topic=message.topic)
        topic = message.topic if "topic" in given else None
        return StoredEntry(job.name, cron, seconds, tz or "UTC", list(plain.args), dict(plain.kwargs), topic, missed)


def _refuse_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ScheduleError(
            f"invalid name of a schedule entry {shown(name)}: use 1 to 200 characters, none of them a control character"
        )


def call_of(app: App, entry: Entry, headers: Mapping[str, Any]) -> Call[Any]:
    """Return the call of an entry's job."""
    job = app.registry.find(entry.job).using(headers=headers)
    if entry.topic is not None:
        job = job.using(topic=entry.topic)
    return Call(job, tuple(entry.args), dict(entry.kwargs))


def _all(backend: Backend) -> list[Document]:
    return list(all_of(backend, KIND))


def _only_pauses(app: App, document: Document) -> bool:
    """Return whether a document defines no entry. One that cannot be trusted or read may be removed."""
    try:
        return not read_document(app, document).said.job
    except (SignatureError, ScheduleError):
        return False


def _trusted(app: App, document: Document) -> Stored:
    try:
        return read_document(app, document)
    except SignatureError as error:
        raise ScheduleError(
            f"schedule entry {document.name} cannot be changed, because it cannot be trusted: {error}"
        ) from None


__all__ = ["KIND", "Known", "Schedule", "Stored", "StoredEntry", "call_of", "read_document"]
