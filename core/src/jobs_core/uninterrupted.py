"""Functions that an interrupt of a job must not cut off: they hold locks, or a connection in the middle of a request.

A run that is overdue or cancelled on a sync pool is interrupted by an exception, raised between any two instructions.
Raised within a commit, it would leave the queue file locked; within a push, it would leave other threads waiting for their
turn. It is raised a moment later instead, when no such function is on the stack. The mark costs a function nothing. A job
may do nothing but call such functions: therefore `App` calls `let_in` after them.
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


class _AtFork(NamedTuple):
    before: Callable[[], object]
    after_in_parent: Callable[[], object]
    after_in_child: Callable[[], object]


_at_fork: list[_AtFork] = []
_begun: dict[int, list[_AtFork]] = {}
"""Thread that forks: those whose `before` was called."""


def at_fork(
    *, before: Callable[[], object], after_in_parent: Callable[[], object], after_in_child: Callable[[], object]
) -> None:
    """Register functions like `os.register_at_fork`, to be called all or none of them, without interrupts.

    While one thread forks and waits in a `before`, another may import a module that registers functions. Python would then call
    only their `after`, which releases locks that it has not taken; here, their `before` is called as well.
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
            finally:  # an exception ends no fork: Python prints it
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
    """Hold interrupts back during whole forks, as libraries take locks before a fork and release them after it (`logging`).

    Python calls such functions in reverse order of registration before a fork, and in order after it. Ours surround all that
    were registered before: call this when the application is imported.
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
    if isinstance(_function, FunctionType):  # of Python's C code, which may drop what is raised there: at a fork from 3.12 on
        uninterrupted(_function)
