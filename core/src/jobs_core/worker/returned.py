"""Values that a function returns instead of its result, and whose code has not run yet.

An async function under a decorator that is not async, and a plain function that returns a coroutine, return a value
that is meant to be awaited. A generator (or a `map`, or a list of coroutines) is never run: the attempt fails, because
none of that code has run.
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
    from ..runs.run import Run
    from .executors.loops import LoopRunner

RESULTS = frozenset({type(None), bool, int, float, str, bytes, tuple, dict, set, JobHandle})
"""Exact types of nearly all results, which need no further check; a handle only looks awaitable."""

LAZY = (GeneratorType, AsyncGeneratorType, map, filter, itertools.starmap)
"""Types that run the application's code only when a caller iterates over them."""


async def awaited(run: Run, value: Any) -> Any:
    """Await a value until it is no longer awaitable, and return it; raise JobDefinitionError for a generator."""
    while type(value) not in RESULTS and inspect.isawaitable(value):
        value = await value
    return _result(run, value)


def in_loop(run: Run, value: Any, loops: Callable[[], LoopRunner]) -> Any:
    """Do the same as `awaited` in a plain thread, on an event loop if the value is awaitable."""
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
