"""The steps of one run, the same in all executors: convert, tell listeners, call, decide, tell listeners, forget objects."""

from __future__ import annotations

import contextvars
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from ... import boundary
from ...errors import ArgumentError, JobTimeout, MessageError
from ...runs.outcome import decide
from ...runs.run import Run
from ...runs.running import running
from ..log_pipe import end_lines, partial
from ..middleware import Middleware
from ..returned import RESULTS, in_loop
from ..wake_up import NEVER

if TYPE_CHECKING:
    from ...message import Message
    from .loops import LoopRunner


def own_decimal_context() -> Callable[[], None] | None:
    """Return a function that gives each run of this thread a decimal context of its own; None if none is needed.

    Each run has its own context variables. The decimal context is one of them, but it is an object that is changed in
    place. If this thread has one, each run needs a copy. If not, decimal creates one per run, without a cost here.
    """
    if any(variable.name == "decimal_context" for variable in contextvars.copy_context()):
        import decimal

        return lambda: decimal.setcontext(decimal.getcontext().copy())
    return None


def execute(run: Run, middleware: Middleware, loops: Callable[[], LoopRunner]) -> None:
    """Run one job from start to end: its function, then its outcome."""
    run_in_thread(run, middleware, loops)
    conclude(run, middleware)


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
            run.value = value = run.job.body(*run.args, **run.kwargs)
            if type(value) not in RESULTS:
                run.value = in_loop(run, value, loops)
        else:
            run.value = middleware.call(run, loops)
    except BaseException as error:
        run.error = error
    if os.getpid() != middleware.process:
        end_fork(run)


def convert(run: Run) -> None:
    """Convert arguments whose conversion runs the application's code; raise ArgumentError, or the error of that code."""
    if run.load is not None:
        load(run, run.load)
    try:
        run.job.arguments.convert(run.args, run.kwargs)
    except ArgumentError as error:
        run.unfit = True
        if not run.message.results:
            raise
        from ...flows.inputs import naming_members  # late: only members of flows need it

        raise naming_members(error, run.message, run.job.arguments) from None


def load(run: Run, fetch: Callable[[Message], Message]) -> None:
    """Fetch the arguments from the payload store; raise MessageError if they cannot be read. Blocks."""
    try:
        message = fetch(run.message)
    except MessageError:
        run.unfit = True
        raise
    if run.policy.on_end is not None:
        run.sent = run.policy.on_end.sent(message)
    run.message, run.args, run.kwargs, run.load = message, message.args, message.kwargs, None


def end_fork(run: Run) -> NoReturn:
    """End this process, which a job has forked and which has returned from the job: all other jobs belong to its parent.

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
    """Decide the outcome of a run that has ended, tell listeners, and drop the application's objects.

    All code of the application's objects runs here, while the run still counts as running. Its time and its errors are
    charged to the run, and the courier never touches these objects.
    """
    run.ended = time.monotonic()  # before the follow-ups are read: a later `enqueue` sees it and raises
    decide(run)
    if run.error is not None or run.store_result:  # deciding ran code of the application
        run.ended = time.monotonic()
    if partial:
        end_lines(run)
    if not middleware.silent and not run.unfit:
        middleware.finished(run)
    run.value = run.error = None  # their destructors still run as part of the run
    if run.convert:
        run.args.clear()
        run.kwargs.clear()


def step_is_overdue(run: Run) -> bool:
    """Return whether the timeout that an overdue run has exceeded is that of a step, not of the run."""
    return not run.timeout or time.monotonic() < (run.started or NEVER) + run.timeout


def overdue(run: Run) -> JobTimeout:
    """Return the error for a run that exceeded its timeout, or the timeout of a step."""
    if step_is_overdue(run):
        return JobTimeout(f"a step ran longer than the step_timeout of {run.policy.step_timeout:g} s")
    return JobTimeout(f"ran longer than its timeout of {run.timeout:g} s")
