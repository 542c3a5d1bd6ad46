"""What becomes of jobs: their state, progress and results, and the wait for them."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from .. import escapes
from ..backends.base import Backend, JobRecord, State
from ..backends.flows import FlowStatus
from ..backends.outbox import OutboxItem
from ..errors import (
    BackendError,
    BackendUnavailable,
    EndlessWait,
    JobFailed,
    JobWasCancelled,
    PayloadError,
    ResultNotStored,
    ResultTimeout,
    ResultUnreadable,
)
from ..handle import JobHandle
from ..runs.running import may_be_in_job, running
from .delivery import Delivery
from .resources import Resources

T = TypeVar("T")

RESULT_SLICE = 5.0
"""Longest single wait for a result in one call of the backend, in seconds."""

OUTBOX_LOOK = 0.1
"""Seconds after which a wait looks again whether its job was carried from the outbox: nothing tells of that."""

RESULT_SLICE_IN_JOB = 0.1
"""The same in a job on the main thread: its interruption cannot break into the call, and has to succeed within 250 ms."""


class Results:
    """The jobs of one application, as those see them who enqueued them. Any thread may use it."""

    def __init__(self, resources: Resources, delivery: Delivery) -> None:
        self._resources = resources
        self._delivery = delivery

    def status(self, job_id: str) -> State:
        """Return the state of a job; UNKNOWN if it never existed, or finished without a stored result."""
        record = self._resources.operate(lambda backend: backend.get(job_id))
        if record is None and self._resources.config.outbox.url:
            if self._delivery.transactions().holds(job_id):
                return State.SCHEDULED
            record = self._resources.operate(lambda backend: backend.get(job_id))  # it may have been carried in between
        return record.state if record else State.UNKNOWN

    def flow_status(self, flow_id: str) -> FlowStatus | None:
        """Return the status of a flow; None if it is known neither to the backend nor to the outbox."""
        found = self._resources.operate(lambda backend: backend.flow(flow_id))
        if found is None and self._resources.config.outbox.url:
            found = self._delivery.transactions().flow(flow_id)
            found = found or self._resources.operate(lambda backend: backend.flow(flow_id))  # carried in between
        return found

    def in_outbox(self, item_id: str) -> OutboxItem | None:
        """Return what is known of a job or flow, or of the flow of a member, in the outbox; None if it is not there."""
        return self._delivery.transactions().in_outbox(item_id) if self._resources.config.outbox.url else None

    def cancel(self, job_id: str, force: bool) -> State:
        """Cancel a job wherever it is; return its state afterwards."""
        state = self._cancel(job_id, force)
        if state is not State.UNKNOWN or not self._resources.config.outbox.url:
            return state
        item = self.in_outbox(job_id)
        if item is not None and item.id == job_id and self.withdraw(job_id):
            return State.CANCELLED
        state = self._cancel(job_id, force)  # it may have been carried in between
        if state is State.UNKNOWN and self._delivery.transactions().holds(job_id):
            return State.SCHEDULED  # a member of a flow, or in the load that is being carried
        return state

    def _cancel(self, job_id: str, force: bool) -> State:
        if not force:
            return self._resources.operate(lambda backend: backend.cancel(job_id))
        return self._resources.operate(lambda backend: backend.cancel(job_id, force=True))

    def withdraw(self, item_id: str) -> bool:
        """Delete a job or flow of which nothing was carried yet from the outbox; return whether it was there."""
        return bool(self._resources.config.outbox.url) and self._delivery.transactions().withdraw(item_id)

    def comes(self, job_id: str) -> bool:
        """Return whether a job that the backend did not know is on its way there, or has arrived by now."""
        return bool(self._resources.config.outbox.url) and self.status(job_id) is not State.UNKNOWN

    def result(self, handle: JobHandle[T], timeout: float | None) -> T:
        """Wait until a job has ended, and return its result; see `JobHandle.result`."""
        self._may_wait(handle, timeout)
        return self._wait(handle, timeout)

    async def aresult(self, handle: JobHandle[T], timeout: float | None) -> T:
        """`result` from an event loop."""
        self._may_wait(handle, timeout)
        return await in_thread(lambda: self._wait(handle, timeout))

    def _may_wait(self, handle: JobHandle[T], timeout: float | None) -> None:
        """Raise ResultNotStored if the job stores no result, or EndlessWait if the wait might never end."""
        if not handle.stores_result:
            raise ResultNotStored(
                f"{handle.job.name} does not store its result: use @job(store_result=True), "
                f"using(store_result=True) or topics.{handle.topic}.store_result = true"
            )
        if (timeout is None or timeout == float("inf")) and may_be_in_job():
            who = "a job" if running.get() is not None else "a thread in a worker, which may be a job's,"
            raise EndlessWait(
                f"{who} waits for the result of {handle.job.name} without a timeout: if every job running in its pool does "
                "so, none of them ever ends. Pass result(timeout=…), or let the other job enqueue the follow-up"
            )

    def _wait(self, handle: JobHandle[T], timeout: float | None) -> T:
        record = self._ended(handle.id, timeout)
        if record is None:
            raise ResultTimeout(f"job {handle.id} has not ended within {timeout:g} s{self._explain_timeout(handle.id)}")
        return self._read(handle, record)

    def _explain_timeout(self, job_id: str) -> str:
        """Explain the state of a job whose result did not arrive in time; stop after EXPLAIN_PATIENCE: the backend may hang."""
        from ..unfinished import OnThisMachine, unfinished  # late: only a wait that has timed out needs it

        here = OnThisMachine(self._resources.run_dir, self._resources.backend_url)
        try:
            reasons = self._resources.operate_briefly(lambda backend: unfinished(self._resources.config, here, backend, job_id))
        except BackendError:
            return ""
        return f": {'; '.join(reasons)}. `jobsctl why {job_id}` tells more" if reasons else ""

    def _ended(self, job_id: str, timeout: float | None) -> JobRecord | None:
        """Return the record of an ended job; None on timeout. Wait in slices, to notice outages and the caller's interrupts."""
        deadline = None if timeout is None else time.monotonic() + timeout
        in_job = running.get() is not None and threading.current_thread() is threading.main_thread()
        longest = RESULT_SLICE_IN_JOB if in_job else RESULT_SLICE
        while True:
            left = longest if deadline is None else min(longest, max(0.0, deadline - time.monotonic()))
            try:
                record = self._resources.operate(functools.partial(_fetch, job_id, left))
            except BackendUnavailable:
                if deadline is not None and time.monotonic() >= deadline:
                    raise
                time.sleep(min(0.2, left))
                continue
            if record is not None and record.state is State.UNKNOWN and self.comes(job_id):
                record = None
                time.sleep(min(OUTBOX_LOOK, left))
            if record is not None or (deadline is not None and time.monotonic() >= deadline):
                return record

    def _read(self, handle: JobHandle[T], record: JobRecord) -> T:
        if record.state is State.CANCELLED:
            raise JobWasCancelled(f"job {handle.id} was cancelled")
        if record.state is State.DEAD:
            last = msgspec.json.decode(record.errors[-1]) if record.errors else {}
            error_type, text = last.get("type", ""), last.get("message", "")
            told = text if error_type == record.reason else f"{error_type}: {text}"  # of a job that never ran, it is the reason
            raise JobFailed(
                escapes.lines(f"job {handle.id} is dead ({record.reason}): {told}".rstrip(": ")),
                reason=record.reason,
                error_type=error_type,
                traceback=last.get("traceback", ""),
            )
        if record.result is None:
            why = "it finished and its result has expired, or it never existed"
            if self._delivery.enlists:
                why = f"the transaction that enqueued it has not committed, so that it cannot run yet; or {why}"
            raise ResultNotStored(f"job {handle.id} is unknown: {why}")
        stored = self.stored(record.id, record.result)
        if "unstorable" in stored:
            raise ResultNotStored(f"job {handle.id} is done, but its result was not stored: {stored['unstorable']}")
        return handle.job.convert_result(stored["value"])  # type: ignore[no-any-return]  # the handle's job is typed Any

    def stored(self, job_id: str, stored: bytes) -> dict[str, Any]:
        """Decode a job's stored result: a dict with its `value`, or with the reason why it is `unstorable`.

        Raises ResultUnreadable, for example if this process does not have the encryption key.
        """
        try:
            plain = self._resources.payloads.unpack_result(job_id, stored)
        except PayloadError as error:
            raise ResultUnreadable(f"job {job_id} is done, but its result {error}") from None
        document: dict[str, Any] = msgspec.json.decode(plain)
        return document


def _fetch(job_id: str, timeout: float, backend: Backend) -> JobRecord | None:
    return backend.fetch_result(job_id, timeout)


async def in_thread(function: Callable[[], T]) -> T:
    """Run a function that may wait long on a thread."""
    import asyncio  # late: half of this package's import time, and useless without an event loop

    return await asyncio.to_thread(function)
