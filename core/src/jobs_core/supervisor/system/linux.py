"""Linux calls for a parent and its children that Python's library lacks.

`prctl` is called through ctypes: the child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER) and the parent-death signal
(PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path

_ADOPTION = 1.0
"""Longest time from the end of a parent to the adoption by the next one, seconds."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def subreaper() -> bool:
    """Make orphans below this process its own children; return False if the system cannot."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Have this process killed when the thread that created it ends; exit at once if `parent` is already gone.

    Call it after reparenting: before, it would kill a child whose first parent exits on purpose.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopted_by(parent: int) -> None:
    """Wait until this process, whose own parent exits on purpose, is a child of `parent`.

    Exit if that does not happen: then `parent` is gone, and another process has adopted this one.
    """
    deadline = time.monotonic() + _ADOPTION
    while os.getppid() != parent:
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.0002)


def wait_for_end(pid: int, seconds: float) -> None:
    """Wait until a process, child or not, has ended, for `seconds` at most."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:  # it has ended
        return
    try:
        select.select([handle], [], [], max(0.0, seconds))
    finally:
        os.close(handle)


def is_child_of(parent: int) -> bool:
    """Return whether a parent that closed its channel stays alive: a dying one closes it an instant before it ends."""
    deadline = time.monotonic() + _ADOPTION
    while os.getppid() == parent:
        if time.monotonic() > deadline:
            return True
        time.sleep(0.005)
    return False


def close_all_but(keep: Collection[int]) -> None:
    """Close every descriptor of this process except those in `keep`."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor not in keep:
            with contextlib.suppress(OSError):  # the descriptor that listed the others
                os.close(descriptor)


def threads() -> list[str]:
    """Return the names of the threads of this process besides the main one, native ones included."""
    tasks = Path("/proc/self/task")
    names = []
    for task in tasks.iterdir() if tasks.is_dir() else ():
        if int(task.name) != os.getpid():
            try:
                names.append((task / "comm").read_text().strip())
            except OSError:  # it has just ended
                continue
    return sorted(names)


def resident(pid: int) -> int:
    """Return the resident bytes of a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def stopped(pid: int) -> bool:
    """Return whether a process is stopped by a signal or a debugger."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


def kill_session(leader: int, since: int) -> None:
    """Kill every process in the session or group of `leader` that started at clock tick `since` or later.

    Search /proc instead of killing the group alone: the leader may be gone, and its process id reused.
    """
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        group, session, started = int(fields[2]), int(fields[3]), int(fields[19])
        if leader in (group, session) and started >= since:
            try:
                os.kill(int(entry.name), signal.SIGKILL)
            except ProcessLookupError:
                continue


def _prctl(option: int, value: int) -> bool:
    return _libc is not None and _libc.prctl(option, value, 0, 0, 0) == 0


_PAGE = os.sysconf("SC_PAGE_SIZE")
