"""Exit codes of our own children: a worker that cannot boot is told apart from one that crashed."""

from __future__ import annotations

import enum

from ...worker.main import REPLACE


class WorkerExit(enum.IntEnum):
    """How a worker ends by its own decision."""

    FINE = 0
    FAILED = 1  # an error of ours, or jobs given up at the end of patience
    CANNOT_BOOT = 70  # it never came to serve; its last message says why (EX_SOFTWARE)
    REPLACE = REPLACE  # a job did not end when told to
