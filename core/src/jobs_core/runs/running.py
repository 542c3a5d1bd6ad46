"""The current run of a thread or task, for code that has to know whether a job calls it."""

from __future__ import annotations

import threading
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .run import Run

running: ContextVar[Run | None] = ContextVar("jobs_running", default=None)
"""The run of this thread or task; set by executors, in a context that belongs to the run."""

_before: weakref.WeakSet[threading.Thread] | None = None  # in a worker: the threads that existed before its first job


def jobs_begin() -> None:
    """Declare this process a worker from now on: a thread that is made later may belong to a job."""
    global _before
    _before = weakref.WeakSet(threading.enumerate())


def jobs_end() -> None:
    global _before
    _before = None


def may_be_in_job() -> bool:
    """Return whether a job may have to wait for the caller.

    The caller is then a run, or a thread made since the worker began to run jobs. A new thread does not inherit its
    creator's context (except in Python 3.14, on request), so its job is not known.
    """
    return running.get() is not None or (_before is not None and threading.current_thread() not in _before)
