"""Exit codes of workers: they tell a worker that cannot boot from one that crashed."""

from __future__ import annotations

import enum

from ...worker.main import REPLACE


class WorkerExit(enum.IntEnum):
    """The exit codes of a worker that ends by its own decision."""

    FINE = 0
    FAILED = 1  # an error in this code, or jobs that did not end within the stop timeout
    CANNOT_BOOT = 70  # it never served; its last message says why (EX_SOFTWARE)
    REPLACE = REPLACE  # a job did not stop when told to
