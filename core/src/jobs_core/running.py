"""Which run this is: for those who want to know whether they are called by a job."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .worker.run import Run

running: ContextVar[Run | None] = ContextVar("jobs_running", default=None)
"""The run that this thread or task is in; set by executors, in a context that is the run's own."""
