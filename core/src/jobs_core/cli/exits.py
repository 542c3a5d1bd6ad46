"""Exit codes of every command."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """Exit codes on which a script may rely."""

    FINE = 0
    FAILED = 1  # the requested change or result did not happen
    USAGE = 2  # the command line or the configuration is wrong (click's own code too)
    NOT_RUNNING = 3  # `status` when no supervisor runs (LSB)
    UNAVAILABLE = 69  # the backend cannot be reached (EX_UNAVAILABLE of sysexits.h)
