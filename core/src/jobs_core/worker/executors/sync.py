"""The executor that runs one job after the other in the main thread, where signals can interrupt them."""

from __future__ import annotations

import _thread
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from ... import uninterrupted
from ...errors import JobInterrupted
from ...runs.run import Run
from ...scoreboard.writer import NOWHERE, Scoreboard
from ...uninterrupted import INTERRUPT, hold_back_in_forks, takes_locks, within
from ..middleware import Middleware
from ..run_queue import RunQueue
from .base import Executor, stack_of
from .steps import conclude, own_decimal_context, run_in_thread

if TYPE_CHECKING:
    from .loops import LoopRunner


AGAIN = 0.005
"""Seconds until the retry of an interruption that came where it must not raise: in our own code, or in an event loop."""

PATIENCE = 50
"""Number of attempts after which an event loop that makes no progress is assumed to be blocked by a callback in C."""

WAITS = 5
"""Number of successive attempts that find the thread at one instruction, after which it is assumed to wait there."""


class SyncExecutor(Executor):
    """An executor that runs jobs in the thread that calls `main`. A deadline or a cancel raises inside the job."""

    def __init__(self, run_queue: RunQueue, middleware: Middleware, concurrency: int = 1, board: Scoreboard = NOWHERE) -> None:
        super().__init__(run_queue, middleware, 1, board)
        self._wake_ups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        self._current: Run | None = None
        self._interruptible: Run | None = None
        self._insists_on: Run | None = None
        self._unraisable: Callable[[Any], object] = sys.unraisablehook
        self._attempts = 0
        self._found_at: tuple[tuple[Run | None, CodeType | None, int | None], float, int] = (None, None, None), 0.0, 0
        self._guest: LoopRunner | None = None  # the loop that the running plain function has started itself (`asyncio.run`)
        self._loop: LoopRunner | None = None
        self._main_thread = 0
        self._own_decimal_context: Callable[[], None] | None = None

    def main(self) -> None:
        self._main_thread = threading.get_ident()
        hold_back_in_forks()
        previous = signal.signal(INTERRUPT, self._raise_in_job)
        hook, sys.unraisablehook = sys.unraisablehook, self._swallowed
        self._unraisable = hook
        try:
            while not self._served():
                pass
        finally:
            signal.signal(INTERRUPT, previous)
            sys.unraisablehook = hook
            if self._loop is not None:
                self._loop.close()

    def _served(self) -> bool:
        """Serve until stopped; return False if code that a job left behind raised an exception here."""
        try:
            self._serve()
            return True
        except BaseException as error:
            run, self._current, self._interruptible = self._current, None, None
            self.outlive(run, error)
            return False

    def _serve(self) -> None:
        run_queue, board = self.run_queue, self.board
        pending, finish = run_queue.pending, run_queue.finish
        self._own_decimal_context = own_decimal_context()
        while True:
            try:
                run = pending.popleft()
            except IndexError:
                run = None  # all else outside of the handler: an interrupt at its end would leave the IndexError set
            if run is None:
                if self._stopping:
                    return
                self.run_queue.dry()
                self._wake_ups.get()
                continue
            run.started = time.monotonic()
            if run.started > run_queue.leased_until:
                run_queue.requeue(run)
                self._wake_ups.get()
                continue
            self._current = run
            board.begin(run)
            copy_context().run(self._run, run)
            board.end(run)
            finish(run)
            self._current = None

    def _run(self, run: Run) -> None:
        """Run one job from start to end, in a context of its own."""
        if self._own_decimal_context is not None:
            self._own_decimal_context()
        self._call(run)
        conclude(run, self.middleware)

    def _call(self, run: Run) -> None:
        """Run one job; the signal may strike between any two instructions here, and its exception stays in this function."""
        try:
            self._interruptible = run
            if run.interrupted is not None:  # interrupted after it was taken; the signal found nothing to interrupt
                self._interruptible = None
                run.interrupted.struck = True
                raise run.interrupted
            run_in_thread(run, self.middleware, self._own_loop)
            self._interruptible = None
        except JobInterrupted as error:
            self._interruptible = None
            if run.error is None:
                run.error = error

    def _own_loop(self) -> LoopRunner:
        if self._loop is None:
            from .loops import LoopRunner  # late import: plain jobs do not need asyncio

            self._loop = LoopRunner()
        return self._loop

    def _raise_in_job(self, signum: int, frame: FrameType | None) -> None:
        run, uninterrupted.waiting = self._interruptible, False
        if run is None or run.interrupted is None:
            return
        if within(frame):
            uninterrupted.waiting = True
            self._insist(run)
        elif takes_locks(frame) and not self._waits_at(run, frame):
            self._insist(run)
        elif self._strikes(self._loop_at(run, frame), run, frame):
            self._interruptible = self._insists_on = self._guest = None
            run.interrupted.struck = True
            raise run.interrupted

    def _waits_at(self, run: Run, frame: FrameType | None) -> bool:
        """Return whether the last WAITS attempts found the thread at this instruction, with hardly any CPU time in between.

        Two attempts would not prove that it waits: the thread may not have been scheduled in between.
        """
        place, cpu = (run, frame and frame.f_code, frame and frame.f_lasti), time.thread_time()
        known, since, times = self._found_at
        same = known == place and cpu - since < AGAIN / 5
        self._found_at = place, cpu, times + 1 if same else 1
        return self._found_at[2] >= WAITS

    def _loop_at(self, run: Run, frame: FrameType | None) -> LoopRunner | None:
        """Return the event loop that the run is in: its own, or one that a plain function has started."""
        if "asyncio" not in sys.modules or run.job.is_async or (self._loop is not None and self._loop.has(run)):
            return self._loop
        from .loops import guest  # late import, as in _own_loop

        if self._guest is None or not (self._guest.has(run) or self._guest.has_told(run)):
            self._guest = guest(run, frame)  # kept once its task was told: asyncio may be closing the loop
        return self._guest or self._loop

    def _strikes(self, loop: LoopRunner | None, run: Run, frame: FrameType | None) -> bool:
        """Return whether to raise here: always outside an event loop; inside one, only if the task ignores its cancellation."""
        if loop is None:
            return True
        from .loops import Place  # late import, as in _own_loop

        place = loop.place(run, frame)
        if place is Place.TOLD:
            self._interruptible = self._guest = None
            return False
        if place is Place.OUTSIDE:
            return True
        held_up = not loop.cancel(run)
        self._insist(run)
        if held_up and place is Place.TASK:
            loop.tell(run)
        return held_up and (place is not Place.BETWEEN or self._attempts > PATIENCE)

    def _insist(self, run: Run) -> None:
        """Keep sending the signal until it has raised inside the run, or the run has ended."""
        self._attempts += 1
        if self._insists_on is not run:
            self._insists_on, self._attempts = run, 0
            _thread.start_new_thread(self._send_again, (run,))  # the main thread may be inside `threading` itself

    def _send_again(self, run: Run) -> None:
        """Keep sending the signal, each time after the last one has arrived (or PATIENCE waits): a busy machine is slow."""
        arrived, waited = -1, 0
        while self._interruptible is run:
            time.sleep(AGAIN)
            waited += 1
            if self._attempts != arrived or waited >= PATIENCE:
                arrived, waited = self._attempts, 0
                signal.pthread_kill(self._main_thread, INTERRUPT)

    @uninterrupted.uninterrupted  # Python drops exceptions raised here, too
    def _swallowed(self, unraisable: Any) -> None:
        """Retry an interruption that Python dropped, in a finalizer or in a function called at a fork; pass on other errors."""
        run = self._current
        if run is not None and unraisable.exc_value is not None and unraisable.exc_value is run.interrupted:
            self._interruptible = run
            self._insist(run)
        else:
            self._unraisable(unraisable)

    def submit(self, runs: Sequence[Run]) -> None:
        self.run_queue.pending.extend(runs)
        self._wake_ups.put(None)

    def interrupt(self, run: Run, error: JobInterrupted) -> None:
        run.interrupted = error  # `_call` checks it, if the run has just been taken
        if self._current is run:
            # One signal is not enough: one that comes between the interpreter's last look and a system call, such as that
            # of `time.sleep`, is only noticed when the call returns. This happens when the job has just let go of the GIL.
            self._insists_on, self._attempts = run, 0
            _thread.start_new_thread(self._send_again, (run,))
            signal.pthread_kill(self._main_thread, INTERRUPT)

    def can_interrupt(self, run: Run) -> bool:
        return True

    def holder(self, run: Run) -> Run | None:
        return run

    def where(self, run: Run) -> str:
        return stack_of(self._main_thread)

    def started(self) -> list[Run]:
        current = self._current
        return [current] if current else []

    def stop(self) -> None:
        self._stopping = True
        self._wake_ups.put(None)
