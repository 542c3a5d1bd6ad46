"""The supervisor of a run directory: it holds a lock on a file there for as long as it lives.

The lock shows that it is running, not the number in the file: process ids are reused. The file is never removed, so that
two processes cannot hold locks on two files of one name.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import time
from pathlib import Path

from .. import lockfile
from ..errors import JobsError
from ..lockfile import NAME

_PATIENCE = 0.3  # seconds: a process that only checks holds the lock for an instant


class AlreadyRunning(JobsError):
    """Raised when a supervisor runs in this run directory; `pid` is its process."""

    def __init__(self, run_dir: Path, pid: int) -> None:
        super().__init__(f"a supervisor is already running here: process {pid}, run directory {run_dir}")
        self.pid = pid


class OfAnotherUser(JobsError):
    """Raised when a run directory cannot be read, since it belongs to another user.

    `pid` is the supervisor's process; None if it is unknown whether one is running.
    """

    def __init__(self, run_dir: Path, user: str, pid: int | None) -> None:
        call = f"run this as {user} (sudo -u {user} …), or as root" if user != "root" else "run this as root (sudo …)"
        if pid is None:
            what = f"{run_dir} belongs to {user}, so it is not known whether a supervisor is running there"
        else:
            what = f"a supervisor is running as process {pid} and belongs to {user}, as does {run_dir}"
        super().__init__(f"{what}; {call}")
        self.user = user
        self.pid = pid


class PidFile:
    """The supervisor's lock on its run directory. No child may keep the descriptor, since it would keep the lock."""

    def __init__(self, run_dir: Path) -> None:
        """Lock the file. Raises AlreadyRunning, and OSError if the file cannot be used."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.descriptor = os.open(run_dir / NAME, flags, 0o600)
        deadline = time.monotonic() + _PATIENCE
        while not lockfile.lock(self.descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                pid = lockfile.number(self.descriptor)
                os.close(self.descriptor)
                raise AlreadyRunning(run_dir, pid)
            time.sleep(0.01)
        self.write()

    def write(self) -> None:
        """Write this process id into the file."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, f"{os.getpid()}\n".encode(), 0)

    def is_ours(self, run_dir: Path) -> bool:
        """Return whether the file of that name is still the locked one: the run directory may have been removed."""
        try:
            return os.path.samestat((run_dir / NAME).stat(), os.fstat(self.descriptor))
        except OSError:
            return False

    def close(self) -> None:
        """Empty the file and release the lock."""
        os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)


def running(run_dir: Path) -> int | None:
    """Return the process id of the supervisor that is running in this run directory, or None; raises OfAnotherUser."""
    try:
        return lockfile.holder(run_dir)
    except PermissionError:
        raise _of_another_user(run_dir) from None


def _of_another_user(run_dir: Path) -> OfAnotherUser:
    from .search import process_of  # imported late: only this case needs it

    directory = run_dir.absolute()
    while True:
        try:
            owner = directory.stat().st_uid
            break
        except OSError:  # it is below a directory that this user may not enter
            directory = directory.parent
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"user {owner}"
    return OfAnotherUser(run_dir, name, process_of(run_dir, owner))
