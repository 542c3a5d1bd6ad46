"""The event loop of a plain thread: async functions run on it one after the other, isolated from each other.

The loop is kept from run to run, since applications keep connections in it. Anything else that a run leaves there would
continue in the middle of a later run. It is ended before the run ends, and the time that this takes is the run's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import signal
import threading
import weakref
from collections.abc import Callable, Coroutine
from enum import Enum
from types import CoroutineType, FrameType, FunctionType, MethodType
from typing import Any

from ... import boundary, events
from ...errors import JobInterrupted
from ...runs.run import Run

CANCEL_PATIENCE = 1.0
"""Seconds that asyncio tasks left behind by a run get to end when they are cancelled."""

TURNS = 20
"""Turns of the loop for callbacks that are due when a run ends: a connection that is being closed takes a few."""

_MACHINERY = frozenset(
    {"asyncio", "concurrent", "contextlib", "selectors", "socket", "threading", "uvloop", "weakref", "_weakrefset"}
)
"""Packages whose code a loop runs on its own account, between pieces of the application's code."""

ROUNDS = 3
"""Largest number of times that a loop is cleaned up before it is closed: ending one thing may start another."""


async def carried(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """Return the value or error of a coroutine: if its task raised it, some errors would end or hang the loop."""
    try:
        return await coroutine, None
    except BaseException as error:
        return None, error


def end_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop's generators, then the loop, which must not be running; a task factory set by a job has no effect."""
    loop.run_until_complete(asyncio.Task(loop.shutdown_asyncgens(), loop=loop))
    loop.close()


class Traces:
    """The changes by a run to its loop that may outlast the run, and the means to undo them.

    Noting a change costs only the runs that make one. The loop's methods are replaced by ones that note their calls,
    for any kind of loop that the application's policy creates. The callbacks that are due and the generators can only be
    read from asyncio's private attributes, which other kinds of loop lack.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.made = False  # a run has made tasks, or anything else that is noted here
        self.spoilt = False  # no other run can use this loop
        self.due: Any = getattr(loop, "_ready", ())
        self.generators: Any = getattr(loop, "_asyncgens", ())
        self.loop = loop
        self._timers: weakref.WeakValueDictionary[int, asyncio.TimerHandle] = weakref.WeakValueDictionary()  # by id
        self._calls: weakref.WeakSet[asyncio.Future[Any]] = weakref.WeakSet()
        self._undo: dict[object, Callable[[], str]] = {}  # each returns the name of what it has ended, or ""
        self._told: set[str] = set()  # timers already reported: libraries leave the same ones in every run
        self._handled: set[int] = set()  # signals
        self._note("call_at", after=self._times)
        self._note("call_later", after=self._times)
        self._note("run_in_executor", after=self._calls.add)
        self._note("add_reader", before=functools.partial(self._watches, "reader", loop.remove_reader))
        self._note("add_writer", before=functools.partial(self._watches, "writer", loop.remove_writer))
        self._note("remove_reader", before=lambda fd: self._undo.pop(("reader", fd), None))
        self._note("remove_writer", before=lambda fd: self._undo.pop(("writer", fd), None))
        self._note("add_signal_handler", before=self._handles)
        self._note("remove_signal_handler", before=lambda sig: self._handled.discard(sig))
        self._note("set_exception_handler", before=self._sets_exception_handler)
        self._note("set_debug", before=self._sets_debug)
        self._note("shutdown_asyncgens", before=self._spoils)
        self._note("shutdown_default_executor", before=self._spoils)
        self._note_server("create_server")
        self._note_server("create_unix_server")
        loop.set_task_factory(self.make_task)

    def make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        self.made = True
        return asyncio.Task(coroutine, loop=loop, **options)

    # -- noting --------------------------------------------------------------------------------------

    def _note(
        self, name: str, *, before: Callable[..., object] | None = None, after: Callable[[Any], object] | None = None
    ) -> None:
        method = getattr(self.loop, name)

        @functools.wraps(method)
        def noting(*args: Any, **options: Any) -> Any:
            self.made = True
            if before is not None:
                before(*args, **options)
            result = method(*args, **options)
            if after is not None:
                after(result)
            return result

        setattr(self.loop, name, noting)

    def _note_server(self, name: str) -> None:
        method = getattr(self.loop, name)

        @functools.wraps(method)
        async def noting(*args: Any, **options: Any) -> asyncio.AbstractServer:
            self.made = True
            server: asyncio.Server = await method(*args, **options)
            self._undo[server] = functools.partial(_close, server)
            return server

        setattr(self.loop, name, noting)

    def _times(self, timer: asyncio.TimerHandle) -> None:
        self._timers[id(timer)] = timer

    def _watches(self, kind: str, remove: Callable[[Any], bool], fd: Any, *_: Any, **__: Any) -> None:
        def end() -> str:
            with contextlib.suppress(RuntimeError, ValueError, OSError):  # a connection owns it by now, or it is closed
                if remove(fd) is not False:  # some loops return None, for example uvloop
                    self.spoilt = True  # a library that set up this watch once for this loop needs a new loop now
                    return f"a {kind} of a file"
            return ""

        self._undo[kind, fd] = end

    def _handles(self, sig: int, *_: Any, **__: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # asyncio will refuse it
        self._handled.add(sig)
        handler, wakes = signal.getsignal(sig), _wakeup_fd()

        def end() -> str:
            left = sig in self._handled
            self._handled.discard(sig)
            if isinstance(self.loop, asyncio.SelectorEventLoop):
                self.loop.remove_signal_handler(sig)
                with contextlib.suppress(ValueError, OSError):  # closed meanwhile
                    signal.set_wakeup_fd(wakes)
            elif left:
                self.spoilt = True  # uvloop removes handlers only while it runs, and restores the wake-up descriptor
            signal.signal(sig, handler)
            return f"a handler of {signal.Signals(sig).name}" if left else ""

        self._undo.setdefault(("signal", sig), end)

    def _sets_exception_handler(self, *_: Any, **__: Any) -> None:
        handler = self.loop.get_exception_handler()
        self._undo.setdefault("exception handler", lambda: self.loop.set_exception_handler(handler) or "")

    def _sets_debug(self, *_: Any, **__: Any) -> None:
        debug = self.loop.get_debug()
        self._undo.setdefault("debug", lambda: self.loop.set_debug(debug) or "")

    def _spoils(self, *_: Any, **__: Any) -> None:
        self.spoilt = True

    # -- ending --------------------------------------------------------------------------------------

    def remain(self) -> bool:
        """Return whether there may be anything to end."""
        factory = self.loop.get_task_factory()
        return self.made or bool(self.due) or bool(self.generators) or factory != self.make_task

    def end(self) -> list[str]:
        """End everything that can end at once, and return its names. Tasks and generators have already ended."""
        self.made = False
        self.loop.set_task_factory(self.make_task)
        left = [each for undo in list(self._undo.values()) if (each := undo())]
        self._undo.clear()
        for call in list(self._calls):
            if call.cancel():
                left.append("a call in an executor, which continues there")
        self._calls.clear()
        return left

    def end_timers(self) -> list[str]:
        """Cancel timers that have not fired, and return each kind of timer once."""
        left, now = [], self.loop.time()
        for timer in list(self._timers.values()):
            if not timer.cancelled() and getattr(timer, "_scheduled", timer.when() > now):
                name = _name(getattr(timer, "_callback", None))
                if name not in self._told:
                    self._told.add(name)
                    left.append(name)
                timer.cancel()
        self._timers.clear()
        return left

    def forget_due(self) -> None:
        """Drop callbacks that leftover threads of earlier runs have added to the loop since the last run."""
        for handle in list(self.due):
            handle.cancel()


class Place(Enum):
    """The code that a signal has interrupted."""

    OUTSIDE = "no loop of this run"
    TASK = "the run's own task"
    ELSEWHERE = "other code of the application: a callback, another task"
    BETWEEN = "the loop itself"
    TOLD = "anything, after its task was told"


class _Going:
    """The run that a loop is running, with its task."""

    def __init__(self, run: Run, task: asyncio.Future[Any]) -> None:
        self.run = run
        self.task = task
        self.asked = False  # the loop was asked to cancel the task in its next turn
        self.told = False  # the task was cancelled; only once, since it may be cleaning up

    def cancel(self) -> None:
        if not self.told:
            self.told = True
            self.task.cancel()


class LoopRunner:
    """A runner of async functions in a plain thread, on an event loop that lives as long as the thread.

    Connections stay open in it from run to run. Anything else that a run leaves there is ended with the run. A loop
    that cannot be cleaned up is closed, and the next run gets a new one.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._traces: Traces | None = None
        self._going: _Going | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any], run: Run) -> Any:
        """Return the value of a run's coroutine; an interruption first cancels it and lets it clean up."""
        try:
            return self._value(coroutine, run)
        except BaseException:
            if type(coroutine) is CoroutineType and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()  # interrupted before it began: avoid the warning "never awaited"
            raise

    def _value(self, coroutine: Coroutine[Any, Any, Any], run: Run) -> Any:
        loop, traces = self._loop, self._traces
        if loop is None or traces is None or traces.loop is not loop or loop.is_closed():
            loop = self._loop = asyncio.new_event_loop()
            traces = self._traces = Traces(loop)
        elif traces.due:
            traces.forget_due()
        task = asyncio.Task(carried(coroutine), loop=loop)
        going = self._going = _Going(run, task)
        if run.interrupted is not None:  # by another thread, before there was a task to cancel
            going.cancel()
        try:
            value, error = loop.run_until_complete(task)
            if error is not None:
                raise error
            return value
        except JobInterrupted:
            going.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            raise
        finally:
            self._going = None
            if traces.remain() or not task.done():
                self._tidy(loop, traces, run)

    def cancel(self, run: Run) -> bool:
        """Cancel the task of `run`, if it is still running here; return whether this is the first request.

        Called by: any thread, signal handlers.
        """
        going, loop = self._going, self._loop
        if going is None or going.run is not run or loop is None or going.asked:
            return False
        going.asked = True
        with contextlib.suppress(RuntimeError):  # it has just been closed
            loop.call_soon_threadsafe(going.cancel)
        return True

    def place(self, run: Run, frame: FrameType | None) -> Place:
        """Return which code a signal interrupted at `frame`. Called by: signal handlers of the loop's thread.

        An exception raised in the loop itself may lose a callback, and the loop would wait for it forever. An exception
        raised ELSEWHERE does not reach the run. An exception raised in the run's own task may skip the clean-up of an
        inner function.
        """
        going, loop = self._going, self._loop
        if going is None or going.run is not run or loop is None:
            return Place.OUTSIDE
        if going.told:
            return Place.TOLD
        if asyncio.current_task(loop) is going.task:
            return Place.TASK
        while frame is not None and frame.f_globals is not globals():
            module = frame.f_globals.get("__name__")
            if type(module) is not str or module.partition(".")[0] not in _MACHINERY:
                return Place.ELSEWHERE
            if _begins_loop(frame):
                break
            frame = frame.f_back
        return Place.BETWEEN

    def has(self, run: Run) -> bool:
        """Return whether `run` is still running here. Called by: signal handlers of the loop's thread."""
        return self._going is not None and self._going.run is run and not self._going.task.done()

    def has_told(self, run: Run) -> bool:
        """Return whether the task of `run` in this loop was told of its interruption."""
        return self._going is not None and self._going.run is run and self._going.told

    def tell(self, run: Run) -> None:
        """Note that an exception tells `run` of its interruption, so its task must not be cancelled too."""
        if self._going is not None and self._going.run is run:
            self._going.told = True

    def _tidy(self, loop: asyncio.AbstractEventLoop, traces: Traces, run: Run) -> None:
        """End and report everything that a run has left behind, and give up a loop that cannot be cleaned up."""
        if loop.is_closed():
            return
        left: list[str] = []
        tidy = False
        try:
            for _ in range(ROUNDS):
                ended = self._end_tasks(loop, traces, left)
                left += traces.end()
                self._run_out(loop, traces)
                left += traces.end_timers()
                tidy = ended and not traces.spoilt and not traces.remain()
                if tidy or not ended or traces.spoilt:
                    break
        finally:
            if not tidy:
                self._loop = None
                loop.close()
            if left:
                events.emit(events.LeftBehind(run.delivery.id, run.job.name, run.delivery.topic, left, not tidy))

    def _end_tasks(self, loop: asyncio.AbstractEventLoop, traces: Traces, left: list[str]) -> bool:
        """Cancel tasks and close generators; return False if some have not ended after CANCEL_PATIENCE seconds."""
        tasks = asyncio.all_tasks(loop)
        left += sorted("asyncio task " + boundary.text_of(task.get_name(), 100) for task in tasks)
        for task in tasks:
            task.cancel()
        ending = {*tasks, *(asyncio.Task(carried(each.aclose()), loop=loop) for each in list(traces.generators))}
        if not ending:
            return True
        waiting = asyncio.Task(asyncio.wait(ending, timeout=CANCEL_PATIENCE), loop=loop)
        while not waiting.done():
            try:
                loop.run_until_complete(waiting)
            except BaseException as error:  # a task that ends with SystemExit stops the loop
                if boundary.interrupts(error):
                    raise
        return all(task.done() for task in ending)

    def _run_out(self, loop: asyncio.AbstractEventLoop, traces: Traces) -> None:
        """Run the callbacks that are due: closing a connection takes some turns of the loop."""
        for _ in range(TURNS):
            if not traces.due:
                return
            try:
                loop.call_soon(loop.stop)
                loop.run_forever()
            except BaseException as error:
                if boundary.interrupts(error):
                    raise

    def close(self) -> None:
        if self._loop is not None:
            end_loop(self._loop)
            self._loop = None


def guest(run: Run, frame: FrameType | None) -> LoopRunner | None:
    """Return the loop that a plain function has started itself (`asyncio.run`), if its thread is in one at `frame`.

    An exception raised in a callback or another task does not reach the function: only the end of the loop's main task
    ends it.
    """
    loop = asyncio._get_running_loop()
    while loop is not None and frame is not None:
        if _begins_loop(frame):
            task = frame.f_locals.get("future") or frame.f_locals.get("task")
            if isinstance(task, asyncio.Future) and not task.done() and task.get_loop() is loop:
                found = LoopRunner()
                found._loop, found._going = loop, _Going(run, task)
                return found
        frame = frame.f_back
    return None


def _begins_loop(frame: FrameType) -> bool:
    """Return whether this function runs a loop until its main task ends."""
    names = frame.f_globals.get("__name__"), frame.f_code.co_name
    return names in (("asyncio.base_events", "run_until_complete"), ("asyncio.runners", "run"))


def _name(callback: Any) -> str:
    """Name a timer after its callback, without touching objects of the application."""
    while type(callback) is functools.partial:
        callback = callback.func
    if callback is None:
        return "a timer"  # uvloop does not say
    if type(callback) is MethodType:
        callback = callback.__func__
    plain = type(callback) is FunctionType
    return "a timer for " + (boundary.storable(callback.__qualname__, 100) if plain else boundary.name_of(type(callback)))


def _wakeup_fd() -> int:
    fd = signal.set_wakeup_fd(-1)
    with contextlib.suppress(ValueError, OSError):  # closed meanwhile
        signal.set_wakeup_fd(fd)
        return fd
    return -1


def _close(server: asyncio.Server) -> str:
    left = server.is_serving()
    server.close()
    return "a server" if left else ""
