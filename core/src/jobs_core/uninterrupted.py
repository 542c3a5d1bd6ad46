"""Functions that an interrupt of a job must not cut off: they hold locks, or a connection in the middle of a request.

A run that is overdue or cancelled on a sync pool is interrupted by an exception, raised between any two instructions. Raised
within a commit, it would leave the queue file locked; within a push, it would leave other threads waiting for their turn. It
is raised a moment later instead, when no such function is on the stack. To be marked costs a function nothing. A job may do
nothing else but call such functions: after them it calls `let_in`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPT = signal.SIGURG
"""Ends a run in a main thread: its handler raises there, out of system calls too. Ignored by default everywhere,
so one that comes late harms nobody (the Go runtime preempts with it for that reason)."""

waiting = False
"""Whether an interrupt came within a marked function; set by the handler of the signal."""

_LOCKING = frozenset(
    {"threading", "logging", "contextlib", "importlib._bootstrap", "_frozen_importlib", "multiprocessing.synchronize"}
)
"""Modules of Python's own in whose functions a lock may have been taken that nobody would release: their callers' `with`
has not begun. Elsewhere, `with lock` cannot be cut off there."""

_codes: set[CodeType] = set()


def uninterrupted(function: F) -> F:
    """Mark a function that ends by itself within a bounded time, such as `enqueue_timeout`."""
    _codes.add(function.__code__)
    return function


def within(frame: FrameType | None) -> bool:
    """Whether a marked function is on the stack of `frame`."""
    while frame is not None:
        if frame.f_code in _codes:
            return True
        frame = frame.f_back
    return False


def takes_locks(frame: FrameType | None) -> bool:
    """Whether the innermost function of `frame` may just be taking or releasing a lock. It may also wait there, without end."""
    return frame is not None and frame.f_globals.get("__name__") in _LOCKING


def let_in() -> None:
    """Have the interrupt that waits for a marked function raised here, behind it."""
    if waiting:
        signal.raise_signal(INTERRUPT)


def at_fork(
    *,
    before: Callable[[], object] | None = None,
    after_in_parent: Callable[[], object] | None = None,
    after_in_child: Callable[[], object] | None = None,
) -> None:
    """`os.register_at_fork`, which swallows what is raised in its functions, an interrupt among it."""
    given = {"before": before, "after_in_parent": after_in_parent, "after_in_child": after_in_child}
    os.register_at_fork(**{when: _marked(function) for when, function in given.items() if function is not None})


def _marked(function: Callable[[], object]) -> Callable[[], object]:
    @uninterrupted
    def call() -> None:
        function()

    return call
