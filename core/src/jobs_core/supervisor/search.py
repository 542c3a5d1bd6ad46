"""Supervisors of this machine, found by their processes: for when the run directory is not known, or cannot be entered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .. import lockfile

TITLE = "supervisor "
"""How the title of a supervisor's process begins, after the name of the program; its run directory follows."""


def run_dirs() -> Iterator[Path]:
    """The run directories of this user's supervisors (of all, for root).

    By the lock that they hold and not by their titles, which the system cuts off where the environment was small.
    """
    for process, _ in _supervisors():
        try:
            held = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:  # of another user, or gone
            continue
        yield from (Path(path).parent for path in held if path.endswith(f"/{lockfile.NAME}"))


def process_of(run_dir: Path, user: int) -> int | None:
    """The process of that user's supervisor in a run directory that this user cannot enter, as far as `ps` tells."""
    for process, shown in _supervisors():
        try:
            if shown and process.stat().st_uid == user and os.path.realpath(run_dir) == shown:
                return int(process.name)
        except OSError:
            continue
    return None


def holds(pid: int, run_dir: Path) -> bool:
    """Whether the process has the file open that says who runs in this run directory."""
    try:
        wanted = (run_dir / lockfile.NAME).stat()
        return any(os.path.samestat(wanted, link.stat()) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _supervisors() -> Iterator[tuple[Path, str]]:
    """Entries of /proc, and the run directory that the title shows."""
    begin = f"jobs: {TITLE}".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                line = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if line.startswith(begin):
                yield process, os.fsdecode(line[len(begin) :].rstrip(b"\0 "))
