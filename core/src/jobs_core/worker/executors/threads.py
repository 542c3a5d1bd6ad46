"""The executor that runs several jobs at once on threads of one process: for jobs that wait for networks and databases."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING

from ...errors import JobInterrupted
from ...runs.run import Run
from ...scoreboard.writer import NOWHERE, Scoreboard
from ..middleware import Middleware
from ..run_queue import RunQueue
from .base import Executor, stack_of
from .steps import execute

if TYPE_CHECKING:
    from .loops import LoopRunner


class ThreadsExecutor(Executor):
    """An executor with a fixed number of threads. It can interrupt only async jobs, where they await."""

    def __init__(self, run_queue: RunQueue, middleware: Middleware, concurrency: int, board: Scoreboard = NOWHERE) -> None:
        super().__init__(run_queue, middleware, concurrency, board)
        self._wake_ups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._current: dict[int, Run] = {}
        self._loops: dict[int, LoopRunner] = {}  # by thread
        self._threads: list[threading.Thread] = []

    def main(self) -> None:
        for number in range(self.concurrency):
            # Daemon threads: one stuck in a job that never ends must not keep alive a worker that was told to stop.
            thread = threading.Thread(target=self._main, name=f"jobs-executor-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._stopping.wait()
        while any(thread.is_alive() for thread in self._threads) and self._unfinished():
            self._threads[0].join(0.05) if self._threads[0].is_alive() else time.sleep(0.01)

    def _unfinished(self) -> bool:
        return bool(self.run_queue.pending) or any(run.interrupted is None for run in list(self._current.values()))

    def _main(self) -> None:
        while not self._served():
            pass

    def _served(self) -> bool:
        """Serve until stopped; return False if code that a job left behind raised an exception here."""
        try:
            self._serve()
            return True
        except BaseException as error:
            self.outlive(self._current.pop(threading.get_ident(), None), error)
            return False

    def _serve(self) -> None:
        run_queue, current, me, board = self.run_queue, self._current, threading.get_ident(), self.board
        pending = run_queue.pending
        while True:
            try:
                run = pending.popleft()
            except IndexError:
                run = None  # all else outside of the handler: an interrupt at its end would leave the IndexError set
            if run is None:
                if self._stopping.is_set():
                    if me in self._loops:
                        self._loops[me].close()
                    return
                self.run_queue.dry()
                self._wake_ups.get()
                continue
            run.started = time.monotonic()
            if run.started > run_queue.leased_until:
                run_queue.requeue(run)
                self._wake_ups.get()
                continue
            current[me] = run
            board.begin(run)
            copy_context().run(execute, run, self.middleware, self._own_loop)
            board.end(run)
            run_queue.finish(run)
            del current[me]

    def _own_loop(self) -> LoopRunner:
        me = threading.get_ident()
        loop = self._loops.get(me)
        if loop is None:
            from .loops import LoopRunner  # late import: plain jobs do not need asyncio

            loop = self._loops[me] = LoopRunner()
        return loop

    def submit(self, runs: Sequence[Run]) -> None:
        self.run_queue.pending.extend(runs)
        for _ in range(min(len(runs) or self.concurrency, self.concurrency)):
            self._wake_ups.put(None)

    def interrupt(self, run: Run, error: JobInterrupted) -> None:
        """Cancel the coroutine of an async job. A plain function cannot be interrupted.

        It can only check `current_job().cancelled`. The courier lets the other jobs finish, and then has this worker replaced.
        """
        run.interrupted = error
        for loop in list(self._loops.values()):
            loop.cancel(run)

    def can_interrupt(self, run: Run) -> bool:
        return run.job.is_async

    def where(self, run: Run) -> str:
        return next((stack_of(thread) for thread, current in list(self._current.items()) if current is run), "")

    def started(self) -> list[Run]:
        return list(self._current.values())

    def stop(self) -> None:
        self._stopping.set()
        for _ in range(self.concurrency):
            self._wake_ups.put(None)
