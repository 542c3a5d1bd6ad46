"""What a function returned instead of its result: something that has yet to run.

An async function under a decorator that is none, and a plain function that returns a coroutine, are meant to be awaited. A
generator is not run by anybody: that attempt has failed, for nothing of it has happened.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any

from ..errors import JobDefinitionError

if TYPE_CHECKING:
    from .executors.base import LoopRunner
    from .run import Run

RESULTS = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict, set})
"""Exact types that nearly all results are of, so that nothing more is asked of them."""


async def awaited(run: Run, value: Any) -> Any:
    """The result behind a value, whatever has to be awaited for it; raises JobDefinitionError for a generator."""
    while type(value) not in RESULTS and inspect.isawaitable(value):
        value = await value
    return _result(run, value)


def in_loop(run: Run, value: Any, loops: Callable[[], LoopRunner]) -> Any:
    """The same in a plain thread, on an event loop if it takes one."""
    return loops().run(awaited(run, value), run) if inspect.isawaitable(value) else _result(run, value)


def _result(run: Run, value: Any) -> Any:
    if isinstance(value, (GeneratorType, AsyncGeneratorType)):
        raise JobDefinitionError(f"{run.job.name} returned a generator, and nothing of it has run: loop over it inside the job")
    return value
