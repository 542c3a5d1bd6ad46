"""Which worker of a pool runs suspects: at most one at a time on a machine, so that one death at a time is theirs."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Isolation:
    """A lock on a file; it ends with the process, and a process that a job forks does not share it."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._descriptor: int | None = None

    def enter(self) -> bool:
        """Take the lock, or keep it; False while another worker has it. Without a file there is no other worker."""
        if self._path is None or self._descriptor is not None:
            return True
        descriptor = -1
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:  # a full disk, a file system without locks: suspects run all the same
            if descriptor >= 0:
                os.close(descriptor)
            return True
        self._descriptor = descriptor
        return True

    def leave(self) -> None:
        """Let another worker have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
