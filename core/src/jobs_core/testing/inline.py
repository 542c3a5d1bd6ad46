"""Run jobs in tests: on a memory backend, in the test's own thread, with all steps that a worker takes."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

import msgspec
from msgspec.structs import replace

from .. import escapes
from ..app import App, current, set_current_app
from ..app.envelopes import Envelopes
from ..app.resources import Resources
from ..backends.base import Backend, BackendOptions, Delivery, JobRecord, Outcome, Outgoing, Settlement, State
from ..backends.flows import Part
from ..backends.memory import MemoryBackend, forget
from ..config import Config
from ..errors import JobFailed, JobSignal, JobSuspended
from ..handle import Follower, JobHandle
from ..ids import new_token
from ..job import Call, JobFunction
from ..message import Message, decode
from ..placeholders import Taken
from ..plugins import Plugins
from ..registry import AnyJob
from ..runs import context
from ..runs.failure import PLUMBING
from ..runs.notebook import Notebook
from ..runs.run import Run
from ..stamp import Stamp
from ..units import DurationLike, count, times
from ..worker.decoder import Decoder
from ..worker.executors.loops import LoopRunner
from ..worker.executors.steps import conclude, run_in_thread
from ..worker.middleware import Middleware
from ..worker.pending_ends import PendingEnd
from .clock import Clock, destination, moment, travel
from .expected import Differences, Expectation, Raised, call_text, difference_lines, listing

P = ParamSpec("P")
T = TypeVar("T")

MOST_RUNS = 10_000
"""Most runs of one `drain(scheduled=True)`, which would never end with a job that enqueues itself for later."""


class _StopAfter:
    """A worker that is told to stop after a number of steps of its jobs, or never."""

    def __init__(self, steps: int | None, notebook: Notebook | None = None) -> None:
        self.notebook = notebook
        self._left = steps
        self._run: Run | None = None

    def watch(self, run: Run) -> None:
        """Count the steps of the next run, after those of the last one."""
        if self._left is not None:
            self._left -= self._done()
        self._run = run

    def _done(self) -> int:
        return 0 if self._run is None or self._run.progress is None else self._run.progress.steps

    @property
    def stopping(self) -> bool:
        return self._left is not None and self._done() >= self._left


class JobsQueue:
    """An application on an empty memory backend: inspect enqueued jobs, run them, let time pass.

    Jobs fail as in a worker, and `drain` re-raises the exception of the first one that fails. Inside a `with` block, it is
    the current application.
    """

    def __init__(self, config: Config | None = None) -> None:
        self._clock = Clock()
        self._url = f"memory://test-{new_token()}"
        self.app: _TestApp = _TestApp(msgspec.structs.replace(config or Config(), backend=self._url), self._clock.now)
        backend = self.app.new_backend()
        assert isinstance(backend, MemoryBackend)
        self._backend = backend
        self._backend.open(f"drain-{new_token()}")
        self._decoder = Decoder(self.app)
        self._decoder.keeps_history = True
        self._middleware = Middleware(self.app.plugins, None)
        self._loop = LoopRunner()
        self._undo: list[Callable[[], None]] = []
        self._notebook = Notebook(lambda: None)
        self._stop = _StopAfter(None, self._notebook)

    def close(self) -> None:
        """Forget everything that was enqueued."""
        self._loop.close()
        self._backend.close()
        self.app.close()
        forget(self._url)

    def __enter__(self: Q) -> Q:
        self._undo.append(install(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.pop()()

    # -- looking ---------------------------------------------------------------------------------

    def enqueued(self, job: AnyJob | None = None, /, *args: Any, **kwargs: Any) -> list[Message]:
        """Return the waiting messages, ready before scheduled: all, or those of a job, or those with these arguments.

        Arguments select calls as in `assert_enqueued`.
        """
        if job is None:
            return [message for message, _ in self._waiting()]
        found, others = self._sorted(self._expectation(job, args, kwargs))
        for differences in others:
            errors = [has.error for _, has in differences.values() if isinstance(has, Raised)]
            if len(errors) == len(differences):  # the errors are the only differences, so they matter
                raise errors[0]
        return found

    def assert_enqueued(self, job: AnyJob, /, *args: Any, count: int | None = None, **kwargs: Any) -> Message:
        """Fail unless a matching call is waiting, with `count` exactly so many; return its message.

        Only the given arguments are compared. Each may be a value, a type, a function that accepts or refuses the job's
        value, or an object with its own comparison, such as `unittest.mock.ANY`. Options are compared, too, if the job has
        any: `assert_enqueued(send.using(topic="vip"))`. If the job has a parameter named `count`, `count` is its argument.
        """
        __tracebackhide__ = True
        if count is not None and _takes_count(job):
            kwargs["count"], count = count, None
        if count is not None and count < 1:
            raise ValueError("assert_enqueued: count is 1 or more: use refute_enqueued for a call that must not be waiting")
        expected = self._expectation(job, args, kwargs)
        found = self._sorted(expected)[0]
        if found and count in (None, len(found)):
            return found[0]
        said = "is not enqueued" if not found else f"is enqueued {times(len(found))}"
        wanted = f", expected {times(count)}" if count is not None and (found or count > 1) else ""
        raise AssertionError(f"{job.name} {said}{_with(expected)}{wanted}; enqueued are:{self._listing(expected)}")

    def refute_enqueued(self, job: AnyJob | None = None, /, *args: Any, **kwargs: Any) -> None:
        """Fail if a matching call of this job is waiting, or, without a job, if any job is waiting."""
        __tracebackhide__ = True
        found = self.enqueued(job, *args, **kwargs)
        if not found:
            return
        if job is None:
            raise AssertionError(f"{count(len(found), 'job')} enqueued, expected none:{self._listing()}")
        expected = self._expectation(job, args, kwargs)
        said = f"{job.name} is enqueued {times(len(found))}{_with(expected)}, expected never"
        raise AssertionError(f"{said}; enqueued are:{self._listing(expected)}")

    def dead(self) -> list[JobRecord]:
        """Return the dead letters, as backend records with reason and errors."""
        return [r for topic in self._backend.topics() for r in self._backend.browse(topic, State.DEAD, 1_000_000)]

    def clear(self) -> None:
        """Delete everything that is waiting, and the dead letters."""
        for topic in self._backend.topics():
            for state in (*self._backend.queued_states, State.DEAD):
                self._backend.purge(topic, state)

    def _waiting(self, job: AnyJob | None = None) -> Iterator[tuple[Message, float | None]]:
        """Yield each waiting message, with the seconds until it is due if it is scheduled."""
        for topic in self._backend.topics():
            for state in self._backend.queued_states:
                for record in self._backend.browse(topic, state, 1_000_000):
                    message = self.app.payloads.unpacked(decode(record.payload, signer=self.app.signer, topic=topic))
                    if job is None or message.job in (job.name, *job.aliases):
                        yield message, None if record.due is None else record.due - record.broker_now

    def _sorted(self, expected: Expectation) -> tuple[list[Message], list[Differences]]:
        """Return the waiting calls that match, and for each other call its differences."""
        found: list[Message] = []
        others: list[Differences] = []
        for message, _ in self._waiting(expected.job):
            differences = expected.differences(message)
            if differences:
                others.append(differences)
            else:
                found.append(message)
        return found, others

    def _expectation(self, job: AnyJob, args: Sequence[Any], kwargs: dict[str, Any]) -> Expectation:
        __tracebackhide__ = True
        if not isinstance(job, JobFunction):
            raise TypeError(f"expected a job function, one with @job, got {type(job).__name__}")
        return Expectation(job, args, kwargs, self.app.config)

    def _listing(self, expected: Expectation | None = None) -> str:
        """Return the lines of a failed assertion that list the waiting jobs."""
        blocks: list[tuple[int, str]] = []
        others: Counter[str] = Counter()
        for message, due_in in self._waiting():
            if expected is not None and message.job not in (expected.job.name, *expected.job.aliases):
                others[message.job or "?"] += 1
                continue
            found = {} if expected is None else expected.differences(message)
            text = call_text(self.app.registry.get(message.job or ""), message, due_in)
            blocks.append((len(found), "\n      ".join([text, *difference_lines(found)])))
        return listing(blocks, others)

    # -- running ---------------------------------------------------------------------------------

    def drain(
        self,
        topics: Sequence[str] = (),
        *,
        raise_errors: bool = True,
        scheduled: bool = False,
        limit: int | None = None,
        stop_after: int | None = None,
    ) -> int:
        """Run the ready jobs, and the jobs that they enqueue, until none is ready; return the number of runs.

        With `raise_errors`, the first exception of a job is raised here with the job's traceback, once the job has been
        settled as in a worker. Jobs scheduled for later, including retries, wait for `travel`; with `scheduled`, time is
        moved until they are due, until no job is waiting. `limit` bounds the number of runs. `stop_after` stops the worker
        after so many steps of resumable jobs (0: before the first one), as a deployment does: `current_job().stopping`
        becomes true, a job in a loop over `steps` is suspended, and the next drain continues it.
        """
        __tracebackhide__ = True
        if isinstance(topics, str):  # a sequence too, of topics with names of one letter, which would all be empty
            raise TypeError(f"drain: expected a list of topics, got a string: write drain([{topics!r}])")
        runs = 0
        self._stop = _StopAfter(stop_after, self._notebook)
        while (limit is None or runs < limit) and not (runs and self._stop.stopping):
            deliveries = self._backend.reserve(list(topics) or self._backend.store.known_topics(), 1, new_token())
            if not deliveries:
                if self._backend.store.members.work:  # of a large flow, each call decides a slice
                    continue
                if scheduled and self._advance_to_next(topics):
                    continue
                return runs
            runs += 1
            if scheduled and limit is None and runs > MOST_RUNS:
                raise AssertionError(
                    f"drain(scheduled=True) has run {MOST_RUNS:,} jobs, and there are more in {deliveries[0].topic}: if a job "
                    "enqueues itself for later, use travel() and drain(), or a limit"
                )
            error = self._run(deliveries[0])
            if raise_errors and error is not None and not isinstance(error, (JobSignal, JobSuspended)):
                raise _as_the_job_raised_it(error)
        return runs

    def perform(self, job: JobFunction[P, Any, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one call now, as a worker would, and return its result; do not touch the waiting jobs.

        An exception of the function is raised here, including Retry, Snooze and Discard. If it succeeds, its follow-ups are
        enqueued.
        """
        __tracebackhide__ = True
        call: Call[T] = Call(job, args, kwargs)
        outgoing = self.app.outgoing(self.app.message(call))
        run = self._accept(self._delivery(outgoing))
        if isinstance(run, Settlement):
            raise _unrun(run)
        value, error = self._execute(run)
        if error is not None:
            raise _as_the_job_raised_it(error)
        if run.followups:
            self._backend.push(run.due_followups(), new_token())
        result: T = value
        return result

    def _delivery(self, sent: Outgoing) -> Delivery:
        now = self._clock.now()
        return Delivery(sent.id, sent.topic, sent.payload, 0, 0, 0, 0, 0, now, now)

    @contextlib.contextmanager
    def inline(self) -> Iterator[None]:
        """Run each job that is enqueued inside this block at once."""
        before, self.app.after_enqueue = self.app.after_enqueue, self.drain
        try:
            yield
        finally:
            self.app.after_enqueue = before

    def _run(self, delivery: Delivery) -> BaseException | None:
        """Run a reserved job and settle it; return the error if it failed or could not be run."""
        run = self._accept(delivery)
        if isinstance(run, Settlement):
            self._backend.settle([run], new_token())
            return _unrun(run) if run.outcome is Outcome.DEAD else None
        error = self._execute(run)[1]
        assert run.settlement is not None
        end = run.settlement if run.owed is None else PendingEnd(run.settlement, run.owed).completed()
        ((end, _),) = self._notebook.with_notes([(end, run)])
        self._backend.settle([replace(end, close_limits=())], new_token())  # limits hold no test up
        return error

    def _accept(self, delivery: Delivery) -> Run | Settlement:
        run = self._decoder.accept(delivery)
        return run.completed() if isinstance(run, PendingEnd) else run

    def _execute(self, run: Run) -> tuple[Any, BaseException | None]:
        """Return the value of a run, or its error."""
        run.started = time.monotonic()
        run.stop_flag = self._stop
        self._stop.watch(run)
        previous, context.worker_app = context.worker_app, self.app
        own = contextvars.copy_context()
        try:
            if inspect.iscoroutinefunction(inspect.unwrap(run.job.function)) and _in_event_loop():
                thread = threading.Thread(target=own.run, args=(self._execute_apart, run))
                thread.start()
                thread.join()
            else:
                own.run(run_in_thread, run, self._middleware, lambda: self._loop)
            value, error = run.value, run.error
            own.run(conclude, run, self._middleware)
        finally:
            context.worker_app = previous
        return value, error

    def _execute_apart(self, run: Run) -> None:
        """Run an async job in this thread, on a new event loop."""
        loop = LoopRunner()
        try:
            run_in_thread(run, self._middleware, lambda: loop)
        finally:
            loop.close()

    # -- time ------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """Return the queue's time, in UTC. It stands still until `travel`."""
        return moment(self._clock.now())

    def travel(self, by: DurationLike | None = None, *, to: datetime | None = None, schedule: bool = True) -> None:
        """Move the queue's time: `travel("1h")`, or `travel(to=...)` with a datetime that has a time zone.

        Delays, retries, expiries, unique keys and results end as if the time had passed, and unless `schedule` is false,
        each tick of the schedule is enqueued at its time. No job is run: call `drain`. Time can be moved back only while
        the queue is empty. Raises ValueError.
        """
        __tracebackhide__ = True
        now = self._clock.now()
        there = destination(now, by, to)
        if there < now and self._backend.topics():
            raise ValueError(
                f"travel: {moment(there)} is before the queue's time, {moment(now)}: time goes back only while the queue is "
                "empty"
            )
        travel(self._clock, there, self.app, self._backend, schedule=schedule)
        if self.app.after_enqueue is not None:
            self.app.after_enqueue()

    def advance(self, seconds: DurationLike) -> None:
        """Move the queue's time without ticks of the schedule: `travel(seconds, schedule=False)`."""
        self.travel(seconds, schedule=False)

    def _advance_to_next(self, topics: Sequence[str]) -> bool:
        """Move the time until the next scheduled job is due; return whether there is one."""
        scheduled = [self._backend.browse(topic, State.SCHEDULED, 1) for topic in list(topics) or self._backend.topics()]
        due = [record.due for records in scheduled for record in records if record.due is not None]
        if not due:
            return False
        travel(self._clock, min(due), self.app, self._backend, schedule=False)
        return True


Q = TypeVar("Q", bound=JobsQueue)


class InlineJobs(JobsQueue):
    """An application whose `enqueue` runs the job at once, and raises the job's exception."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.app.after_enqueue = self.drain


class _TestEnvelopes(Envelopes):
    """Messages with the queue's time."""

    def __init__(self, resources: Resources, follower: Follower, clock: Callable[[], float]) -> None:
        super().__init__(resources, follower)
        self._clock = clock

    def now(self) -> float:
        return self._clock()

    def draft(self, call: Call[Any], stamp: Stamp, takes: Taken | None = None) -> Message:
        """Return an envelope with the queue's time, by which signed messages expire."""
        return replace(super().draft(call, stamp, takes), enqueued_at=int(self._clock() * 1e6) / 1e6)


class _TestApp(App):
    """An application that uses the queue's clock, and may call a function after each enqueue."""

    needs_transactions = False
    warns_of_unserved = False

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self._clock = clock
        super().__init__(config, plugins=Plugins())
        self.after_enqueue: Callable[[], object] | None = None

    def new_backend(self, *, clock: Callable[[], float] | None = None) -> Backend:
        options: BackendOptions = self.backend_options(clock or self._clock)
        return MemoryBackend(self.backend_url, options)

    def _new_envelopes(self) -> Envelopes:
        return _TestEnvelopes(self, self, self._clock)

    def enqueue(self, call: Call[T]) -> JobHandle[T]:
        __tracebackhide__ = True
        handle = super().enqueue(call)
        if self.after_enqueue is not None:
            self.after_enqueue()
        return handle

    def push_flow(
        self, parts: Sequence[tuple[Part, list[Outgoing]]], jobs: Iterable[AnyJob], transaction: object = None
    ) -> None:
        __tracebackhide__ = True
        super().push_flow(parts, jobs, transaction)
        if self.after_enqueue is not None:
            self.after_enqueue()

    def enqueue_many(self, calls: Iterable[Call[T]]) -> list[JobHandle[T]]:
        __tracebackhide__ = True
        handles = super().enqueue_many(calls)
        if handles and self.after_enqueue is not None:
            self.after_enqueue()
        return handles


def _takes_count(job: AnyJob) -> bool:
    """Return whether the job itself takes an argument `count`."""
    parameters = inspect.signature(job.function).parameters
    return "count" in parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _with(expected: Expectation) -> str:
    text = str(expected)
    return f" with {text}" if text else ""


def _unrun(ending: Settlement) -> JobFailed:
    """Return the error for a job that could not be run, because its arguments do not fit or its message is unreadable."""
    told = msgspec.json.decode(ending.error)
    text = escapes.lines(f"job {ending.id} was not run and is dead ({ending.reason}): {told['message']}")
    return JobFailed(text, reason=ending.reason, error_type=told["type"])


def _as_the_job_raised_it(error: BaseException) -> BaseException:
    """Return the error with a traceback that begins in the job's code, without the frames that call it."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None and step.tb_frame.f_code.co_filename.startswith(PLUMBING):
        step = step.tb_next
    return error.with_traceback(step)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def install(queue: JobsQueue) -> Callable[[], None]:
    """Make the queue's application the current one; return a function that undoes this."""
    previous = current._current
    set_current_app(queue.app)

    def undo() -> None:
        set_current_app(previous)
        queue.close()

    return undo
