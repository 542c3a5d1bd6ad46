"""Find the supervisors of this machine by their processes: for a run directory that is unknown, or cannot be entered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .. import lockfile

TITLE = "supervisor "
"""The beginning of a supervisor's process title, after the name of the program; its run directory follows."""


def run_dirs() -> Iterator[Path]:
    """Return the run directories of this user's supervisors (of all, for root).

    Search for the locks that they hold, not for their titles, which the system truncates if the environment was small.
    """
    for process, _ in _supervisors():
        try:
            held = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:  # of another user, or ended
            continue
        yield from (Path(path).parent for path in held if path.endswith(f"/{lockfile.NAME}"))


def process_of(run_dir: Path, user: int) -> int | None:
    """Return the process id of `user`'s supervisor in a run directory that this user cannot enter, as far as `ps` shows."""
    for process, shown in _supervisors():
        try:
            if shown and process.stat().st_uid == user and os.path.realpath(run_dir) == shown:
                return int(process.name)
        except OSError:
            continue
    return None


def holds(pid: int, run_dir: Path) -> bool:
    """Return whether the process has the pid file of this run directory open."""
    try:
        wanted = (run_dir / lockfile.NAME).stat()
        return any(os.path.samestat(wanted, link.stat()) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _supervisors() -> Iterator[tuple[Path, str]]:
    """Iterate over supervisors: the entry in /proc, and the run directory in the title."""
    begin = f"jobs: {TITLE}".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                line = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if line.startswith(begin):
                yield process, os.fsdecode(line[len(begin) :].rstrip(b"\0 "))
