"""What an executor is to the courier, and what all of them share."""

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
    """Runs jobs. `main` occupies the worker's main thread until `stop`; the rest is called by the courier."""

    def __init__(self, run_queue: RunQueue, middleware: Middleware, concurrency: int, board: Scoreboard = NOWHERE) -> None:
        self.board = board
        self.run_queue = run_queue
        self.middleware = middleware
        self.concurrency = concurrency
        self.upset = False  # something raised in our own code; what was taken just then may be forgotten

    @abc.abstractmethod
    def main(self) -> None:
        """Run what the courier hands over, until `stop`. Called by: the main thread, once."""

    @abc.abstractmethod
    def submit(self, runs: Sequence[Run]) -> None:
        """Take runs over; they are started in order as slots are free. None: go on with those that wait.

        Called by: the courier. Blocks: never.
        """

    @abc.abstractmethod
    def interrupt(self, run: Run, error: JobInterrupted) -> None:
        """Have `error` raised inside a run that is going on. Called by: the courier. Blocks: never.

        A run that ends meanwhile is left alone; one that ignores it goes on.
        """

    @abc.abstractmethod
    def can_interrupt(self, run: Run) -> bool:
        """Whether `interrupt` can end this run; where it cannot, the courier has the worker replaced."""

    def holder(self, run: Run) -> Run | None:
        """The run that keeps everything here from going on, an interrupted `run` that does not end among it.

        None: it is this run alone that ignores its interruption. Called by: the courier. Blocks: never.
        """
        return None

    def where(self, run: Run) -> str:
        """The stack of a run that is going on, as text; empty if it cannot be had. Called by: the courier. Blocks: never."""
        return ""

    def outlive(self, run: Run | None, error: BaseException) -> None:
        """End what was going on when `error` was raised in an executor's own code, which then goes on.

        What a job leaves behind can raise there, between any two instructions: a trace function, the handler of an alarm,
        an exception that was sent to the thread from another. Were it to end the executor, the job would never be settled.
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
        """Let `main` return when what was submitted has been run. Called by: the courier. Blocks: never."""

    @abc.abstractmethod
    def started(self) -> list[Run]:
        """The runs that are going on. Called by: the courier. Blocks: never."""


def stack_of(thread: int) -> str:
    """Where a thread is now."""
    frame = sys._current_frames().get(thread)
    return "It was here:\n" + "".join(traceback.format_stack(frame)[-20:]) if frame else ""


def own_decimal_context() -> Callable[[], None] | None:
    """What each run of this thread has to do first, if anything, so that it shares no decimal context with others.

    Context variables are its own already. The decimal context is one too, but an object that is changed in place: if
    this thread has one, its runs need copies; if not, each run makes its own, and this costs it nothing.
    """
    if any(variable.name == "decimal_context" for variable in contextvars.copy_context()):
        import decimal

        return lambda: decimal.setcontext(decimal.getcontext().copy())
    return None


def run_in_thread(run: Run, middleware: Middleware, loops: Callable[[], LoopRunner]) -> None:
    """Run one job in this thread and context, to its value or error. Raises nothing but what was never the job's."""
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
    """Put the interruption of a run in the place of the error that came of it: its task's cancellation, what a library or
    Python itself (in a callback from C, in the making of a class) makes of it, or what failed while the job cleaned up.

    A job that is to go on in another way says so by Retry, Snooze or Discard.
    """
    error, interrupted = run.error, run.interrupted
    if interrupted is None or error is None or run.unfit or issubclass(type(error), (JobInterrupted, JobSignal)):
        return
    from asyncio import CancelledError  # late: what plain jobs can do without

    if not issubclass(type(error), CancelledError):
        interrupted.__cause__ = error
    run.error = interrupted


def convert(run: Run) -> None:
    """Convert the arguments, where that runs code of the application; raises ArgumentError, or what else that code raises."""
    try:
        run.job.arguments.convert(run.args, run.kwargs)
    except ArgumentError:
        run.unfit = True
        raise


def end_fork(run: Run) -> NoReturn:
    """End a process that a job forked and that came back out of the job: the queue, and who waits, are its parent's.

    It would run the jobs that wait here a second time.
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

    What the application's objects have to say is asked here, while the run counts as going on: it is charged and timed
    with the run, and the courier has nothing to do with them.
    """
    run.ended = time.monotonic()  # before the follow-ups are read: one that comes later notices
    if run.error is not None or run.store_result:
        tell_why(run)
        run.ending = settlement(run)
        run.ended = time.monotonic()
    if partial:
        end_lines(run)
    if not middleware.silent and not run.unfit:
        middleware.finished(run)
    run.value = run.error = None  # what their destructors do is still the run's
    if run.convert:
        run.args.clear()
        run.kwargs.clear()


def overdue(run: Run) -> JobTimeout:
    """The error for a run past its timeout."""
    return JobTimeout(f"ran longer than its timeout of {run.timeout:g} s")
