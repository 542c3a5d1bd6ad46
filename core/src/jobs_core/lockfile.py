"""The file that a supervisor holds a lock on for as long as it lives, as others look at it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

NAME = "supervisor.pid"


def holder(run_dir: Path) -> int | None:
    """The process id of the supervisor that runs in this run directory, or None; raises PermissionError."""
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
    """Whether the lock could be had."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return True
    return False


def number(descriptor: int) -> int:
    """The process id that the file says, or 0."""
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0
