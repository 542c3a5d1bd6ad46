"""What a job may know of itself: `current_job()`, and the objects that hooks receive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from msgspec import UNSET, Struct

from .. import foreign
from ..backends.base import Outcome
from ..errors import JobCancelled
from ..handle import JobHandle
from ..job import Call, JobFunction
from ..running import running
from .run import Run

if TYPE_CHECKING:
    from ..app import App
    from ..message import Message

P = ParamSpec("P")
T = TypeVar("T")

worker_app: App | None = None
"""The application of this worker process; set once, before the first run."""


class JobContext:
    """The job that is running, as it sees itself."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def id(self) -> str:
        """The job's id."""
        return self._run.delivery.id

    @property
    def name(self) -> str:
        """The job's registered name."""
        return self._run.job.name

    @property
    def topic(self) -> str:
        """The topic it came from."""
        return self._run.delivery.topic

    @property
    def attempt(self) -> int:
        """Which attempt this is, counted from 1."""
        return self._run.delivery.attempt + 1

    @property
    def retries(self) -> int:
        """How many attempts after the first it may have."""
        return self._run.retries

    @property
    def redeliveries(self) -> int:
        """How many earlier runs were lost with their worker."""
        return self._run.delivery.redeliveries

    @property
    def headers(self) -> dict[str, Any]:
        """The envelope's headers."""
        return self._run.message.headers

    @property
    def message(self) -> Message:
        """The whole envelope."""
        return self._run.message

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked for this job's end; for jobs on threads, which cannot be interrupted."""
        return isinstance(self._run.interrupted, JobCancelled)

    def enqueue(self, job: JobFunction[P, Any, T], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """Enqueue a follow-up together with this job's acknowledgement: both happen, or neither.

        Nothing is sent if the job fails. Where the backend lacks `atomic_followups` the follow-ups are
        pushed just before the acknowledgement, and a crash between the two repeats them. Raises as
        `JobFunction.enqueue` does for arguments that do not fit, and RuntimeError when the run has ended, as a thread
        that it has left behind may find: nothing would send the follow-up any more.
        """
        app = worker_app
        if app is None:
            return job.enqueue(*args, **kwargs)
        call: Call[T] = Call(job, args, kwargs)
        message = app.message(call)
        if self._run.followups is None:
            self._run.followups = []
        self._run.followups.append(app.outgoing(message, chosen=job.overrides.id is not UNSET))
        if self._run.ended:  # after the append: who ends the run sets it before the follow-ups are read
            raise RuntimeError(
                f"{self.name} {self.id} has ended: follow-ups are sent with its acknowledgement, which has already happened. "
                f"Wait for your threads before the job ends, or call {job.name}.enqueue()"
            )
        handle = app.handle(call, message)
        handle.created = None  # not before it is sent, and then a job with its key or id may be there
        return handle

    def __repr__(self) -> str:
        return f"<JobContext {self.name} {self.id} attempt {self.attempt}>"


foreign.teach(JobContext, foreign.CONTEXT)


class RunOutcome(Struct, frozen=True):
    """How a run ended, for `jobs_job_finished`."""

    outcome: Outcome
    seconds: float
    error: BaseException | None = None


class WorkerInfo(Struct, frozen=True):
    """A worker process, for hooks."""

    owner: str
    pool: str
    topics: tuple[str, ...]
    mode: str
    concurrency: int


def current_job() -> JobContext:
    """The job that is running here; raises RuntimeError outside a job. Works in threads, tasks and to_thread."""
    run = running.get()
    if run is None:
        raise RuntimeError("current_job() was called outside a job: only code that a worker runs has a current job")
    return context_of(run)


def context_of(run: Run) -> JobContext:
    """The context object of a run; one each."""
    if run.context is None:
        run.context = JobContext(run)
    context: JobContext = run.context
    return context
