"""The event loop of a plain thread: async functions run on it one after the other, and none meets what another has left.

A loop is kept from run to run, since applications keep connections in it. All else that a run leaves there would go on in
the middle of a later run, and is ended while the time is still its own.
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
from ..run import Run

CANCEL_PATIENCE = 1.0
"""Seconds that asyncio tasks which a run has left behind get to end when they are cancelled."""

TURNS = 20
"""Turns of the loop for what is due when a run ends: a connection that is being closed takes a few."""

_MACHINERY = frozenset(
    {"asyncio", "concurrent", "contextlib", "selectors", "socket", "threading", "uvloop", "weakref", "_weakrefset"}
)
"""Packages whose code a loop runs by itself, between the application's."""

ROUNDS = 3
"""How often a loop is tidied up, if what is ended begins something new, before it is given up."""


async def carried(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """The value or the error of a coroutine, past the task: for some the loop ends, others hang it (`__class__` raises)."""
    try:
        return await coroutine, None
    except BaseException as error:
        return None, error


def end_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop that does not run, its generators first; whatever factory of tasks a job has set."""
    loop.run_until_complete(asyncio.Task(loop.shutdown_asyncgens(), loop=loop))
    loop.close()


class Traces:
    """What a run does to its loop that may outlast it, and how to end it. To note it costs those who do it, and no others.

    The methods of the loop are replaced by some that note their calls, whatever loop the application's policy has made. What
    asyncio alone knows is read from its private attributes, which other loops lack: callbacks that are due, and generators.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.made = False  # whether a run has made tasks, or anything that is noted here
        self.spoilt = False  # no other run can use this loop
        self.due: Any = getattr(loop, "_ready", ())
        self.generators: Any = getattr(loop, "_asyncgens", ())
        self.loop = loop
        self._timers: weakref.WeakValueDictionary[int, asyncio.TimerHandle] = weakref.WeakValueDictionary()  # twins are equal
        self._calls: weakref.WeakSet[asyncio.Future[Any]] = weakref.WeakSet()
        self._undo: dict[object, Callable[[], str]] = {}  # each says what it has ended, if anything
        self._told: set[str] = set()  # timers: libraries leave the same ones in every run
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
            with contextlib.suppress(RuntimeError, ValueError, OSError):  # a connection has it now; it is closed
                if remove(fd) is not False:  # None: uvloop does not tell
                    self.spoilt = True  # libraries that watch a file of their own do it once for each loop
                    return f"a {kind} of a file"
            return ""

        self._undo[kind, fd] = end

    def _handles(self, sig: int, *_: Any, **__: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # asyncio refuses it
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
                self.spoilt = True  # uvloop removes handlers only while it runs; the descriptor was its own, and is set back
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
        """Whether there may be anything to end."""
        factory = self.loop.get_task_factory()
        return self.made or bool(self.due) or bool(self.generators) or factory != self.make_task

    def end(self) -> list[str]:
        """End what can be ended at once, and tell it. Tasks and generators have ended before."""
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
        """Cancel the timers that have not rung, and tell each kind of them once."""
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
        """Drop what a thread that a run has left behind has put into the loop since."""
        for handle in list(self.due):
            handle.cancel()


class Place(Enum):
    """What a thread is at that a signal has interrupted."""

    OUTSIDE = "no loop of this run"
    TASK = "the run's own task"
    ELSEWHERE = "other code of the application: a callback, another task"
    BETWEEN = "the loop itself"
    TOLD = "anything, after its task was told"


class _Going:
    """The run that is going on in a loop, as the task that it is."""

    def __init__(self, run: Run, task: asyncio.Future[Any]) -> None:
        self.run = run
        self.task = task
        self.asked = False  # to cancel it, at the loop's next turn
        self.told = False  # of its interruption, which is told once: it may be cleaning up

    def cancel(self) -> None:
        if not self.told:
            self.told = True
            self.task.cancel()


class LoopRunner:
    """Runs async functions from a plain thread, on an event loop of its own that lives as long as the thread.

    Connections stay open in it from run to run. Whatever else a run leaves there is ended with the run, and a loop that
    cannot be tidied up is closed, so that the next run gets another.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._traces: Traces | None = None
        self._going: _Going | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any], run: Run) -> Any:
        """The value of a coroutine of the run's; an interruption cancels it first and lets it clean up."""
        try:
            return self._value(coroutine, run)
        except BaseException:
            if type(coroutine) is CoroutineType and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()  # interrupted before it began: no warning that nobody awaited it
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
        if run.interrupted is not None:  # by another thread, which could not cancel anything yet
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
        """Cancel what `run` awaits here, if it is still that run that is going on; whether that was not asked for before.

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
        """Where a signal has struck that came to `frame`. Called by: signal handlers of the loop's thread.

        What is raised in the loop itself may lose a callback, and the loop would wait for it forever. What is raised
        ELSEWHERE ends there, and the run does not learn of it. What is raised in its own task may skip what an inner
        function does at its end.
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
        """Whether this is where `run` is going on. Called by: signal handlers of the loop's thread."""
        return self._going is not None and self._going.run is run and not self._going.task.done()

    def tell(self, run: Run) -> None:
        """Note that `run` learns of its interruption otherwise, and is not to be cancelled."""
        if self._going is not None and self._going.run is run:
            self._going.told = True

    def _tidy(self, loop: asyncio.AbstractEventLoop, traces: Traces, run: Run) -> None:
        """End and tell what a run has left behind, and leave a loop behind that cannot be put right."""
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
        """Cancel tasks and close generators; False if some go on all the same."""
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
            except BaseException as error:  # one that ends with SystemExit stops the loop
                if boundary.interrupts(error):
                    raise
        return all(task.done() for task in ending)

    def _run_out(self, loop: asyncio.AbstractEventLoop, traces: Traces) -> None:
        """Let what is due happen: connections that are being closed take some turns of the loop."""
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
    """The loop that a plain function has begun by itself (`asyncio.run`), if its thread is in one at `frame`.

    Asyncio keeps what a callback or another task raises from the function: what ends it is the end of the loop's main task.
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
    """Whether this is the function that runs a loop until its main task ends."""
    names = frame.f_globals.get("__name__"), frame.f_code.co_name
    return names in (("asyncio.base_events", "run_until_complete"), ("asyncio.runners", "run"))


def _name(callback: Any) -> str:
    """A timer by the name of its callback, without a look at objects of the application."""
    while type(callback) is functools.partial:
        callback = callback.func
    if callback is None:
        return "a timer"  # uvloop does not tell
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
