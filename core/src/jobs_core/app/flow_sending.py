"""The sending of flows: calls as members, and the parts of a flow, at once or in a transaction."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from .. import boundary
from ..backends.base import Backend, Outgoing
from ..backends.flows import Part
from ..config import Config
from ..errors import DuplicateJob, FlowError, JobsError, PayloadError, SignatureError, elsewhere
from ..handle import JobHandle
from ..job_function import Call, JobFunction
from ..uninterrupted import let_in
from .delivery import Delivery
from .envelopes import Envelopes
from .resources import Resources

if TYPE_CHECKING:
    from ..placeholders import Taken

T = TypeVar("T")

FLOWS = (
    "flows",
    f"its jobs cannot wait for one another: let each job enqueue the next (current_job().enqueue), or {elsewhere('flows')}",
)
"""The feature that flows, chains and groups need, and the advice where the backend lacks it."""


class FlowSending:
    """The flows of one application on their way to the backend. Any thread may use it."""

    def __init__(self, resources: Resources, envelopes: Envelopes, delivery: Delivery) -> None:
        self._resources = resources
        self._envelopes = envelopes
        self._delivery = delivery
        self._known: Config | None = None  # the configuration whose backend is known to have flows

    def prepare(self, call: Call[T], takes: Taken | None, headers: Mapping[str, Any]) -> tuple[Outgoing, JobHandle[T]]:
        """Return a call as a member of a flow in the form that the backend takes, and its handle; send nothing.

        `headers` are those of the flow. Raises FlowError for options that a member cannot have, and the errors of `enqueue`.
        """
        self._require()
        job, stamp = call.job, self._envelopes.stamp(call.job)
        if stamp.transaction is not None:
            raise FlowError(f"{job.name}: transaction: a flow is stored as a whole: write Flow(transaction=...)")
        if stamp.unique is not None and stamp.unique.conflict == "replace":
            raise FlowError(
                f"{job.name}: unique: a member of a flow cannot replace a job or be replaced, because others wait for it: use "
                'using(unique=None), or another conflict than "replace"'
            )
        options = job.options  # `using` has no acks
        acks = self._resources.config.topic(stamp.envelope.topic).acks if options.acks is UNSET else options.acks
        if acks == "early" and options.resumable is not True:
            raise FlowError(
                f'{job.name}: acks: a job that is acknowledged before it runs (acks="early") cannot be a member of a flow, '
                'since what waits for it would start too soon: use acks="late"'
            )
        if headers:
            stamp = replace(stamp, envelope=replace(stamp.envelope, headers={**headers, **stamp.envelope.headers}))
        if takes is not None:
            job.arguments.check_all_but(call.args, call.kwargs, takes.parameters)
        try:
            draft = self._envelopes.draft(call, stamp, takes)
        except FlowError as error:  # a template or function used a result that does not exist yet
            if takes is None:
                raise
            raise FlowError(
                f"{job.name}: unique, key and limits are computed when the flow is sent, and cannot depend on a result: {error}"
            ) from None
        message = self._envelopes.hooked(draft, job.name)
        chosen = stamp.id is not None or message.id != draft.id
        return self._envelopes.outgoing(message, chosen), self._envelopes.handle(job, message, stamp)

    def _require(self) -> None:
        """Raise NotSupported if the backend has no flows."""
        if self._known is not self._resources.config:
            self._resources.require(*FLOWS)
            self._known = self._resources.config

    def push(
        self,
        parts: Sequence[tuple[Part, list[Outgoing]]],
        jobs: Iterable[JobFunction[Any, Any, Any]],
        transaction: object = None,
    ) -> None:
        """Store a flow durably, in a transaction, or when one commits. Raises DuplicateJob, TransactionError, BackendError."""
        self._require()
        wishing = [job.name for job in jobs if self._envelopes.stamp(job).on_commit]
        send = functools.partial(self._push_parts, parts)
        with self._delivery.around(what="flow", job=None, topic=None):
            if transaction is None:
                transaction = self._delivery.around_caller()
            if transaction is not None and self._resources.needs_transactions:
                enlisted = self._delivery.transactions().enlist(transaction)
                self._refuse_members(parts, enlisted.push_flow(parts, float(self._resources.config.enqueue_timeout)))
            elif not self._delivery.holds(True if wishing else None, wishing[0] if wishing else None, send):
                send()

    async def push_awaiting(self, parts: Sequence[tuple[Part, list[Outgoing]]], transaction: object) -> bool:
        """Store a flow in a transaction on a connection of this event loop; return False and store nothing if it is none."""
        if transaction is None or not self._resources.needs_transactions:
            return False
        self._require()
        enlisted = self._delivery.transactions().enlist(transaction)
        if not enlisted.awaits:
            return False
        with self._delivery.around(what="flow", job=None, topic=None):
            conflicts = await enlisted.apush_flow(parts, float(self._resources.config.enqueue_timeout))
            self._refuse_members(parts, conflicts)
        return True

    def _refuse_members(self, parts: Sequence[tuple[Part, list[Outgoing]]], conflicts: Mapping[str, str]) -> None:
        """Raise DuplicateJob for the first member that was refused."""
        for part, outgoing in parts if conflicts else ():
            for message in outgoing:
                if message.id in conflicts:
                    holder = conflicts[message.id]
                    raise _refused_member(part, message, holder, self._delivery.about_holder(holder))

    def _push_parts(self, parts: Sequence[tuple[Part, list[Outgoing]]]) -> None:
        try:
            for part, outgoing in parts:
                conflicts = self._resources.push_part(part, outgoing)
                self._refuse_members([(part, outgoing)], conflicts)
        except BaseException:  # Ctrl-C, too: what was sent would hold its unique keys until the flow is dropped
            if len(parts) > 1:
                self._drop_unfinished(parts[0][0].flow)
            raise
        finally:
            let_in()

    def _drop_unfinished(self, flow_id: str) -> None:
        """Drop a flow of which not all parts were sent; if that fails, log how to. One whose last part has arrived stays."""

        def drop(backend: Backend) -> None:
            found = backend.flow(flow_id)
            if found is not None and found.state == "open":
                backend.cancel_flow(flow_id)

        try:
            self._resources.operate_briefly(drop)
        except JobsError as error:
            logging.getLogger("jobs").warning(
                "flow %s was not sent completely, and could not be dropped: its members hold their unique keys until `jobsctl "
                "flow cancel %s`, or until its open_for is over: %s",
                flow_id,
                flow_id,
                boundary.text_of(error),
            )

    def result(self, flow: str, job_id: str, stored: bytes) -> Any:
        """Return the value of a member's stored result as plain JSON; with signing keys, only if its signature is right.

        Raises PayloadError.
        """
        if self._resources.signer:
            try:
                stored = self._resources.signer.verify_result(flow, job_id, stored)
            except SignatureError as error:
                raise PayloadError(str(error)) from None
        try:
            document: dict[str, Any] = msgspec.json.decode(self._resources.payloads.unpack_result(job_id, stored))
        except msgspec.DecodeError as error:
            raise PayloadError(f"it is damaged: {error}") from None
        if "value" not in document:
            raise PayloadError(f"it was not stored: {document.get('unstorable', 'it has no value')}")
        return document["value"]


def _refused_member(part: Part, refused: Outgoing, holder: str, about: str) -> DuplicateJob:
    job = refused.member.label if refused.member is not None else ""
    if holder == refused.id:
        why = "there is a job with this id already"
    else:
        why = f"job {holder} holds its unique key" + (f" {refused.unique.key!r}" if refused.unique is not None else "")
    name = f"flow {part.name}" if part.name else f"flow {part.flow}"
    return DuplicateJob(f"{name} was not sent: its member {job} {refused.id} was refused: {why}{about}", existing_id=holder)
