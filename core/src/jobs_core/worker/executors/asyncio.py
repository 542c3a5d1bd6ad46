"""The executor that runs thousands of jobs at once, as tasks of one event loop in the main thread."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ... import boundary
from ...errors import JobInterrupted
from ...runs.run import Run
from ...runs.running import running
from ...scoreboard.writer import NOWHERE, Scoreboard
from .. import stacks
from ..middleware import Middleware
from ..returned import RESULTS, awaited
from ..run_queue import RunQueue
from .base import Executor, stack_of
from .loops import LoopRunner, carried, end_loop
from .plain import PlainThreads
from .steps import conclude, convert, end_fork, load, own_decimal_context, run_in_thread

logger = logging.getLogger("jobs.worker")

PLAIN_THREADS = 32
"""Largest number of threads for the plain functions beside async ones."""


class SharedLoop(LoopRunner):
    """The executor's loop, for awaitables that plain functions return; the function's thread waits for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop

    def run(self, coroutine: Coroutine[Any, Any, Any], run: Run) -> Any:
        assert self._loop is not None
        value, error = asyncio.run_coroutine_threadsafe(carried(coroutine), self._loop).result()
        if error is not None:
            raise error
        return value


class AsyncExecutor(Executor):
    """An executor that starts up to `concurrency` runs as tasks. Plain functions run on a few threads beside the loop."""

    def __init__(self, run_queue: RunQueue, middleware: Middleware, concurrency: int, board: Scoreboard = NOWHERE) -> None:
        super().__init__(run_queue, middleware, concurrency, board)
        self._own_decimal_context: Callable[[], None] | None = None
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._current: dict[str, Run] = {}
        self._threads: PlainThreads | None = None
        self._unheard: set[str] = set()  # jobs whose interruption the loop has not processed yet
        self._main_thread = threading.get_ident()

    def main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main_thread = threading.get_ident()
        self._own_decimal_context = own_decimal_context()
        self._loop.set_exception_handler(self._noted)
        serving = asyncio.Task(self._serve(), loop=self._loop)
        try:
            while not self._go_on(serving):
                if serving.done():
                    serving = asyncio.Task(self._serve(), loop=self._loop)
        finally:
            if self._threads:
                self._threads.stop()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def close(self) -> None:
        end_loop(self._loop)

    def _go_on(self, serving: asyncio.Task[None]) -> bool:
        """Run the loop, which all jobs share, until `serving` is done; return False if a job's code stopped it earlier."""
        try:
            self._loop.run_until_complete(serving)
            return True
        except (asyncio.CancelledError, RuntimeError):
            if self._loop.is_closed():
                raise
            what = "cancelled tasks that are not its own" if serving.done() else "stopped the event loop"
            boundary.log(
                logger, logging.ERROR, "a job has %s; all jobs of this worker share the event loop, and continue", what
            )
        except BaseException as error:  # raised by a callback that ends the loop, or by a signal handler
            self.outlive(None, error)
            self._recover()
        return False

    def _noted(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an error that a callback raised, and recover: the callback may be ours, interrupted before its first line."""
        loop.default_exception_handler(context)
        if "handle" in context:
            self._recover()

    async def _serve(self) -> None:
        self.run_queue.dry()
        await self._stopped.wait()
        while self._current or self.run_queue.pending:
            await asyncio.sleep(0.005)

    def _start_pending(self) -> None:
        """Start pending runs as tasks while slots are free. Called in the loop."""
        try:
            self._make_tasks()
        except BaseException as error:  # raised by a signal handler: the loop would log it and forget the pending runs
            self.outlive(None, error)
            self._recover()

    def _recover(self) -> None:
        """Repair interrupted bookkeeping: return half-begun runs to the queue (their tasks notice), and report ended ones."""
        for run in list(self._current.values()):
            if run.task is None:
                del self._current[run.delivery.id]
                self.board.settled([(None, run)])
                run.started = 0.0
                self.run_queue.pending.appendleft(run)
            elif run.task.done():
                self._loop.call_soon(self._ended, run, run.task)
        self._loop.call_soon(self._start_pending)

    def _make_tasks(self) -> None:
        pending, current, loop, now = self.run_queue.pending, self._current, self._loop, time.monotonic()
        if now > self.run_queue.leased_until:
            self.run_queue.park()
            return
        while len(current) < self.concurrency:
            try:
                run = pending.popleft()
            except IndexError:
                run = None  # not `return`: a signal handler that raised in the midst of it would leave the IndexError set
            if run is None:
                self.run_queue.dry()
                return
            run.started = now
            self.board.begin(run)
            if not run.job.is_async:
                run.started, run.taken = 0.0, now  # its time begins on its thread, which it may have to wait for
            current[run.delivery.id] = run
            task = asyncio.Task(self._run(run), loop=loop)  # not made by the loop: a job may have set another task factory
            task.add_done_callback(functools.partial(self._ended, run))
            run.task = task  # last: if an error is raised before, `_recover` sees that the run has not begun

    async def _run(self, run: Run) -> None:
        """Run one job in its task, in a context of its own. Raise no error: asyncio would end the loop for some of them."""
        if run.task is None:
            return  # returned to the queue half begun; another task runs it
        running.set(run)
        if self._own_decimal_context is not None:
            self._own_decimal_context()
        middleware = self.middleware
        try:
            if not run.job.is_async:
                await self._run_plain(run)
            else:
                if run.load is not None:
                    await asyncio.to_thread(load, run, run.load)
                if run.convert:
                    convert(run)
                if not middleware.silent:
                    middleware.started(run)
                if middleware.bare:
                    run.value = value = await run.job.body(*run.args, **run.kwargs)
                    if type(value) not in RESULTS:
                        run.value = await awaited(run, value)
                else:
                    run.value = await middleware.acall(run)
        except BaseException as error:
            run.error = error
        if os.getpid() != middleware.process:
            end_fork(run)
        if run.settlement is None:
            conclude(run, self.middleware)

    async def _run_plain(self, run: Run) -> None:
        if self._threads is None:
            self._threads = PlainThreads(min(PLAIN_THREADS, self.concurrency), functools.partial(self.outlive, None))
        context = contextvars.copy_context()
        await asyncio.wrap_future(self._threads.submit(context.run, self._run_in_thread, run), loop=self._loop)

    def _run_in_thread(self, run: Run) -> None:
        """Run a plain function to its end; the time that another job blocks the loop does not count as its own."""
        run.started = time.monotonic()
        run_in_thread(run, self.middleware, lambda: SharedLoop(self._loop))
        if run.settlement is None:
            conclude(run, self.middleware)

    def _ended(self, run: Run, task: asyncio.Task[Any]) -> None:
        try:
            if run.task is task:
                if run.settlement is None:
                    if not run.ended:  # cancelled before its first step
                        run.error = run.interrupted or asyncio.CancelledError("the job's task was cancelled")
                    conclude(run, self.middleware)
                self.board.end(run)
                self.run_queue.finish(run)
                self._current.pop(run.delivery.id, None)
                run.task = None  # else a reference cycle with the exception's frames
        except BaseException as error:  # raised by a signal handler; `_recover` repeats this, and a second `finish` is harmless
            self.outlive(None, error)
            self._recover()
            return
        if self.run_queue.pending:
            self._start_pending()
        elif not self._current:
            self.run_queue.dry()

    def submit(self, runs: Sequence[Run]) -> None:
        self.run_queue.pending.extend(runs)
        self._loop.call_soon_threadsafe(self._start_pending)

    def can_interrupt(self, run: Run) -> bool:
        return run.job.is_async

    def interrupt(self, run: Run, error: JobInterrupted) -> None:
        run.interrupted = error
        if run.job.is_async:
            self._unheard.add(run.delivery.id)
            self._loop.call_soon_threadsafe(self._cancel, run)

    def _cancel(self, run: Run) -> None:
        self._unheard.discard(run.delivery.id)
        if run.task is not None:
            run.task.cancel()

    def holder(self, run: Run) -> Run | None:
        """Return the run that blocks the loop, if the loop has processed no call for the whole grace period of `run`."""
        if run.delivery.id not in self._unheard:
            return None
        task = asyncio.current_task(self._loop)
        for each in list(self._current.values()):
            if each.task is task:
                return each
        context = task.get_context() if task is not None and hasattr(task, "get_context") else None  # Python 3.12
        return (context.get(running) if context else None) or run

    def where(self, run: Run) -> str:
        if run.delivery.id in self._unheard or run.task is asyncio.current_task(self._loop):
            return stack_of(self._main_thread)
        places = stacks.places(run.task.get_coro()) if run.task is not None else ()
        lines = [f'  File "{code.co_filename}", line {line}, in {code.co_name}\n' for code, line in places]
        return "It was here:\n" + "".join(lines)

    def started(self) -> list[Run]:
        return list(self._current.copy().values())

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
