"""What an executor is to the courier, and what all of them share."""

from __future__ import annotations

import abc
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import JobInterrupted, JobTimeout
from ...scoreboard.writer import NOWHERE, Scoreboard
from ..handover import Handover
from ..output import end_lines, partial
from ..run import Run, running
from ..surroundings import Surroundings

if TYPE_CHECKING:
    import asyncio


class Executor(abc.ABC):
    """Runs jobs. `main` occupies the worker's main thread until `stop`; the rest is called by the courier."""

    def __init__(self, handover: Handover, surroundings: Surroundings, concurrency: int, board: Scoreboard = NOWHERE) -> None:
        self.board = board
        self.handover = handover
        self.surroundings = surroundings
        self.concurrency = concurrency

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


class LoopRunner:
    """Runs async functions from a plain thread, on an event loop of its own that lives as long as the thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, surroundings: Surroundings, run: Run) -> Any:
        """The value of the run's coroutine; an interruption cancels it first and lets it clean up."""
        import asyncio  # late: what the supervisor and plain jobs can do without

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        task = self._loop.create_task(surroundings.acall(run))
        try:
            return self._loop.run_until_complete(task)
        except JobInterrupted:
            task.cancel()
            self._loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            raise

    def close(self) -> None:
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            self._loop = None


def run_in_thread(run: Run, surroundings: Surroundings, loops: Callable[[], LoopRunner]) -> None:
    """Run one job in this thread, to its value or error. Raises nothing but what was never the job's."""
    token = running.set(run)
    try:
        if not surroundings.silent:
            surroundings.started(run)
        if run.job.is_async:
            run.value = loops().run(surroundings, run)
        elif surroundings.bare:
            run.value = run.job.function(*run.args, **run.kwargs)
        else:
            run.value = surroundings.call(run)
    except BaseException as error:
        run.error = error
    finally:
        running.reset(token)
    if os.getpid() != surroundings.process:
        end_fork(run)


def end_fork(run: Run) -> NoReturn:
    """End a process that a job forked and that came back out of the job: the queue, and who waits, are its parent's.

    It would run the jobs that wait here a second time.
    """
    code: object = 0
    if isinstance(run.error, SystemExit):
        code = run.error.code
    elif run.error is not None:
        traceback.print_exception(run.error)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def conclude(run: Run, surroundings: Surroundings) -> None:
    """Note the end of a run and tell listeners."""
    run.ended = time.monotonic()
    if partial:
        end_lines(run)
    if not surroundings.silent:
        surroundings.finished(run)


def overdue(run: Run) -> JobTimeout:
    """The error for a run past its timeout."""
    return JobTimeout(f"ran longer than its timeout of {run.timeout:g} s")
