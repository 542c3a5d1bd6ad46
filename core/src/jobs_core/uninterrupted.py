"""Functions that an interrupt of a job must not cut off, because they hold locks, or are in the middle of a request.

In a sync pool, a run that is overdue or cancelled is interrupted by an exception between any two instructions. Within a
commit, this would leave the queue file locked; within a push, it would leave other threads waiting for their turn. So the
signal handler waits until no marked function is on the stack. Marking a function costs nothing. A job may do nothing but
call such functions; therefore `App` calls `let_in` after them, which raises an interrupt that is waiting.
"""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from _thread import get_ident
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPT = signal.SIGURG
"""The signal that interrupts a run in the main thread: its handler raises an exception there, in system calls too.

By default, every process ignores it, so a late one does no harm (the Go runtime preempts with it for the same reason).
"""

waiting = False
"""True while an interrupt that arrived within a marked function waits to be raised; the signal handler sets it."""

_LOCKING = frozenset(
    {"threading", "logging", "contextlib", "importlib._bootstrap", "_frozen_importlib", "multiprocessing.synchronize"}
)
"""Modules of the standard library whose functions may just have taken a lock that would never be released.

An interrupt inside such a function would come before the `with` block of its caller has begun. A plain `with lock`, in
other code, cannot be cut off at this point.
"""

_codes: set[CodeType] = set()
_forking: list[int] = []  # ids of the threads that are forking
_whole_forks = False


def uninterrupted(function: F) -> F:
    """Mark a function as not to be interrupted; it must end by itself within a bounded time, such as `enqueue_timeout`."""
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
    """Return whether the innermost function of `frame` may be taking or releasing a lock, or waiting for one forever."""
    return frame is not None and frame.f_globals.get("__name__") in _LOCKING


def let_in() -> None:
    """Raise an interrupt that was held back by a marked function; call it after the function."""
    if waiting:
        signal.raise_signal(INTERRUPT)


class _AtFork(NamedTuple):
    before: Callable[[], object]
    after_in_parent: Callable[[], object]
    after_in_child: Callable[[], object]


_at_fork: list[_AtFork] = []
_begun: dict[int, list[_AtFork]] = {}
"""Id of a forking thread: the registrations whose `before` it has called."""


def at_fork(
    *, before: Callable[[], object], after_in_parent: Callable[[], object], after_in_child: Callable[[], object]
) -> None:
    """Register functions like `os.register_at_fork`; each fork calls all three kinds or none, uninterrupted.

    While one thread forks and waits in a `before`, another may import a module that registers functions. Python would then
    call only their `after`, which would release locks that were never taken; here, their `before` is called as well.
    """
    _at_fork.append(_AtFork(before, after_in_parent, after_in_child))


@uninterrupted
def _before_fork() -> None:
    begun = _begun[get_ident()] = []
    _call_before(begun)


def _call_before(begun: list[_AtFork]) -> None:
    for one in reversed(_at_fork):
        if one not in begun:
            begun.append(one)
            try:
                one.before()
            finally:  # Python prints an exception and continues with the fork
                _call_before(begun)
            return


@uninterrupted
def _after_fork_in_parent() -> None:
    with contextlib.ExitStack() as stack:
        for one in _begun.pop(get_ident(), ()):
            stack.callback(one.after_in_parent)


@uninterrupted
def _after_fork_in_child() -> None:
    begun = _begun.pop(get_ident(), ())
    _begun.clear()
    with contextlib.ExitStack() as stack:
        for one in begun:
            stack.callback(one.after_in_child)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def hold_back_in_forks() -> None:
    """Hold interrupts back during whole forks: libraries such as `logging` take locks before a fork and release them after.

    Before a fork, Python calls registered functions in reverse order, and after it in order. So ours surround all functions
    that were registered earlier: call this once the application is imported.
    """
    global _whole_forks
    if not _whole_forks:
        _whole_forks = True
        os.register_at_fork(
            before=_marked(lambda: _forking.append(get_ident())),
            after_in_parent=_marked(lambda: _forking.remove(get_ident())),
            after_in_child=_marked(_forking.clear),
        )


def _marked(function: Callable[[], object]) -> Callable[[], object]:
    @uninterrupted
    def call() -> None:
        function()

    return call


for _function in (warnings.WarningMessage.__init__, getattr(warnings, "_showwarnmsg", None)):
    if isinstance(_function, FunctionType):  # called by C code that may swallow exceptions: at a fork, from 3.12 on
        uninterrupted(_function)
