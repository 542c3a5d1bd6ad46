"""Functions that an interrupt of a job must not cut off: they hold locks, or a connection in the middle of a request.

A run that is overdue or cancelled on a sync pool is interrupted by an exception, raised between any two instructions. Raised
within a commit, it would leave the queue file locked; within a push, it would leave other threads waiting for their turn. It
is raised a moment later instead, when no such function is on the stack. To be marked costs a function nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

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
