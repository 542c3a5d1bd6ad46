"""Enqueue jobs that another program describes as data: checked against the signature where the application's jobs are known.

Nothing is imported because a description names it. In a process without the application's jobs, a job goes as it is, like one
of a producer in another language, and the worker that gets it checks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from ..app import App
from ..backends.base import Outgoing
from ..errors import ArgumentError, JobDefinitionError
from ..ids import new_id, new_token
from ..job import Call
from ..message import decode, encode, new_message
from ..options import DEFAULT_TOPIC
from ..stamp import stamp_of
from ..units import seconds
from ..webhooks.job import NAME as WEBHOOK

BATCH = 1000
"""Most jobs of one push."""


class NewJob(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A job to enqueue, with the options of `using`."""

    job: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    topic: str | None = None
    priority: int | None = None
    delay: float | str | None = None
    at: datetime | None = None
    expires: float | str | None = None
    expires_at: datetime | None = None
    retries: int | None = None
    timeout: float | str | None = None
    unique: bool | str | None = None
    key: str | None = None
    headers: dict[str, Any] | None = None
    id: str | None = None


OPTIONS = tuple(name for name in NewJob.__struct_fields__ if name not in ("job", "args", "kwargs"))

_FOREIGN = ("topic", "priority", "delay", "expires", "retries", "timeout", "key", "headers", "id")
"""Options that need no knowledge of the job."""


class Enqueued(Struct, frozen=True):
    """What became of a job: its id; or, if it was not created, the id of the job that it would have duplicated."""

    id: str
    topic: str
    created: bool


class Producing:
    """Makes and pushes the jobs of one request. Raises JobsError of the kinds that an enqueue raises."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._last: tuple[str, dict[str, Any], Any] | None = None

    def enqueue(self, new: NewJob) -> Enqueued:
        """Enqueue one job; raise DuplicateJob if its unique key is taken and says so."""
        call = self._call(new)
        if call is None:
            with self.around("job", new.job, new.topic or DEFAULT_TOPIC):
                return self.push([self._foreign(new, None)])[0]
        handle = self._app.enqueue(call)
        return Enqueued(handle.id, handle.topic, handle.created is not False)

    def around(self, what: str, job: str | None = None, topic: str | None = None) -> AbstractContextManager[None]:
        """Return what plugins want to be open around `made` and `push`: "job", or "batch" without a name and a topic."""
        return self._app.around_enqueue(what, job, topic)

    def made(self, new: NewJob, id: str | None = None) -> Outgoing:
        """Return a job in the form that a backend takes, with `id` if it has none of its own."""
        if id is not None and new.id is None:
            new = msgspec.structs.replace(new, id=id)
        call = self._call(new)
        return self._foreign(new, id) if call is None else self._app.prepare(call)[0]

    def push(self, jobs: Sequence[Outgoing], request: str = "") -> list[Enqueued]:
        """Store jobs in batches; each is stored as a whole, in order. With the same `request`, a repetition adds nothing."""
        found: list[Enqueued] = []
        seen: set[str] = set()  # of an id that comes twice, the backend keeps the first job
        for n, batch in enumerate(_batches(jobs)):
            told = f"{request}/{n}" if request else new_token()
            conflicts = self._app.operate(lambda backend, batch=batch, told=told: backend.push(batch, told))  # type: ignore[misc]
            found += [_told(job, conflicts, seen) for job in batch]
        return found

    def topic_of(self, new: NewJob) -> str:
        """Return the topic of a job before any hook. Raises UnknownJob."""
        call = None if new.topic else self._call(new)
        return new.topic or (DEFAULT_TOPIC if call is None else stamp_of(call.job, self._app.config).envelope.topic)

    def _call(self, new: NewJob) -> Call[Any] | None:
        """Return the call of a job that this process knows, with checked arguments; None if it knows no jobs at all."""
        if new.job == WEBHOOK:  # it signs what it sends: no other program may have it sign something
            raise JobDefinitionError(f"{WEBHOOK} is made by jobs itself: configure [webhooks.NAME] instead")
        registry = self._app.registry
        if registry.get(new.job) is None and all(job.name == WEBHOOK for job in registry):
            return None
        options = {name: value for name in OPTIONS if (value := getattr(new, name)) is not None}
        if self._last is None or self._last[:2] != (new.job, options):
            job = registry.find(new.job)
            self._last = new.job, options, job.using(**options) if options else job
        call: Call[Any] = Call(self._last[2], tuple(new.args), new.kwargs)
        call.job.arguments.check(call.args, call.kwargs)
        return call

    def _foreign(self, new: NewJob, id: str | None) -> Outgoing:
        given = {name: value for name in OPTIONS if (value := getattr(new, name)) is not None}
        if unknown := [name for name in given if name not in _FOREIGN]:
            raise ArgumentError(f"{new.job}: {unknown[0]}: this process has not the application's jobs, and cannot apply it")
        topic = given.pop("topic", DEFAULT_TOPIC)
        try:
            for name in ("delay", "timeout", "expires"):
                if name in given:
                    given[name] = float(seconds(given[name]))
        except ValueError as error:
            raise ArgumentError(f"{new.job}: {error}") from None
        if "expires" in given:
            given["expires_in"] = given.pop("expires")
        message = new_message(new.job, topic, new.args, new.kwargs, **given)
        decode(encode(message), topic=topic)  # raises MessageError for what no worker could read
        sent = self._app.hooked(message)
        return self._app.outgoing(sent, "id" in given or sent.id != message.id)


def new_seed() -> str:
    """Return a new id from which those of the jobs of one request are made."""
    return new_id()


def _batches(jobs: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    for start in range(0, len(jobs), BATCH):
        yield jobs[start : start + BATCH]


def _told(job: Outgoing, conflicts: Mapping[str, str], seen: set[str]) -> Enqueued:
    holder = conflicts.get(job.id)
    is_first = job.id not in seen
    seen.add(job.id)
    return Enqueued(holder or job.id, job.topic, holder is None and is_first)
