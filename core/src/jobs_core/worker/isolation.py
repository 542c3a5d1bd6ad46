"""The lock that lets only one worker of a pool on a machine run suspects, so that they kill one worker at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Isolation:
    """A lock on a file. It is released when the process ends, and a process that a job forks does not share it."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._descriptor: int | None = None

    def enter(self) -> bool:
        """Take or keep the lock; return False while another worker has it. Without a file there is no other worker."""
        if self._path is None or self._descriptor is not None:
            return True
        descriptor = -1
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:  # a full disk, a file system without locks: suspects run without the lock
            if descriptor >= 0:
                os.close(descriptor)
            return True
        self._descriptor = descriptor
        return True

    def leave(self) -> None:
        """Release the lock to other workers."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
