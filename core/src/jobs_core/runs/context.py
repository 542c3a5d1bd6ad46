"""The context of a running job, which `current_job()` returns, and the objects that hooks receive."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from msgspec import Struct

from .. import foreign
from ..backends.base import Outcome, Outgoing
from ..errors import CheckpointError, JobCancelled
from ..handle import JobHandle
from ..job_function import Call, Enqueuer, JobFunction
from ..message import Message, PackedMessage, decode
from .run import Run
from .running import running

if TYPE_CHECKING:
    from .in_flow import JobFlow
    from .progress import Progress

P = ParamSpec("P")
T = TypeVar("T")
Row = TypeVar("Row")

worker_app: Enqueuer | None = None
"""The application of this worker process; set once, before the first run."""


class JobContext:
    """The context of the job that is running."""

    __slots__ = ("_flow", "_run")
    _flow: JobFlow  # set by its first use

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def id(self) -> str:
        """Return the job's id."""
        return self._run.delivery.id

    @property
    def name(self) -> str:
        """Return the job's registered name."""
        return self._run.job.name

    @property
    def topic(self) -> str:
        """Return the topic that the job came from."""
        return self._run.delivery.topic

    @property
    def attempt(self) -> int:
        """Return the number of this attempt, counted from 1."""
        return self._run.attempt

    @property
    def retries(self) -> int:
        """Return the number of attempts that the job may have after the first."""
        return self._run.retries

    @property
    def redeliveries(self) -> int:
        """Return the number of earlier runs that were lost because their worker died."""
        return self._run.delivery.redeliveries

    @property
    def headers(self) -> dict[str, Any]:
        """Return the headers of the envelope."""
        return self._run.message.headers

    @property
    def message(self) -> Message:
        """Return the whole envelope."""
        return self._run.message

    @property
    def encrypted(self) -> bool:
        """Return whether the arguments are encrypted in the queue: reports about the job must not show them."""
        envelope = decode(self._run.delivery.payload, topic=self.topic, default_job=self.name)
        return isinstance(envelope, PackedMessage) and envelope.body.key is not None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments as they were sent, plain JSON, by the names of the parameters. For reports: it takes 10 µs."""
        run = self._run
        return run.job.arguments.named(run.message.args, run.message.kwargs)

    @property
    def cancelled(self) -> bool:
        """Return whether this job was cancelled. Jobs on threads check it, since threads cannot be interrupted."""
        return isinstance(self._run.interrupted, JobCancelled)

    @property
    def stopping(self) -> bool:
        """Return whether the worker has been told to stop: by a stop, a reload, or because it is to be replaced.

        A long job checks it and ends early: `raise Snooze(0)` has it run again in another worker. `steps` does this by itself.
        """
        flag = self._run.stop_flag
        return flag is not None and flag.stopping

    # -- notes ---------------------------------------------------------------------------------------

    def progress(self, done: float, total: float | None = None, text: str = "") -> None:
        """Tell how far the job is: `done` of `total`, and what it does. `handle.progress()` and `jobsctl show` show it.

        It is sent twice a second at most, so a job may call this for every row. Raises ValueError for numbers that are not
        finite or below 0, and RuntimeError if the run has ended. Any thread of the job may call it.
        """
        from .notebook import tell_progress  # late: only jobs that tell something need it

        tell_progress(self._run, done, total, text)

    def log(self, text: str) -> None:
        """Keep a line with the job, which `jobsctl show` and `jobsctl follow` show: the newest 200, 64 kB together.

        A line of more than 2,000 characters loses its middle. Raises RuntimeError if the run has ended. Any thread of the job
        may call it.
        """
        from .notebook import tell_line  # late, as above

        tell_line(self._run, "info", text)

    # -- resumable jobs ------------------------------------------------------------------------------

    @overload
    def steps(self, items: AsyncIterable[Row], *, cursor: Callable[[Row], object] | None = None) -> AsyncIterator[Row]: ...

    @overload
    def steps(self, items: Iterable[Row], *, cursor: Callable[[Row], object] | None = None) -> Iterator[Row]: ...

    @overload
    def steps(self, items: Callable[[Any], AsyncIterable[Row]], *, cursor: Callable[[Row], object]) -> AsyncIterator[Row]: ...

    @overload
    def steps(self, items: Callable[[Any], Iterable[Row]], *, cursor: Callable[[Row], object]) -> Iterator[Row]: ...

    def steps(self, items: Any, *, cursor: Callable[[Any], object] | None = None) -> Any:
        """Return the rows that this job has not processed yet, one step each; a resumable job continues where it was.

        `items` is a function that takes the cursor of the last step that is done (None at first) and returns the rows after
        it, or an iterable with the same rows in the same order in each run. `cursor` returns the cursor of a row: any JSON
        value; for an iterable, it may be left out, and the number of rows counts. If the worker stops, the next step raises
        JobSuspended, and the job continues in another worker without being charged.
        Raises CheckpointError.
        """
        from .steps import steps_of  # imported late: only resumable jobs need it

        return steps_of(self._run, self._progress("steps"), items, cursor)

    def checkpoint(self, state: object) -> None:
        """Store a JSON value from which the next run of this job can continue; it is `cursor` there.

        Inside a loop over `steps`, it is stored together with the cursor of the current step, when that step is done.
        Raises CheckpointError if the job is not resumable, or the value is not JSON or larger than 4 kB.
        """
        self._progress("checkpoint").save(self._run, state)

    @property
    def cursor(self) -> Any:
        """Return the last value that any run of the job passed to `checkpoint`, or else the cursor of its last step.

        None if there is neither. Raises CheckpointError if the job is not resumable.
        """
        return self._progress("cursor").cursor

    def _progress(self, use: str) -> Progress:
        progress = self._run.progress
        if progress is None:
            raise CheckpointError(f"{self.name} uses current_job().{use}, but is not resumable: write @job(resumable=True)")
        return progress

    # -- flows ---------------------------------------------------------------------------------------

    @property
    def flow(self) -> JobFlow | None:
        """Return the flow of which this job is a member; None outside a flow."""
        if not self._run.delivery.flow:
            return None
        try:
            return self._flow
        except AttributeError:
            from .in_flow import JobFlow  # imported late: only members of flows need it

            self._flow = JobFlow(self)
            return self._flow

    def results(self) -> Iterator[tuple[str, Any]]:
        """Iterate over the ids and results of the members whose results this job takes, as plain JSON.

        These are the ones in its arguments and those in `results=` of `flow.add`, in that order; a member that has no result is
        left out. They are fetched in pages, so they may be larger together than one message. Raises FlowError outside a
        flow, and PayloadError for a result that cannot be read, or whose signature is wrong.
        """
        from .in_flow import results_of

        return results_of(self)

    def is_final(self, error: BaseException) -> bool:
        """Return whether the job will not run again by itself if `error` ends this run: it becomes dead or cancelled.

        This is for code around a job that cannot wait for the hook `jobs_job_finished`, which receives the outcome.
        """
        from .outcome import is_final  # late: processes that only enqueue do without the worker's part

        return is_final(self._run, error)

    def trace_as(self, trace_id: str) -> None:
        """Name the trace that has a span for this run, with 32 hexadecimal digits; metrics show those of slow runs.

        For plugins; raises ValueError for another form. The worker reads it once the hook `jobs_job_finished` has been called.
        """
        trace = bytes.fromhex(trace_id)
        if len(trace) != 16:
            raise ValueError(f"a trace id has 32 hexadecimal digits, got {trace_id!r}")
        self._run.trace = trace

    def enqueue(self, job: JobFunction[P, Any, T], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """Enqueue a follow-up together with this job's acknowledgement: both happen, or neither.

        The follow-up is not sent if the job fails. Where the backend lacks `atomic_followups`, follow-ups are pushed
        just before the acknowledgement, and a crash between the two repeats them. Raises the errors of
        `JobFunction.enqueue` for arguments that do not fit. Raises RuntimeError if the run has ended, which happens in
        a thread that outlives its run: the follow-up would never be sent.
        """
        app = worker_app
        if app is None:
            return job.enqueue(*args, **kwargs)
        outgoing, handle = app.prepare(Call(job, args, kwargs))
        self._follow(app, job, outgoing, f"or call {job.name}.enqueue()")
        handle.created = None  # unknown until it is sent: the backend may already have a job with its key or id
        return handle

    def _follow(self, app: Enqueuer, job: JobFunction[Any, Any, Any], outgoing: Outgoing, instead: str) -> None:
        """Have a message sent with this job's acknowledgement."""
        if self._run.followups is None:
            self._run.followups = []
        timed = isinstance(job.overrides.at, float) or isinstance(job.overrides.expires_at, float)
        self._run.followups.append((lambda: app.renewed(job, outgoing)) if timed else outgoing)
        if self._run.ended:  # after the append: a run is marked as ended before its follow-ups are read
            raise RuntimeError(
                f"{self.name} {self.id} has ended: follow-ups are sent with its acknowledgement, which has already happened. "
                f"Wait for your threads before the job ends, {instead}"
            )

    def __repr__(self) -> str:
        return f"<JobContext {self.name} {self.id} attempt {self.attempt}>"


foreign.teach(JobContext, foreign.CONTEXT)


class RunOutcome(Struct, frozen=True):
    """The outcome of a run, for `jobs_job_finished`."""

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
    """Return the context of the job that runs in this thread, task or `to_thread` call; raise RuntimeError outside a job."""
    run = running.get()
    if run is None:
        raise RuntimeError("current_job() was called outside a job: only code that a worker runs has a current job")
    return context_of(run)


def context_of(run: Run) -> JobContext:
    """Return the context of a run; each run has one."""
    if run.context is None:
        run.context = JobContext(run)
    context: JobContext = run.context
    return context
