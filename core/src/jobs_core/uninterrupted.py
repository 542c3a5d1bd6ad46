"""Functions that an interrupt of a job must not cut off: they hold locks, or a connection in the middle of a request.

A run that is overdue or cancelled on a sync pool is interrupted by an exception, raised between any two instructions.
Raised within a commit, it would leave the queue file locked; within a push, it would leave other threads waiting for their
turn. It is raised a moment later instead, when no such function is on the stack. The mark costs a function nothing. A job
may do nothing but call such functions: therefore `App` calls `let_in` after them.
"""

from __future__ import annotations

import os
import signal
import warnings
from _thread import get_ident
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPT = signal.SIGURG
"""The signal that ends a run in a main thread: its handler raises there, out of system calls too.

It is ignored by default everywhere, so one that comes late does no harm (the Go runtime preempts with it for that reason).
"""

waiting = False
"""True if an interrupt arrived within a marked function; set by the handler of the signal."""

_LOCKING = frozenset(
    {"threading", "logging", "contextlib", "importlib._bootstrap", "_frozen_importlib", "multiprocessing.synchronize"}
)
"""Modules of Python's own whose functions may have taken a lock that would never be released.

Their callers' `with` has not begun. Elsewhere, `with lock` cannot be cut off there.
"""

_codes: set[CodeType] = set()
_forking: list[int] = []  # threads
_whole_forks = False


def uninterrupted(function: F) -> F:
    """Mark a function that ends by itself within a bounded time, such as `enqueue_timeout`."""
    _codes.add(function.__code__)
    return function


def within(frame: FrameType | None) -> bool:
    """Return whether a marked function is on the stack of `frame`, or this thread is in a fork."""
    if get_ident() in _forking:
        return True
    while frame is not None:
        if frame.f_code in _codes:
            return True
        frame = frame.f_back
    return False


def takes_locks(frame: FrameType | None) -> bool:
    """Return whether the innermost function of `frame` may just be taking or releasing a lock.

    It may also wait there, without end.
    """
    return frame is not None and frame.f_globals.get("__name__") in _LOCKING


def let_in() -> None:
    """Raise the interrupt that waits for a marked function here, after that function."""
    if waiting:
        signal.raise_signal(INTERRUPT)


def at_fork(
    *,
    before: Callable[[], object] | None = None,
    after_in_parent: Callable[[], object] | None = None,
    after_in_child: Callable[[], object] | None = None,
) -> None:
    """Register functions as `os.register_at_fork` does, which swallows exceptions in them, interrupts among them."""
    given = {"before": before, "after_in_parent": after_in_parent, "after_in_child": after_in_child}
    os.register_at_fork(**{when: _marked(function) for when, function in given.items() if function is not None})


def hold_back_in_forks() -> None:
    """Hold interrupts back during whole forks, as libraries take locks before a fork and release them after it (`logging`).

    Python calls such functions in reverse order of registration before a fork, and in order after it. Ours surround all that
    were registered before: call this when the application is imported.
    """
    global _whole_forks
    if not _whole_forks:
        _whole_forks = True
        at_fork(
            before=lambda: _forking.append(get_ident()),
            after_in_parent=lambda: _forking.remove(get_ident()),
            after_in_child=_forking.clear,
        )


def _marked(function: Callable[[], object]) -> Callable[[], object]:
    @uninterrupted
    def call() -> None:
        function()

    return call


_show_warning = getattr(warnings, "_showwarnmsg", None)
if _show_warning is not None:  # C code calls it and drops what is raised there; a fork beside threads does, from Python 3.12 on
    uninterrupted(_show_warning)
