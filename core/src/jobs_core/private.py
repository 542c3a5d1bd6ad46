"""Directories and files to which only this user can write, because anyone who can write there controls this program.

A user who can write to the run directory controls the workers, which often run as root. So an existing directory is used
only if it is a real directory (no symbolic link), belongs to this user, and only its owner can write to it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection
from pathlib import Path

from .errors import ConfigError


def directory(path: Path, owners: Collection[int] = ()) -> Path:
    """Create a directory that only this user may enter; raise OSError if this fails, or an existing one is not private.

    An existing one may also belong to one of `owners` (user ids).
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.lstat(path)  # mkdir accepts a link to a directory
    if stat.S_ISLNK(found.st_mode):
        raise _refusal(path, "it is a symbolic link, which could point anywhere: use the directory itself")
    if found.st_uid not in (os.geteuid(), *owners):
        raise _refusal(
            path,
            f"it belongs to user {found.st_uid}, who could put anything there, but this process runs as user {os.geteuid()}",
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise _refusal(path, f"other users may write to it (mode {mode}): check its contents, then run chmod 700 {path}")
    return path


def directory_of_installation(path: Path) -> Path:
    """Create a run directory; raise ConfigError if this fails, or others may enter it, or this user may not write to it."""
    try:
        directory(path)
        if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise ConfigError(
            f"run_dir: {path} cannot be used: {error.strerror}: set run_dir to a directory that this user may write to"
        ) from None
    return path


def create(path: Path) -> None:
    """Create an empty file with mode 0600, whatever the umask; leave an existing one unchanged. Raises OSError.

    An existing file is not opened: closing it would release all locks that this process has on it.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _refusal(path: Path, why: str) -> PermissionError:
    return PermissionError(errno.EACCES, why, str(path))
