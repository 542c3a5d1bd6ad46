"""Which run this is: for those who want to know whether they are called by a job."""

from __future__ import annotations

import threading
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .worker.run import Run

running: ContextVar[Run | None] = ContextVar("jobs_running", default=None)
"""The run that this thread or task is in; set by executors, in a context that is the run's own."""

_before: weakref.WeakSet[threading.Thread] | None = None  # in a worker: the threads that it had before its first job


def jobs_begin() -> None:
    """From now on this process is a worker's: a thread that is made later may be a job's."""
    global _before
    _before = weakref.WeakSet(threading.enumerate())


def jobs_end() -> None:
    global _before
    _before = None


def may_be_in_job() -> bool:
    """Whether a job may have to wait for the caller: it is a run, or a thread that a worker has made since it runs jobs.

    A new thread has no context of its maker (but in Python 3.14, if asked to), so that nothing tells whose it is.
    """
    return running.get() is not None or (_before is not None and threading.current_thread() not in _before)
