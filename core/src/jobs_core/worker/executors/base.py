"""The interface between an executor and the courier."""

from __future__ import annotations

import abc
import logging
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ... import boundary
from ...errors import JobInterrupted
from ...runs.run import Run
from ...scoreboard.writer import NOWHERE, Scoreboard
from ..middleware import Middleware
from ..run_queue import RunQueue
from .steps import conclude

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("jobs.worker")


class Executor(abc.ABC):
    """An executor of jobs. `main` occupies the worker's main thread until `stop`; the courier calls the other methods."""

    def __init__(self, run_queue: RunQueue, middleware: Middleware, concurrency: int, board: Scoreboard = NOWHERE) -> None:
        self.board = board
        self.run_queue = run_queue
        self.middleware = middleware
        self.concurrency = concurrency
        self.upset = False  # an exception interrupted our own code: a run that was just being taken may be lost

    @abc.abstractmethod
    def main(self) -> None:
        """Run the jobs that the courier submits, until `stop`. Called by: the main thread, once."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop that all async jobs share, which runs only in `main`; None if there is no such loop."""
        return None

    def close(self) -> None:  # noqa: B027 - most executors leave nothing open
        """Release the resources that outlast `main`. Called by: the main thread, once, after `main`."""

    @abc.abstractmethod
    def submit(self, runs: Sequence[Run]) -> None:
        """Accept runs and start them in order as slots become free. Without runs, continue with those that wait.

        Called by: the courier. Blocks: never.
        """

    @abc.abstractmethod
    def interrupt(self, run: Run, error: JobInterrupted) -> None:
        """Raise `error` inside a run that has started. Called by: the courier. Blocks: never.

        A run that has ended meanwhile is left alone; a run that ignores the error continues.
        """

    @abc.abstractmethod
    def can_interrupt(self, run: Run) -> bool:
        """Return whether `interrupt` can end this run; if it cannot, the courier has the worker replaced."""

    def holder(self, run: Run) -> Run | None:
        """Return the run that blocks this executor, and with it an interrupted `run` that does not end: often `run` itself.

        None means that `run` ignores its interruption without blocking others. Called by: the courier. Blocks: never.
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
        if run.settlement is None:
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
        """Return the runs that have started and not ended. Called by: the courier. Blocks: never."""


def stack_of(thread: int) -> str:
    """Return the current stack of a thread as text."""
    frame = sys._current_frames().get(thread)
    return "It was here:\n" + "".join(traceback.format_stack(frame)[-20:]) if frame else ""
