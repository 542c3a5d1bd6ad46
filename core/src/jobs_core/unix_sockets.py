"""Listening sockets at paths, in place of those that a killed process has left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path


def at_path(path: Path, mode: int = 0o600) -> socket.socket:
    """Return a socket bound at a path, whose file never has a wider mode; the caller lets it listen.

    One on which no process listens any more is replaced. Raises OSError if another process listens there, or if the file is no
    socket. Changes the umask for a moment, so other threads must not create files meanwhile.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "the file there is not a socket")
        if _answers(path):
            raise OSError(errno.EADDRINUSE, "another process is listening there")
        path.unlink()
    made = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        made.bind(str(path))
        if mode != 0o600:
            path.chmod(mode)
    except OSError:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # its queue is full, so a process is listening
            return True
        except OSError:
            return False
        return True
