"""Run jobs in tests: on a memory backend, in the test's own thread, with all steps that a worker takes."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from ..app import App, set_current_app
from ..backends.base import Backend, BackendOptions, Settlement, State
from ..backends.memory import MemoryBackend, forget
from ..config import Config
from ..errors import JobSignal
from ..handle import JobHandle
from ..ids import new_token
from ..job import Call, JobFunction
from ..message import Message, decode
from ..plugins import Plugins
from ..units import times
from ..worker import context
from ..worker.decoder import Decoder
from ..worker.executors.loops import LoopRunner
from ..worker.executors.steps import conclude, run_in_thread
from ..worker.middleware import Middleware
from ..worker.run import Run

T = TypeVar("T")


class JobsQueue:
    """An application on an empty memory backend: inspect enqueued jobs, run them, let time pass.

    Jobs fail as they would with a worker, and `drain` re-raises the first job's own exception.
    """

    def __init__(self, config: Config | None = None) -> None:
        self._shift = 0.0
        self._url = f"memory://test-{new_token()}"
        self.app = _TestApp(msgspec.structs.replace(config or Config(), backend=self._url), self._now)
        self._backend = self.app.new_backend()
        self._backend.open(f"drain-{new_token()}")
        self._decoder = Decoder(self.app)
        self._middleware = Middleware(self.app.plugins, None)
        self._loop = LoopRunner()

    def _now(self) -> float:
        return time.time() + self._shift

    def close(self) -> None:
        """Forget everything that was enqueued."""
        self._loop.close()
        self._backend.close()
        self.app.close()
        forget(self._url)

    # -- looking ---------------------------------------------------------------------------------

    def enqueued(self, job: JobFunction[Any, Any, Any] | None = None) -> list[Message]:
        """Return the waiting messages, ready before scheduled, of one job or of all."""
        found = []
        for topic in self._backend.topics():
            for state in (State.READY, State.SCHEDULED):
                for record in self._backend.browse(topic, state, 1_000_000):
                    message = decode(record.payload, signer=self.app.signer, topic=topic)
                    if job is None or message.job == job.name:
                        found.append(message)
        return found

    def assert_enqueued(self, job: JobFunction[Any, Any, Any], /, *args: Any, **kwargs: Any) -> Message:
        """Return the message of a call that must be waiting; without arguments, of any call of this job."""
        waiting = self.enqueued(job)
        if not args and not kwargs and waiting:
            return waiting[0]
        for message in waiting:
            if _named(job, message.args, message.kwargs) == _named(job, *_as_json(args, kwargs)):
                return message
        listed = "".join(f"\n  {message.args!r} {message.kwargs!r} in {message.topic}" for message in waiting)
        raise AssertionError(f"{job.name} is not enqueued with {args!r} {kwargs!r}; enqueued are:{listed or ' none'}")

    def refute_enqueued(self, job: JobFunction[Any, Any, Any]) -> None:
        """Fail if any call of this job is waiting."""
        waiting = self.enqueued(job)
        if waiting:
            raise AssertionError(
                f"{job.name} is enqueued {times(len(waiting))}, with {waiting[0].args!r} {waiting[0].kwargs!r}"
            )

    def dead(self) -> list[Any]:
        """Return the dead letters, as backend records with reason and errors."""
        return [r for topic in self._backend.topics() for r in self._backend.browse(topic, State.DEAD, 1_000_000)]

    # -- running ---------------------------------------------------------------------------------

    def drain(self, topics: Sequence[str] = (), *, raise_errors: bool = True) -> int:
        """Run the ready jobs, and those that they enqueue, until none is ready; return the number of runs.

        With `raise_errors` the first exception of a job is raised here, after the job was settled as a worker would have
        settled it. Jobs scheduled for later, retries among them, wait for `advance`.
        """
        runs = 0
        while True:
            deliveries = self._backend.reserve(list(topics) or self._backend.topics(), 1, new_token())
            if not deliveries:
                return runs
            runs += 1
            run = self._decoder.accept(deliveries[0])
            if isinstance(run, Settlement):
                self._backend.settle([run], new_token())
                continue
            error = self._execute(run)
            assert run.settlement is not None
            self._backend.settle([run.settlement], new_token())
            if raise_errors and error is not None and not run.unfit and not isinstance(error, JobSignal):
                raise error

    def advance(self, seconds: float) -> None:
        """Let time pass for the queue: delays, retries, expiry, unique keys."""
        self._shift += seconds
        self._backend.heartbeat()

    def _execute(self, run: Run) -> BaseException | None:
        run.started = time.monotonic()
        previous, context.worker_app = context.worker_app, self.app
        own = contextvars.copy_context()
        try:
            if inspect.iscoroutinefunction(inspect.unwrap(run.job.function)) and _in_event_loop():
                thread = threading.Thread(target=own.run, args=(self._execute_apart, run))
                thread.start()
                thread.join()
            else:
                own.run(run_in_thread, run, self._middleware, lambda: self._loop)
            error = run.error
            own.run(conclude, run, self._middleware)
        finally:
            context.worker_app = previous
        return error

    def _execute_apart(self, run: Run) -> None:
        """Run a job in this thread, on an event loop of its own."""
        loop = LoopRunner()
        try:
            run_in_thread(run, self._middleware, lambda: loop)
        finally:
            loop.close()


class InlineJobs(JobsQueue):
    """An application whose `enqueue` runs the job at once; the job's exception is the enqueue's."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.app.after_enqueue = self.drain


class _TestApp(App):
    """An application with a clock of its own, that may run something after each enqueue."""

    needs_transactions = False
    warns_of_unserved = False

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        super().__init__(config, plugins=Plugins())
        self._clock = clock
        self.after_enqueue: Callable[[], object] | None = None
        self._depth = 0

    def new_backend(self, *, clock: Callable[[], float] | None = None) -> Backend:
        options: BackendOptions = self.backend_options(clock or self._clock)
        return MemoryBackend(self.backend_url, options)

    def enqueue(self, call: Call[T]) -> JobHandle[T]:
        handle = super().enqueue(call)
        if self.after_enqueue is not None:
            self.after_enqueue()
        return handle

    def enqueue_many(self, calls: Iterable[Call[T]]) -> list[JobHandle[T]]:
        handles = super().enqueue_many(calls)
        if handles and self.after_enqueue is not None:
            self.after_enqueue()
        return handles


def _as_json(args: Iterable[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    from ..conversion import json_encoder

    plain: tuple[list[Any], dict[str, Any]] = msgspec.json.decode(json_encoder.encode((list(args), kwargs)))
    return plain


def _named(job: JobFunction[Any, Any, Any], args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    return job.arguments.named(args, kwargs)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def install(queue: JobsQueue) -> Callable[[], None]:
    """Make the queue's application the current one; return a function that undoes this."""
    from .. import app as app_module

    previous = app_module._current
    set_current_app(queue.app)

    def undo() -> None:
        set_current_app(previous)
        queue.close()

    return undo
