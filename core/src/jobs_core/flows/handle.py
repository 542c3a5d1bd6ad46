"""The handle of a flow: its state and progress, and what an operator can do to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from .. import foreign
from ..backends.base import Backend
from ..backends.flows import FlowStatus
from ..errors import BackendUnavailable, EndlessWait, FlowLost, JobFailed, NotAwaitable, ResultTimeout
from ..handle import JobHandle
from ..job_function import current_enqueuer
from ..units import DurationLike, seconds

T = TypeVar("T")
R = TypeVar("R")

WAIT_SLICE = 5.0
"""Longest single wait for the end of a flow in one call of the backend, in seconds."""

FIRST_SLICE = 0.1
"""Seconds until `result` first looks whether the flow has failed; each further wait is twice as long, up to WAIT_SLICE."""

OUTBOX_LOOK = 0.1
"""Seconds after which `wait` looks again whether its flow was carried from the outbox: nothing tells of that."""

WAIT_SLICE_IN_JOB = 0.1
"""The same inside a job, whose interruption cannot break into the call."""

MOST_RETRIED = 1000
"""Dead members that a backend requeues in one call."""


async def _in_thread(function: Callable[..., R], *args: Any) -> R:
    import asyncio  # late: a program without an event loop does not need it

    return await asyncio.to_thread(function, *args)


class Operator(Protocol):
    """The methods of an application that a handle calls."""

    def operate(self, action: Callable[[Backend], R]) -> R: ...

    def flow_status(self, flow_id: str) -> FlowStatus | None: ...

    def withdraw(self, item_id: str) -> bool: ...

    def may_be_in_job(self) -> bool: ...


class FlowHandle(Struct, eq=False):
    """A flow that was sent. Any thread may use it; it holds no connection."""

    _application: Operator
    id: str
    name: str = ""

    @classmethod
    def of(cls, flow_id: str) -> FlowHandle:
        """Return the handle of an earlier flow, from any process; the backend is not asked."""
        return FlowHandle(current_enqueuer(), flow_id)

    def progress(self) -> FlowStatus:
        """Return the state of the flow and the number of its members by state.

        "done" means that nothing is left to run; `cancelled` counts the members that were cancelled, purged or skipped instead.

        Raises FlowLost for a flow that is not known: it was dropped, or ended more than its `ttl` ago.
        """
        found = self._application.flow_status(self.id)
        if found is None:
            raise self._lost()
        return found

    def status(self) -> str:
        """Return the state; "unknown" for a flow that is not known.

        It is "open" until its last part has arrived, then "running", "failed", "done" or "cancelled"; before, "scheduled" in an
        outbox, from which it was not carried yet.
        """
        found = self._application.flow_status(self.id)
        return "unknown" if found is None else found.state

    def wait(self, timeout: DurationLike | None = None) -> FlowStatus:
        """Wait until nothing of the flow is left to run, and return its status: done, failed or cancelled.

        "done" does not mean that every member ran: see `progress`.

        Raises ResultTimeout after `timeout`, FlowLost, and EndlessWait inside a job without a timeout.
        """
        left = self._patience(timeout)
        deadline = None if left is None else time.monotonic() + left
        longest = WAIT_SLICE_IN_JOB if self._application.may_be_in_job() else WAIT_SLICE
        while True:
            patience = longest if deadline is None else min(longest, max(0.0, deadline - time.monotonic()))
            over = deadline is not None and time.monotonic() + patience >= deadline
            try:
                found = self._wait(patience)
            except BackendUnavailable:
                if over:
                    raise
                time.sleep(min(0.2, patience))
                continue
            if found is not None:
                return found
            status = self.progress()
            if status.state == "scheduled":  # the backend does not know it, and has answered at once
                over = deadline is not None and time.monotonic() >= deadline
                time.sleep(min(OUTBOX_LOOK, patience))
            if over:
                raise ResultTimeout(
                    f"flow {self.id} has not ended within {left:g} s: {described(status)}. `jobsctl flow show {self.id}` tells "
                    "more"
                )

    def _patience(self, timeout: DurationLike | None) -> float | None:
        """Return a timeout in seconds; raise EndlessWait if a job would wait without one."""
        left = timeout if timeout is None or isinstance(timeout, (int, float)) else float(seconds(timeout))
        if left is None and self._application.may_be_in_job():
            raise EndlessWait(
                f"a job waits for flow {self.id} without a timeout: if every job in its pool does so, none of them ever ends. "
                "Pass a timeout, or add a member that runs after flow.all"
            )
        return left

    def _wait(self, patience: float) -> FlowStatus | None:
        return self._application.operate(lambda backend: backend.wait_flow(self.id, patience))

    def cancel(self, *, finale: bool = False) -> bool:
        """Cancel all members that have not ended; return whether there was something to cancel.

        Once this returned, no member starts; running ones are told. With `finale`, members after `flow.all` still run unless
        they have `when="done"`: not all is done.
        """
        if self._cancel(finale):
            return True
        if self.status() != "scheduled":
            return False
        return self._application.withdraw(self.id) or self._cancel(finale)  # it may have been carried in between

    def _cancel(self, finale: bool) -> bool:
        return self._application.operate(lambda backend: backend.cancel_flow(self.id, finale=finale))

    def retry(self) -> int:
        """Run the dead members again, and then what waits for them; return how many. What the flow refused stays dead."""
        retried = 0
        while True:
            found = self._application.operate(lambda backend: backend.retry_flow(self.id))
            retried += found
            if found < MOST_RETRIED:
                return retried

    async def aprogress(self) -> FlowStatus:
        """`progress` without blocking the event loop."""
        return await _in_thread(self.progress)

    async def astatus(self) -> str:
        """`status` without blocking the event loop."""
        return await _in_thread(self.status)

    async def async_wait(self, timeout: DurationLike | None = None) -> FlowStatus:
        """`wait` without blocking the event loop."""
        return await _in_thread(self.wait, timeout)

    async def acancel(self, *, finale: bool = False) -> bool:
        """`cancel` without blocking the event loop."""
        return await _in_thread(lambda: self.cancel(finale=finale))

    async def aretry(self) -> int:
        """`retry` without blocking the event loop."""
        return await _in_thread(self.retry)

    def _lost(self) -> FlowLost:
        return FlowLost(
            f"flow {self.id} is unknown: its `with Flow` block has not ended yet, which sends it, its transaction has not "
            "committed, or it was never sent completely, was dropped, or ended longer ago than its ttl"
        )

    def __await__(self) -> Any:
        raise NotAwaitable("a handle cannot be awaited: wait for the flow with `await handle.async_wait()`")

    def __repr__(self) -> str:
        return f"<FlowHandle {self.id} {self.name}>".replace(" >", ">")


class WorkHandle(FlowHandle, Generic[T], eq=False):
    """The handle of a chain or group that was enqueued as a flow of its own."""

    ends: list[JobHandle[Any]] = []
    """The handles of the last jobs: one for a chain, and one for each job of a group."""

    many: bool = False
    parts: list[Any] = []

    def result(self, timeout: DurationLike | None = None) -> T:
        """Wait for the last job and return its result; for a group, the list of results in its order.

        Raises what `JobHandle.result` raises, and JobFailed if the last job cannot run because another one is dead.
        """
        left = self._patience(timeout)
        deadline = None if left is None else time.monotonic() + left
        try:
            found: Any = self._results(self.parts, deadline) if self.many else self._result_of(self.ends[0], deadline)
        except ResultTimeout:
            raise ResultTimeout(f"flow {self.id} has no result within {left:g} s: {described(self.progress())}") from None
        value: T = found
        return value

    def _results(self, parts: list[Any], deadline: float | None) -> list[Any]:
        """Return the results of the items of a group, each perhaps a group itself."""
        return [
            self._results(part.parts, deadline) if part.many else self._result_of(part.ends[0].handle, deadline)
            for part in parts
        ]

    def _result_of(self, handle: JobHandle[Any], deadline: float | None) -> Any:
        longest = FIRST_SLICE
        while True:
            left = longest if deadline is None else min(longest, max(0.0, deadline - time.monotonic()))
            longest = min(2 * longest, WAIT_SLICE)
            try:
                return handle.result(left)
            except ResultTimeout:
                status = self.progress()
                if status.state == "failed" and not status.active:
                    raise JobFailed(
                        f"job {handle.id} cannot run, because its flow failed: {described(status)}. `jobsctl flow show "
                        f"{self.id}` tells more; `jobsctl flow retry {self.id}` continues it",
                        reason="flow failed",
                    ) from None
                if deadline is not None and time.monotonic() >= deadline:
                    raise

    async def aresult(self, timeout: DurationLike | None = None) -> T:
        """Wait for the result without blocking the event loop; see `result`."""
        return await _in_thread(self.result, timeout)

    def __repr__(self) -> str:
        return f"<WorkHandle {self.id} {self.name}>"


foreign.teach(FlowHandle, foreign.FLOW_HANDLE)
foreign.teach(WorkHandle, foreign.WORK_HANDLE)


def described(status: FlowStatus) -> str:
    """Return the progress of a flow in words."""
    counts = {
        "waiting": status.waiting,
        "in work": status.active,
        "done": status.done,
        "dead": status.dead,
        "cancelled": status.cancelled,
    }
    told = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
    return f"{status.state}; of {status.total:,} members, {told or 'none has begun'}"
