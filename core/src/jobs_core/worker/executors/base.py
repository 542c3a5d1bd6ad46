"""The interface between an executor and the courier, and the code that all executors share."""

from __future__ import annotations

import abc
import contextvars
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from ... import boundary
from ...errors import ArgumentError, JobInterrupted, JobSignal, JobTimeout
from ...running import running
from ...scoreboard.writer import NOWHERE, Scoreboard
from ..middleware import Middleware
from ..output import end_lines, partial
from ..retry import settlement
from ..returned import RESULTS, in_loop
from ..run import Run
from ..run_queue import RunQueue

if TYPE_CHECKING:
    from .loops import LoopRunner


logger = logging.getLogger("jobs.worker")


class Executor(abc.ABC):
    """An executor of jobs. `main` occupies the worker's main thread until `stop`; the courier calls the other methods."""

    def __init__(self, run_queue: RunQueue, middleware: Middleware, concurrency: int, board: Scoreboard = NOWHERE) -> None:
        self.board = board
        self.run_queue = run_queue
        self.middleware = middleware
        self.concurrency = concurrency
        self.upset = False  # our own code was interrupted by an exception; the run being taken then may be forgotten

    @abc.abstractmethod
    def main(self) -> None:
        """Run the jobs that the courier submits, until `stop`. Called by: the main thread, once."""

    @abc.abstractmethod
    def submit(self, runs: Sequence[Run]) -> None:
        """Accept runs and start them in order as slots become free. Without runs, continue with those that wait.

        Called by: the courier. Blocks: never.
        """

    @abc.abstractmethod
    def interrupt(self, run: Run, error: JobInterrupted) -> None:
        """Raise `error` inside a run that is going on. Called by: the courier. Blocks: never.

        A run that has ended meanwhile is left alone; a run that ignores the error continues.
        """

    @abc.abstractmethod
    def can_interrupt(self, run: Run) -> bool:
        """Return whether `interrupt` can end this run; if it cannot, the courier has the worker replaced."""

    def holder(self, run: Run) -> Run | None:
        """Return the run that blocks all runs here, among them an interrupted `run` that does not end.

        None means that only `run` ignores its interruption. Called by: the courier. Blocks: never.
        """
        return None

    def where(self, run: Run) -> str:
        """Return the stack of a running job as text; empty if it is unavailable. Called by: the courier. Blocks: never."""
        return ""

    def outlive(self, run: Run | None, error: BaseException) -> None:
        """End the current run when `error` was raised in the executor's own code; the executor continues.

        Code that a job left behind can raise there, between any two instructions: a trace function, an alarm handler,
        an exception sent to the thread from another one. If it ended the executor, the job would never be settled.
        """
        text = "code left behind by a job raised %s in its worker, outside of any job; jobs continue"
        boundary.log(logger, logging.ERROR, text, boundary.told(error), error=error)
        self.upset = True
        if run is None:
            self.run_queue.dry()
            return
        if not run.ended:
            run.error = error
            conclude(run, self.middleware)
        self.board.end(run)
        self.run_queue.finish(run)

    @abc.abstractmethod
    def stop(self) -> None:
        """Let `main` return when all submitted runs are done. Called by: the courier. Blocks: never."""

    @abc.abstractmethod
    def started(self) -> list[Run]:
        """Return the runs that are going on. Called by: the courier. Blocks: never."""


def stack_of(thread: int) -> str:
    """Return the current stack of a thread as text."""
    frame = sys._current_frames().get(thread)
    return "It was here:\n" + "".join(traceback.format_stack(frame)[-20:]) if frame else ""


def own_decimal_context() -> Callable[[], None] | None:
    """Return a function that each run of this thread calls first to get a decimal context of its own; None if not needed.

    Each run has its own context variables. The decimal context is one of them, but it is an object that is changed in
    place. If this thread has one, its runs need copies; if not, each run makes its own, and this costs it nothing.
    """
    if any(variable.name == "decimal_context" for variable in contextvars.copy_context()):
        import decimal

        return lambda: decimal.setcontext(decimal.getcontext().copy())
    return None


def run_in_thread(run: Run, middleware: Middleware, loops: Callable[[], LoopRunner]) -> None:
    """Run one job in this thread and context, and store its value or error. Raises only errors that are not the job's."""
    running.set(run)
    try:
        if run.convert:
            convert(run)
        if not middleware.silent:
            middleware.started(run)
        if run.job.is_async:
            run.value = loops().run(middleware.acall(run), run)
        elif middleware.bare:
            run.value = value = run.job.function(*run.args, **run.kwargs)
            if type(value) not in RESULTS:
                run.value = in_loop(run, value, loops)
        else:
            run.value = middleware.call(run, loops)
    except BaseException as error:
        run.error = error
    if os.getpid() != middleware.process:
        end_fork(run)


def tell_why(run: Run) -> None:
    """Replace the error of an interrupted run with its interruption.

    The error may be the cancellation of its task, one that a library or Python itself made of the interruption (in a
    callback from C, during the creation of a class), or a failure of the job's clean-up. A job that wants another
    outcome raises Retry, Snooze or Discard.
    """
    error, interrupted = run.error, run.interrupted
    if interrupted is None or error is None or run.unfit or issubclass(type(error), (JobInterrupted, JobSignal)):
        return
    from asyncio import CancelledError  # late import: plain jobs do not need asyncio

    if not issubclass(type(error), CancelledError):
        interrupted.__cause__ = error
    run.error = interrupted


def convert(run: Run) -> None:
    """Convert the arguments, where that runs the application's code; raise ArgumentError, or the error of that code."""
    try:
        run.job.arguments.convert(run.args, run.kwargs)
    except ArgumentError:
        run.unfit = True
        raise


def end_fork(run: Run) -> NoReturn:
    """End a process that a job forked and that returned from the job: the queue and the jobs in it belong to its parent.

    Otherwise it would run the waiting jobs a second time.
    """
    code: object = 1
    try:
        if run.error is None:
            code = 0
        elif issubclass(type(run.error), SystemExit):
            code = run.error.code  # type: ignore[attr-defined]
        else:
            sys.stderr.write(boundary.traceback_of(run.error))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code if type(code) is int else int(code is not None))


def conclude(run: Run, middleware: Middleware) -> None:
    """Note the end of a run, tell listeners, and drop the application's objects.

    All code of the application's objects runs here, while the run counts as going on. Its time and its errors are
    charged to the run, and the courier never touches these objects.
    """
    run.ended = time.monotonic()  # before the follow-ups are read: a later follow-up sees it
    if run.error is not None or run.store_result:
        tell_why(run)
        run.ending = settlement(run)
        run.ended = time.monotonic()
    if partial:
        end_lines(run)
    if not middleware.silent and not run.unfit:
        middleware.finished(run)
    run.value = run.error = None  # their destructors still run as part of the run
    if run.convert:
        run.args.clear()
        run.kwargs.clear()


def overdue(run: Run) -> JobTimeout:
    """Return the error for a run that exceeded its timeout."""
    return JobTimeout(f"ran longer than its timeout of {run.timeout:g} s")
