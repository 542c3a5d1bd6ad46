"""The file that a supervisor keeps locked while it lives, by which other processes find it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

NAME = "supervisor.pid"


def holder(run_dir: Path) -> int | None:
    """Return the process id of the supervisor of this run directory, or None; raise PermissionError if it is not readable."""
    try:
        descriptor = os.open(run_dir / NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except PermissionError:
        raise
    except OSError:
        return None
    try:
        return None if lock(descriptor, fcntl.LOCK_SH) else number(descriptor) or None
    finally:
        os.close(descriptor)


def lock(descriptor: int, kind: int) -> bool:
    """Try to take the lock; return whether it was free."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return True
    return False


def number(descriptor: int) -> int:
    """Return the process id that the file contains, or 0."""
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0
