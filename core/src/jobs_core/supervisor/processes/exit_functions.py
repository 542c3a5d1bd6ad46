"""The end of a process in Python's own order, but within a bounded time: executors finish, then `atexit` functions run.

Error trackers and tracers send their queued events in such functions. They run in every process that exits by its own
decision and has run the application's code. Functions that were registered before the fork run, too, since their events
were queued in this process. They do not run when a process is killed, nor in the template.
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
"""Seconds for all exit functions; one that hangs is cut off."""


def exit_process(code: int, exit_patience: float = 0.0) -> None:
    """Exit, after exit functions for up to `exit_patience` seconds; 0 for a process that has not run the application's code."""
    try:
        if exit_patience:
            run_exit_functions(code, exit_patience)
        logging.shutdown()  # unfinished lines
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def run_exit_functions(code: int, patience: float = PATIENCE) -> None:
    """Run exit functions in the main thread; exit with `code` if they take too long."""
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
    """Call the functions that Python calls before it joins threads: thread pools finish their submitted work."""
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
    if name is None and unraisable.exc_traceback is not None:  # from Python 3.13 on, it is only in the text
        name = unraisable.exc_traceback.tb_frame.f_code.co_name
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
