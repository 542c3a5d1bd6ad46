"""What an application sends: calls of job functions as messages, in the form that a backend takes, and back."""

from __future__ import annotations

import logging
import time
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import UNSET
from msgspec.structs import replace

from ..backends.base import Backend, JobRecord, Outgoing
from ..config import Config
from ..errors import JobsError, TransactionError
from ..handle import Follower, JobHandle
from ..ids import new_id
from ..job_function import Call, JobFunction
from ..limiting import line_of
from ..message import PACKED_VERSION, Message, UniqueKey, decode, encode, readable, too_large
from ..options import DEFAULT_TOPIC, NO_OVERRIDES, Unique, encrypts, stores_result, unique_key
from ..plugins import Implementation, obeyed
from ..registry import AnyJob
from ..stamp import Stamp, stamp_of
from .resources import Resources

if TYPE_CHECKING:
    from ..placeholders import Taken

T = TypeVar("T")

CHECKPOINTS = (
    "checkpoints",
    "a resumable job needs it: leave out resumable=True, or set [results] url, or choose a backend that has it: see "
    '"Backends" in the documentation',
)
"""The feature that resumable jobs need, and the advice where the backend lacks it."""


class Envelopes:
    """The messages of one application, and the stamps of its job functions. Any thread may use it; it sends nothing."""

    def __init__(self, resources: Resources, follower: Follower) -> None:
        self._resources = resources
        self._follower = follower  # of the handles
        self._signs = resources.signer or None
        self.before_enqueue: list[Implementation] | None = None  # None until the plugins were asked
        self._stamps: dict[weakref.ref[AnyJob], Stamp] = {}  # a WeakKeyDictionary would cost a call for each enqueue
        self._topics_seen: set[str] = set()
        self._unopened: tuple[Config, Backend] | None = None  # asked only for its features

    def stamp(self, job: AnyJob) -> Stamp:
        """Return what all messages of a job function share, computed at its first use."""
        stamp = self._stamps.get(weakref.ref(job))
        if stamp is None or stamp.config is not self._resources.config:
            stamp = stamp_of(job, self._resources.config)
            if stamp.unique is not None and stamp.unique.longest is not None:
                self._resources.require(
                    "debounce", 'leave out longest, or choose a backend that has it: see "Backends" in the documentation'
                )
            if job.options.resumable is True:
                self._resources.require(*CHECKPOINTS)
            stamps = self._stamps
            stamps[weakref.ref(job, lambda gone: stamps.pop(gone, None))] = stamp
            if stamp.envelope.topic not in self._topics_seen:
                self._topics_seen.add(stamp.envelope.topic)
                self._warn_of_unserved(stamp.envelope.topic, job.name)
        return stamp

    def _warn_of_unserved(self, topic: str, job: str) -> None:
        """Warn if no pool serves a topic.

        A configuration without modules, framework and pools is that of a mere producer: there, never warn.
        """
        config = self._resources.config
        for_workers = config.modules or config.framework or config.pools.keys() != {"default"}
        if self._resources.warns_of_unserved and for_workers and config.is_unserved(topic):
            from .. import events  # late: only this case needs it

            logging.getLogger("jobs").warning("%s", events.TopicUnserved(topic, 0, [job]))

    def made(self, call: Call[T], stamp: Stamp) -> tuple[Outgoing, JobHandle[T]]:
        """Return a call in the form that the backend takes, and its handle; raises what `message` and `outgoing` raise."""
        message = self.draft(call, stamp)
        if self.before_enqueue is None or self.before_enqueue:
            sent = self.hooked(message, call.job.name)
            return self.outgoing(sent, stamp.id is not None or sent.id != message.id), self.handle(call.job, sent, stamp)
        return (
            self.outgoing(message, stamp.id is not None),
            JobHandle(self._follower, message.id, call.job, message.topic, stamp.stores_result),
        )

    def prepare(self, call: Call[T]) -> tuple[Outgoing, JobHandle[T]]:
        """Return a call in the form that the backend takes, and its handle; send nothing. Raises the errors of `enqueue`."""
        stamp = self.stamp(call.job)
        if stamp.transaction is not None:
            raise TransactionError(
                f"{call.job.name}: transaction: what a job enqueues with current_job() commits with its own end: leave it "
                "out, or call .enqueue(...) of the job function"
            )
        return self.made(call, stamp)

    def message(self, call: Call[Any], stamp: Stamp | None = None) -> Message:
        """Return the envelope of a call: arguments checked, options resolved. Raises ArgumentError or JobDefinitionError."""
        return self.hooked(self.draft(call, stamp or self.stamp(call.job)), call.job.name)

    def draft(self, call: Call[Any], stamp: Stamp, takes: Taken | None = None) -> Message:
        """Return the envelope of a call before any hook."""
        job, args, kwargs = call.job, call.args, call.kwargs
        if takes is None:
            job.arguments.check(args, kwargs)
        now = time.time()
        message = replace(
            stamp.envelope if stamp.moments is None else stamp.moments.fill(stamp.envelope, self.now()),
            id=stamp.id or new_id(now),
            args=list(args),
            kwargs=dict(kwargs) if kwargs else {},
            enqueued_at=int(now * 1e6) / 1e6,  # a third of the cost of round()
            unique=stamp.unique and self._unique_key(call, stamp, stamp.unique),
        )
        if stamp.varies is not None:
            message = stamp.varies.fill(message, job, args, kwargs)
        if takes is not None:
            message = replace(
                message, v=PACKED_VERSION, args=takes.args, kwargs=takes.kwargs, results=takes.pointers, flow=takes.flow
            )
        return message

    def hooked(self, message: Message, job: str) -> Message:
        """Return the envelope that hooks make of a message: another id, topic or headers, for example."""
        if self.before_enqueue is None:
            self.before_enqueue = self._resources.plugins.implementations("jobs_before_enqueue")
        for implementation in self.before_enqueue:
            replacement = obeyed(implementation, Message, {"message": message})
            if replacement is not None:
                message = replacement
                readable(message, job)
        return message

    def now(self) -> float:
        """Return the Unix time from which `at` and `expires_at` are converted to delays; tests override it."""
        return time.time()

    def renewed(self, job: AnyJob, sent: Outgoing) -> Outgoing:
        """Return a message that is sent later than it was made, with its `at` and `expires_at` as delays from now."""
        moments = self.stamp(job).moments
        if moments is None:
            return sent
        try:
            message = moments.fill(decode(sent.payload, signer=self._resources.signer, topic=sent.topic), self.now())
            made = self.outgoing(message, sent.chosen)
            return made if sent.member is None else replace(made, member=sent.member)
        except JobsError:  # by now it has expired, or would be too large: send it as it was made
            return sent

    def _unique_key(self, call: Call[Any], stamp: Stamp, unique: Unique) -> UniqueKey:
        job = call.job
        made = unique_key(unique, job.name, call.args, call.kwargs, lambda: job.arguments.named(call.args, call.kwargs))
        return replace(made, key=self._resources.payloads.unique_key(job.name, made.key)) if stamp.encrypts else made

    def outgoing(self, message: Message, chosen: bool = True, *, may_store: bool = True) -> Outgoing:
        """Return the message in the form that a backend takes; raises MessageError or MessageTooLarge.

        `chosen` makes the backend check whether the id exists already. An id that `message` made is new: pass False.
        Raises PayloadStoreUnavailable if the message needs a blob that cannot be written, or may not (`may_store`).
        """
        if self._resources.payloads.packs:
            payload = self.packed(message, may_store)
        else:  # `plain`, without the call
            payload = encode(message, signer=self._signs, limit=self._resources.config.max_message)
        if message.key is None and not message.limits:
            return Outgoing(message.id, message.topic, payload, message.priority, message.delay or 0.0, message.unique, chosen)
        if self._unopened is None or self._unopened[0] is not self._resources.config:
            self._unopened = self._resources.config, self._resources.new_backend()
        key, limits = line_of(message, *self._unopened)
        return Outgoing(
            message.id, message.topic, payload, message.priority, message.delay or 0.0, message.unique, chosen, key, limits
        )

    def rehearsed(self, call: Call[Any]) -> Outgoing:
        """Return a call for a queue that runs it here and now: due at once, without unique key, fair key and limits.

        So it needs none of the backend's features. Raises the errors of `message`, MessageError and MessageTooLarge.
        """
        message = self.message(call, stamp_of(call.job, self._resources.config))
        payload = self.packed(message, True) if self._resources.payloads.packs else self.plain(message)
        return Outgoing(message.id, message.topic, payload)

    def payload_of(self, message: Message) -> bytes:
        """Return the bytes of a message that takes the place of another: packed if they have to be, and signed."""
        return self.packed(message, True) if self._resources.payloads.packs else self.plain(message)

    def plain(self, message: Message) -> bytes:
        return encode(message, signer=self._signs, limit=self._resources.config.max_message)

    def packed(self, message: Message, may_store: bool) -> bytes:
        """Return the bytes of a message, packed if it has to be; jobs that are not registered here follow their topic."""
        job = self._resources.registry.get(message.job or "")
        message, payload = self._resources.payloads.encode(
            message,
            encrypts(NO_OVERRIDES if job is None else job.options, message.topic, self._resources.config),
            may_store=may_store,
        )
        if len(payload) > self._resources.config.max_message:
            raise too_large(message, payload, self._resources.config.max_message)
        return self._signs.sign(payload) if self._signs else payload

    def handle(self, job: JobFunction[Any, Any, T], message: Message, stamp: Stamp) -> JobHandle[T]:
        stores, topic = message.store_result, message.topic
        if topic is stamp.envelope.topic and stores is stamp.envelope.store_result:
            stores = stamp.stores_result
        elif stores is None:  # a hook has sent it to another topic
            stores = stores_result(job.options, topic, self._resources.config)
        return JobHandle(self._follower, message.id, job, topic, stores)

    def find_handle(self, job: JobFunction[Any, Any, T], job_id: str) -> JobHandle[T]:
        """Return a handle for an id; see `JobFunction.handle`. Only `result` finds out whether the job stores its result."""
        topic = DEFAULT_TOPIC if job.options.topic is UNSET else job.options.topic
        return JobHandle(self._follower, job_id, job, topic, stores_result=True, created=False)

    def envelope(self, record: JobRecord) -> Message:
        """Return the message of a record as it is stored, perhaps with packed arguments; raises MessageError."""
        default_job = self._resources.config.topic(record.topic).default_job
        return decode(record.payload, signer=self._resources.signer, topic=record.topic, default_job=default_job)
