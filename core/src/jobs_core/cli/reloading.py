"""`jobsctl start --reload`: a process beside the supervisor that requests a reload when the project's files change."""

from __future__ import annotations

import os
import select
import signal
import threading
from pathlib import Path
from typing import NoReturn

from ..escapes import one_line
from . import output
from .common import fail
from .exits import Exit


def watch(directory: Path, run_dir: Path) -> None:
    """Start a process that watches `directory` until this process, which is about to become the supervisor, ends.

    The new process is not a child of the supervisor, which has to know all its children. Ends the command if watchfiles is
    missing.
    """
    try:
        import watchfiles  # noqa: F401 - used by the other process
    except ImportError:
        fail("--reload needs watchfiles: pip install 'jobs-core[reload]'", Exit.USAGE)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # survives the exec: files may change before the supervisor handles HUP
    supervisor = os.pidfd_open(os.getpid())
    child = os.fork()
    if child:
        os.close(supervisor)
        os.waitpid(child, 0)
        return
    if os.fork():
        os._exit(0)
    try:
        _watch(directory, run_dir, supervisor)
    finally:
        os._exit(1)


def _watch(directory: Path, run_dir: Path, supervisor: int) -> NoReturn:
    from watchfiles import PythonFilter
    from watchfiles import watch as changes_in

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches this process too
    ended = threading.Event()
    threading.Thread(target=_tell_of_the_end, args=(supervisor, ended), daemon=True).start()
    wanted = PythonFilter(extra_extensions=(".toml",), ignore_paths=[run_dir])
    for changes in changes_in(directory, watch_filter=wanted, stop_event=ended):
        names = sorted({os.path.relpath(path, directory) for _, path in changes})
        output.echo(f"jobs: {', '.join(map(one_line, names))} changed: reloading", err=True)
        try:
            signal.pidfd_send_signal(supervisor, signal.SIGHUP)
        except ProcessLookupError:
            break
    os._exit(0)


def _tell_of_the_end(process: int, ended: threading.Event) -> None:
    select.select([process], [], [])
    ended.set()
