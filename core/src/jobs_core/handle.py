"""The handle that `enqueue` returns: the job's id, and methods for its status, result and cancellation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from msgspec import Struct

from . import foreign
from .backends.base import State
from .errors import NotAwaitable
from .units import DurationLike, seconds

if TYPE_CHECKING:
    from .following import JobProgress

T = TypeVar("T")


class Follower(Protocol):
    """The methods of an application that a handle calls."""

    def status(self, job_id: str) -> State: ...

    def cancel(self, job_id: str, *, force: bool = False) -> State: ...

    def result(self, handle: JobHandle[T], timeout: float | None) -> T: ...

    async def aresult(self, handle: JobHandle[T], timeout: float | None) -> T: ...

    def progress(self, job_id: str) -> JobProgress: ...

    async def aprogress(self, job_id: str) -> JobProgress: ...


def _seconds(timeout: DurationLike | None) -> float | None:
    """Convert a timeout to seconds; numbers may be negative, as the remaining time of a deadline can be."""
    return timeout if timeout is None or isinstance(timeout, (int, float)) else float(seconds(timeout))


class JobHandle(Struct, Generic[T], eq=False):
    """A job that was enqueued. Any thread may use it; it holds no connection."""

    _follower: Follower
    id: str
    job: Any
    topic: str
    stores_result: bool
    created: bool | None = True
    """False if a job with the same unique key or chosen id existed already: this is then the handle of that job.

    None for a follow-up (`current_job().enqueue`): it is sent when its job ends, so this is not yet known.

    If a backend lacks `known_ids` (RabbitMQ without `[results]`), a chosen id counts as new.
    """

    def status(self) -> State:
        """Return the job's state; UNKNOWN if it never existed, or finished without a stored result."""
        return self._follower.status(self.id)

    def cancel(self, *, force: bool = False) -> State:
        """Cancel the job; return its state afterwards.

        RESERVED means that it is running: its worker is told within 250 ms, and interrupts it. A plain function on a thread
        cannot be interrupted: it ends when it checks `current_job().cancelled`, or by itself. With `force` its worker is
        replaced, as for a timeout, if the job has not ended after the pool's `timeout_grace`.
        """
        return self._follower.cancel(self.id, force=force)

    def result(self, timeout: DurationLike | None = None) -> T:
        """Wait for the job and return its result; `timeout` is a duration (5, "5s", a timedelta), or None to wait forever.

        Raises ResultTimeout, JobFailed, JobWasCancelled, ResultNotStored for a job that does not keep its result (set
        `store_result=True`), and EndlessWait inside a job without a timeout.
        """
        return self._follower.result(self, _seconds(timeout))

    async def aresult(self, timeout: DurationLike | None = None) -> T:
        """Wait for the result without blocking the event loop; see `result`."""
        return await self._follower.aresult(self, _seconds(timeout))

    def progress(self) -> JobProgress:
        """Return what the job last told with `current_job().progress()`.

        Iterate over it, with `for` or `async for`, to follow the job until it has ended: `async for progress in
        handle.progress()`. Raises PayloadError if it is encrypted with a key that is not here.
        """
        return self._follower.progress(self.id)

    async def aprogress(self) -> JobProgress:
        """`progress` without blocking the event loop."""
        return await self._follower.aprogress(self.id)

    if not TYPE_CHECKING:  # a type checker refuses `await handle` by itself

        def __await__(self):
            raise NotAwaitable("a handle cannot be awaited: wait for its result with `await handle.aresult()`")

    def __repr__(self) -> str:
        name = getattr(self.job, "name", self.job)
        return f"<JobHandle {self.id} {name} in {self.topic}>"


foreign.teach(JobHandle, foreign.HANDLE)
