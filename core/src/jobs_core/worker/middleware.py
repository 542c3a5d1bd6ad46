"""The calls around a run: the framework's context, middleware, started and finished hooks; composed once per worker.

Without any of them, a run is the bare call of its function.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any

from ..boundary import name_of
from ..loaders.base import Bootstrapper
from ..plugins import Plugins, guarded
from ..runs.context import RunOutcome, context_of
from ..runs.run import Run
from .returned import RESULTS, awaited, in_loop

if TYPE_CHECKING:
    from .executors.loops import LoopRunner


class Middleware:
    """The middleware around a run's function. Any thread or task may use it."""

    def __init__(self, plugins: Plugins, bootstrapper: Bootstrapper | None) -> None:
        contexts: list[tuple[Callable[[Any], Any], str]] = []
        acontexts: list[tuple[Callable[[Any], Any], str]] = []
        if bootstrapper is not None and type(bootstrapper).around is not Bootstrapper.around:
            contexts.append((bootstrapper.around, f"{type(bootstrapper).__name__}.around"))
        if bootstrapper is not None and (contexts or type(bootstrapper).aaround is not Bootstrapper.aaround):
            acontexts.append((bootstrapper.aaround, f"{type(bootstrapper).__name__}.aaround"))
        for implementation in plugins.implementations("jobs_run_context"):
            middleware = (_takes_run(implementation), f"{implementation.info}: hook jobs_run_context")
            contexts.append(middleware)
            acontexts.append(middleware)
        self._contexts = contexts
        self._acontexts = acontexts
        self._started = plugins.implementations("jobs_job_started")
        self._finished = plugins.implementations("jobs_job_finished")
        self.bare = not contexts and not acontexts
        """True if a run is only the call of its function."""
        self.silent = not self._started and not self._finished
        """True if no hook listens to runs."""
        self.process = os.getpid()
        """Id of the worker's process. A job may fork, and return in the child too; `end_fork` then ends the child."""

    def call(self, run: Run, loops: Callable[[], LoopRunner]) -> Any:
        """Run a plain function and return its value."""
        with ExitStack() as stack:
            for enter, whose in self._contexts:
                manager = enter(context_of(run))
                if manager is not None:
                    stack.enter_context(_plain(manager, whose))
            value = run.job.body(*run.args, **run.kwargs)
            return value if type(value) in RESULTS else in_loop(run, value, loops)

    async def acall(self, run: Run) -> Any:
        """Run an async function and return its value."""
        async with AsyncExitStack() as stack:
            for enter, whose in self._acontexts:
                manager = enter(context_of(run))
                if isinstance(manager, AbstractAsyncContextManager):
                    await stack.enter_async_context(manager)
                elif manager is not None:
                    stack.enter_context(_plain(manager, whose))
            value = await run.job.body(*run.args, **run.kwargs)
            return value if type(value) in RESULTS else await awaited(run, value)

    def started(self, run: Run) -> None:
        """Tell listeners that a run begins."""
        for implementation in self._started:
            guarded(implementation, run=context_of(run))

    def finished(self, run: Run) -> None:
        """Tell listeners the outcome of a run."""
        if self._finished and run.settlement is not None:
            outcome = RunOutcome(run.settlement.outcome, run.ended - run.started, run.error)
            for implementation in self._finished:
                guarded(implementation, run=context_of(run), outcome=outcome)


def _takes_run(implementation: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda run: implementation(run=run)


def _plain(manager: Any, whose: str) -> AbstractContextManager[object]:
    if isinstance(manager, AbstractContextManager):
        return manager
    if isinstance(manager, AbstractAsyncContextManager):
        raise TypeError(
            f"{whose} returned {name_of(type(manager))}, which cannot wrap a plain function: return a synchronous context "
            "manager, or None for functions that are not async"
        )
    raise TypeError(f"{whose} returned {name_of(type(manager))}, expected a context manager or None")
