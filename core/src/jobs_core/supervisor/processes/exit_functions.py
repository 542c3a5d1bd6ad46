"""The end of a process as Python would have it, within a bounded time: executors finish, then `atexit` functions run.

Error trackers and tracers send what they have queued in such functions. They are run in every process that ends by its
own decision and has run the application's code, those that were registered before the fork too: it is here that events
were queued since. They are not run where a process is killed, nor in the template.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import traceback
from typing import Any

logger = logging.getLogger("jobs.worker")

PATIENCE = 5.0
"""Seconds for all of it; a function that hangs is cut off."""


def leave(code: int, exit_patience: float = 0.0) -> None:
    """End this process; first its exit functions, for so many seconds, if it has run the application's code."""
    try:
        if exit_patience:
            run_exit_functions(code, exit_patience)
        logging.shutdown()  # lines that were begun
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def run_exit_functions(code: int, patience: float = PATIENCE) -> None:
    """Run them in the main thread; end the process with `code` where they take too long."""
    until = time.monotonic() + patience
    _finish_executors(patience / 2)
    done = threading.Event()
    threading.Thread(target=_cut_off, args=(done, until, patience, code), name="jobs-ending", daemon=True).start()
    sys.unraisablehook = _failed
    try:
        atexit._run_exitfuncs()
    finally:
        done.set()


def _finish_executors(patience: float) -> None:
    """What the library registers to be called before threads are joined: thread pools finish what was submitted."""
    functions = list(getattr(threading, "_threading_atexits", ()))
    if not functions:
        return

    def finish() -> None:
        for function in reversed(functions):
            try:
                function()
            except Exception:
                logger.exception("an executor failed at its end")

    finishing = threading.Thread(target=finish, name="jobs-executors", daemon=True)
    finishing.start()
    finishing.join(patience)
    if finishing.is_alive():
        logger.warning("work submitted to an executor has not ended within %g s of the worker's end: cut off", patience)


def _failed(unraisable: Any) -> None:
    name = getattr(unraisable.object, "__qualname__", unraisable.object)
    error = (unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback)
    logger.error("the exit function %s failed", name, exc_info=error)


def _cut_off(done: threading.Event, until: float, patience: float, code: int) -> None:
    if done.wait(max(0.0, until - time.monotonic())):
        return
    try:
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        where = "".join(traceback.format_stack(frame)[-1:]).strip()
        logger.warning("an exit function (atexit) has not ended within %g s: cut off at %s", patience, where)
    finally:
        os._exit(code)
