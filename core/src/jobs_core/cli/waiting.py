"""Report long waits: everything in a command that may take long happens inside `waiting`."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterator

from .. import boundary
from ..loaders import importing
from ..operating.formatting import age
from . import output
from .exits import Exit

FIRST = 1.5
"""Seconds of waiting before the first report."""

AGAIN, OFTEN, RARELY = 2.0, 60.0, 30.0
"""The report is repeated every 2 s for a minute, then every 30 s, so that the log of a nightly command stays readable."""


@contextlib.contextmanager
def waiting(what: str | Callable[[], str]) -> Iterator[None]:
    """Report on standard error what the command is waiting for, while the block takes long.

    A thread reports, because most waits are in calls of a library. Therefore the block must not fork.
    """
    done = threading.Event()
    tell = contextvars.copy_context().run  # to the window of this thread, if it has one
    teller = threading.Thread(target=tell, args=(_tell, what, done), name="jobs-patience", daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _tell(what: str | Callable[[], str], done: threading.Event) -> None:
    begin = time.monotonic()
    pause = FIRST
    while not done.wait(pause):
        so_far = time.monotonic() - begin
        output.echo(f"jobs: waiting for {what if isinstance(what, str) else what()} ({age(so_far)} so far)", err=True)
        pause = AGAIN if so_far < OFTEN else RARELY


@contextlib.contextmanager
def importing_application() -> Iterator[None]:
    """If the block, which imports the application, takes long, report its position in the code.

    If it ends the process, the exit code is not 0; the import itself says what has ended it.
    """
    thread = threading.get_ident()

    def what() -> str:
        place = importing.place_of(thread)
        return "the application to be imported" + (f", now at {place}" if place else "")

    with waiting(what), boundary.exit_told("", least=Exit.FAILED):
        yield
