"""The file on which a supervisor holds a lock for as long as it lives, as other processes see it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

NAME = "supervisor.pid"


def holder(run_dir: Path) -> int | None:
    """Return the process id of the supervisor that runs in this run directory, or None; raise PermissionError."""
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
    """Return the process id in the file, or 0."""
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0
