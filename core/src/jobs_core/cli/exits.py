"""Exit codes of every command."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """What a script may rely on."""

    FINE = 0
    FAILED = 1  # what was asked for did not happen
    USAGE = 2  # the command line or the configuration is wrong (click's own code too)
    NOT_RUNNING = 3  # `status` when no supervisor runs (LSB)
    UNAVAILABLE = 69  # the backend cannot be reached (EX_UNAVAILABLE of sysexits.h)
