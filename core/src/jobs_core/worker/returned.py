"""What a function returned instead of its result: something that has yet to run.

An async function under a decorator that is none, and a plain function that returns a coroutine, are meant to be awaited. A
generator (or a `map`, or a list of coroutines) is not run by anybody: that attempt has failed, for nothing of it has happened.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any

from ..errors import JobDefinitionError
from ..handle import JobHandle

if TYPE_CHECKING:
    from .executors.loops import LoopRunner
    from .run import Run

RESULTS = frozenset({type(None), bool, int, float, str, bytes, tuple, dict, set, JobHandle})
"""Exact types that nearly all results are of, so that nothing more is asked of them; a handle only looks awaitable."""

LAZY = (GeneratorType, AsyncGeneratorType, map, filter, itertools.starmap)
"""What runs the application's code when it is looped over, and not before."""


async def awaited(run: Run, value: Any) -> Any:
    """The result behind a value, whatever has to be awaited for it; raises JobDefinitionError for a generator."""
    while type(value) not in RESULTS and inspect.isawaitable(value):
        value = await value
    return _result(run, value)


def in_loop(run: Run, value: Any, loops: Callable[[], LoopRunner]) -> Any:
    """The same in a plain thread, on an event loop if it takes one."""
    return loops().run(awaited(run, value), run) if inspect.isawaitable(value) else _result(run, value)


def _result(run: Run, value: Any) -> Any:
    if isinstance(value, LAZY):
        what = "a generator" if isinstance(value, (GeneratorType, AsyncGeneratorType)) else f"a {type(value).__name__}"
        raise JobDefinitionError(f"{run.job.name} returned {what}, which has not run: loop over it inside the job")
    if isinstance(value, list) and value and inspect.iscoroutine(value[0]):
        raise JobDefinitionError(
            f"{run.job.name} returned a list of coroutines, none of which has run: await asyncio.gather(*them) in the job"
        )
    return value
