"""The application of a program: the enqueue operation, and the parts of it behind one name."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from .. import boundary, foreign
from ..backends.base import JobRecord, Outgoing, State
from ..backends.flows import FlowStatus, Part
from ..backends.outbox import OutboxItem
from ..config import Config
from ..errors import BackendError, NotSupported, TransactionError
from ..handle import JobHandle
from ..job_function import Call, JobFunction
from ..message import Message
from ..plugins import Plugins
from ..registry import AnyJob, Registry
from ..runs.running import may_be_in_job
from ..stamp import Stamp
from .delivery import Delivery, note_repeated
from .envelopes import Envelopes
from .flow_sending import FlowSending
from .resources import Resources
from .results import Results, in_thread

if TYPE_CHECKING:
    from ..following import JobProgress
    from ..placeholders import Taken

T = TypeVar("T")

WARM_UP_PATIENCE = 2.0
"""Longest time that `warm_up` waits for a backend that does not answer, in seconds."""


class App(Resources):
    """The configuration, plugins, registry and connections of one process.

    Any thread may use it; a fork may happen at any time between calls.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        plugins: Plugins | None = None,
        registry: Registry | None = None,
    ) -> None:
        super().__init__(config, plugins, registry)
        self._envelopes = self._new_envelopes()
        self._delivery = Delivery(self)
        self._flows = FlowSending(self, self._envelopes, self._delivery)
        self._results = Results(self, self._delivery)

    def _new_envelopes(self) -> Envelopes:
        """Return what makes the messages; tests have one with a clock of its own."""
        return Envelopes(self, self)

    def warm_up(self) -> None:
        """Find the plugins, import them, connect to the backend, and prepare it for the topics of the jobs defined so far.

        The first enqueue does not have to do this then.
        Call it at the start of a process that serves requests. If the backend cannot be reached, this logs a warning and
        returns: the first enqueue tries again. Raises ConfigError and PluginError.
        """
        self.plugins.implementations("jobs_before_enqueue")
        try:
            with self.blaming_backend():
                self._producer.open(WARM_UP_PATIENCE, sorted(self.destinations()))
        except BackendError as error:
            logging.getLogger("jobs").warning("the backend cannot be reached yet; the first enqueue tries again: %s", error)

    # -- enqueue ---------------------------------------------------------------------------------

    def enqueue(self, call: Call[T]) -> JobHandle[T]:
        """Store one call durably; see `JobFunction.enqueue`."""
        delivery, envelopes = self._delivery, self._envelopes
        if not delivery.bare:
            return self._enqueue_with_hooks(call)
        stamp = envelopes.stamp(call.job)
        outgoing, handle = envelopes.made(call, stamp)
        conflicts = self.push([outgoing]) if stamp.bare else delivery.deliver((stamp,), [outgoing])
        if conflicts:
            self._delivery.note_duplicates((handle,), (outgoing,), conflicts)
        return handle

    def _enqueue_with_hooks(self, call: Call[T]) -> JobHandle[T]:
        """Store one call: the first one, or if a plugin wraps enqueues or holds them back."""
        delivery, stamp = self._delivery, self._envelopes.stamp(call.job)
        if delivery.context is None:
            delivery.ask_hooks()
        if not delivery.context:
            return self._enqueue_held(call, stamp)
        with delivery.around(what="job", job=call.job.name, topic=stamp.envelope.topic):
            return self._enqueue_held(call, stamp)

    def _enqueue_held(self, call: Call[T], stamp: Stamp) -> JobHandle[T]:
        """Store one call, or let a plugin hold it back."""
        outgoing, handle = self._envelopes.made(call, stamp)
        conflicts = self._delivery.deliver((stamp,), [outgoing])
        if conflicts:
            self._delivery.note_duplicates((handle,), (outgoing,), conflicts)
        return handle

    def enqueue_many(self, calls: Iterable[Call[T]]) -> list[JobHandle[T]]:
        """Store many calls in one round trip, in order; handles come in the same order.

        With `conflict="raise"`, a duplicate is reported after the others were stored.
        """
        if not self._delivery.bare:
            with self._delivery.around(what="batch", job=None, topic=None):
                return self._enqueue_many(calls)
        return self._enqueue_many(calls)

    def _enqueue_many(self, calls: Iterable[Call[T]]) -> list[JobHandle[T]]:
        stamp_of, made = self._envelopes.stamp, self._envelopes.made
        job: AnyJob | None = None
        stamps: list[Stamp] = []
        handles: list[JobHandle[T]] = []
        outgoing: list[Outgoing] = []
        for call in calls:  # do not make a list of the iterator: objects that stay alive cost the garbage collector time
            if call.job is not job:
                job = call.job
                stamp = stamp_of(job)
            one, handle = made(call, stamp)
            stamps.append(stamp)
            outgoing.append(one)
            handles.append(handle)
        if not stamps:
            return []
        conflicts = self._delivery.deliver(stamps, outgoing)
        if conflicts:
            self._delivery.note_duplicates(handles, outgoing, conflicts)
        if any(one.chosen for one in outgoing):
            note_repeated(handles)
        return handles

    def around_enqueue(self, what: str, job: str | None = None, topic: str | None = None) -> AbstractContextManager[None]:
        """Return what the plugins want to be open around an enqueue that the caller makes itself: `jobs_enqueue_context`."""
        return self._delivery.around(what=what, job=job, topic=topic)

    async def aenqueue(self, call: Call[T]) -> JobHandle[T]:
        """`enqueue` from an event loop."""
        if self._envelopes.stamp(call.job).transaction is not None and self.needs_transactions:
            return (await self._aenqueue_together([call]))[0]
        return await self._delivery.in_thread(lambda: self.enqueue(call))

    async def aenqueue_many(self, calls: Iterable[Call[T]]) -> list[JobHandle[T]]:
        """`enqueue_many` from an event loop."""
        given = list(calls)
        if given and self._envelopes.stamp(given[0].job).transaction is not None and self.needs_transactions:
            return await self._aenqueue_together(given)
        return await self._delivery.in_thread(lambda: self.enqueue_many(given))

    async def _aenqueue_together(self, calls: Sequence[Call[T]]) -> list[JobHandle[T]]:
        """Store calls that name a transaction, whose connection may be one for the event loop that runs this."""
        stamp_of = self._envelopes.stamp
        transaction = stamp_of(calls[0].job).transaction
        if any(stamp_of(call.job).transaction is not transaction for call in calls):
            raise TransactionError("transaction: the jobs of one aenqueue_many belong to one transaction, or to none")
        enlisted = self._delivery.transactions().enlist(transaction)
        if not enlisted.awaits:
            return await self._delivery.in_thread(lambda: self.enqueue_many(calls))
        what: dict[str, Any] = {"what": "batch", "job": None, "topic": None}
        if len(calls) == 1:
            what = {"what": "job", "job": calls[0].job.name, "topic": stamp_of(calls[0].job).envelope.topic}
        with self._delivery.around(**what):
            made = await self._delivery.in_thread(lambda: [self._envelopes.made(call, stamp_of(call.job)) for call in calls])
            outgoing, handles = [one for one, _ in made], [handle for _, handle in made]
            if conflicts := await enlisted.apush(outgoing, float(self.config.enqueue_timeout)):
                await self._delivery.in_thread(lambda: self._delivery.note_duplicates(handles, outgoing, conflicts))
        note_repeated(handles)
        return handles

    # -- messages --------------------------------------------------------------------------------

    def prepare(self, call: Call[T]) -> tuple[Outgoing, JobHandle[T]]:
        """Return a call in the form that the backend takes, and its handle; send nothing. Raises the errors of `enqueue`."""
        return self._envelopes.prepare(call)

    def message(self, call: Call[Any]) -> Message:
        """Return the envelope of a call: arguments checked, options resolved. Raises ArgumentError or JobDefinitionError."""
        return self._envelopes.message(call)

    def hooked(self, message: Message) -> Message:
        """Return what the hooks of an enqueue make of a message: `jobs_before_enqueue`. Raises PluginError."""
        return self._envelopes.hooked(message, message.job or "")

    def outgoing(self, message: Message, chosen: bool = True, *, may_store: bool = True) -> Outgoing:
        """Return the message in the form that a backend takes; raises MessageError or MessageTooLarge.

        `chosen` makes the backend check whether the id exists already. An id that `message` made is new: pass False.
        Raises PayloadStoreUnavailable if the message needs a blob that cannot be written, or may not (`may_store`).
        """
        return self._envelopes.outgoing(message, chosen, may_store=may_store)

    def renewed(self, job: AnyJob, sent: Outgoing) -> Outgoing:
        """Return a message that is sent later than it was made, with its `at` and `expires_at` as delays from now."""
        return self._envelopes.renewed(job, sent)

    def rehearsed(self, call: Call[Any]) -> Outgoing:
        """Return a call for a queue that runs it here and now: due at once, without unique key, fair key and limits.

        So it needs none of the backend's features. Raises the errors of `message`, MessageError and MessageTooLarge.
        """
        return self._envelopes.rehearsed(call)

    def payload_of(self, message: Message) -> bytes:
        """Return the bytes of a message that takes the place of another: packed if they have to be, and signed."""
        return self._envelopes.payload_of(message)

    def find_handle(self, job: JobFunction[Any, Any, T], job_id: str) -> JobHandle[T]:
        """Return a handle for an id; see `JobFunction.handle`. Only `result` finds out whether the job stores its result."""
        return self._envelopes.find_handle(job, job_id)

    def read(self, record: JobRecord) -> Message:
        """Return the message of a record with its arguments; raises MessageError."""
        return self.payloads.unpacked(self.envelope(record))

    def envelope(self, record: JobRecord) -> Message:
        """Return the message of a record as it is stored, perhaps with packed arguments; raises MessageError."""
        return self._envelopes.envelope(record)

    def clean_payloads(self) -> int:
        """Delete the blobs of jobs that no longer exist from the payload store; return how many. See docs/payloads.md."""
        from ..payloads.cleaning import clean  # late: only operators need it

        store, settings = self.payloads.store, self.config.payloads
        if store is None:
            return 0
        looks_up = self.operate(lambda backend: "lookup" in backend.features)
        return clean(
            store,
            find=self.find if looks_up else None,
            envelope=self.envelope,
            grace=float(settings.grace),
            keep=float(settings.keep),
            comes=self._results.comes,
        )

    def clean_payloads_soon(self) -> None:
        """Clean the payload store on a thread of its own: a store may be far away."""
        threading.Thread(target=self._clean_payloads_or_log, name="jobs-payloads-cleaning", daemon=True).start()

    def _clean_payloads_or_log(self) -> None:
        try:
            self.clean_payloads()
        except BackendError as error:
            logging.getLogger("jobs").warning(
                "the payload store was not cleaned; it is tried again in an hour: %s", boundary.text_of(error)
            )

    # -- flows -----------------------------------------------------------------------------------

    def prepare_member(self, call: Call[T], takes: Taken | None, headers: Mapping[str, Any]) -> tuple[Outgoing, JobHandle[T]]:
        """Return a call as a member of a flow in the form that the backend takes, and its handle; send nothing.

        `headers` are those of the flow. Raises FlowError for options that a member cannot have, and the errors of `enqueue`.
        """
        return self._flows.prepare(call, takes, headers)

    def push_flow(
        self,
        parts: Sequence[tuple[Part, list[Outgoing]]],
        jobs: Iterable[JobFunction[Any, Any, Any]],
        transaction: object = None,
    ) -> None:
        """Store a flow durably, in a transaction, or when one commits. Raises DuplicateJob, TransactionError, BackendError."""
        self._flows.push(parts, jobs, transaction)

    async def apush_flow(
        self,
        parts: Sequence[tuple[Part, list[Outgoing]]],
        jobs: Iterable[JobFunction[Any, Any, Any]],
        transaction: object = None,
    ) -> None:
        """`push_flow` from an event loop, on whose connection the transaction may be."""
        if not await self._flows.push_awaiting(parts, transaction):
            await self._delivery.in_thread(lambda: self.push_flow(parts, jobs, transaction))

    def flow_result(self, flow: str, job_id: str, stored: bytes) -> Any:
        """Return the value of a member's stored result as plain JSON; with signing keys, only if its signature is right.

        Raises PayloadError.
        """
        return self._flows.result(flow, job_id, stored)

    def may_be_in_job(self) -> bool:
        """Return whether a job may have to wait for the caller."""
        return may_be_in_job()

    # -- status and results ----------------------------------------------------------------------

    def status(self, job_id: str) -> State:
        """Return the state of a job; UNKNOWN if it never existed, or finished without a stored result."""
        return self._results.status(job_id)

    def flow_status(self, flow_id: str) -> FlowStatus | None:
        """Return the status of a flow; None if it is known neither to the backend nor to the outbox."""
        return self._results.flow_status(flow_id)

    def in_outbox(self, item_id: str) -> OutboxItem | None:
        """Return what is known of a job or flow, or of the flow of a member, in the outbox; None if it is not there."""
        return self._results.in_outbox(item_id)

    def find(self, job_id: str) -> JobRecord | None:
        """Return everything the backend knows about a job; None if it never existed, or finished without a stored result."""
        return self.operate(lambda backend: backend.get(job_id))

    def progress(self, job_id: str) -> JobProgress:
        """Return what a job last told; see `JobHandle.progress`."""
        from ..following import progress_of  # late: most producers follow no job

        record = self.find(job_id)
        told = self.payloads.unpack_note(job_id, record.notes.progress) if record is not None and record.notes.progress else b""
        return progress_of(job_id, record, told, self)

    async def aprogress(self, job_id: str) -> JobProgress:
        """`progress` from an event loop."""
        return await in_thread(lambda: self.progress(job_id))

    def cancel(self, job_id: str, *, force: bool = False) -> State:
        """Cancel a queued job, or request the end of a running one; return its state afterwards. See `JobHandle.cancel`."""
        return self._results.cancel(job_id, force)

    def withdraw(self, item_id: str) -> bool:
        """Delete a job or flow of which nothing was carried yet from the outbox; return whether it was there."""
        return self._results.withdraw(item_id)

    def result(self, handle: JobHandle[T], timeout: float | None) -> T:
        """Wait until a job has ended, and return its result; see `JobHandle.result`."""
        return self._results.result(handle, timeout)

    async def aresult(self, handle: JobHandle[T], timeout: float | None) -> T:
        """`result` from an event loop."""
        return await self._results.aresult(handle, timeout)

    def stored_result(self, job_id: str, stored: bytes) -> dict[str, Any]:
        """Decode a job's stored result: a dict with its `value`, or with the reason why it is `unstorable`.

        Raises ResultUnreadable, for example if this process does not have the encryption key.
        """
        return self._results.stored(job_id, stored)


foreign.teach(App, foreign.APP)

__all__ = ["App", "NotSupported"]
