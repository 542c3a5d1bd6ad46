"""No command waits without a word: whatever may take long does so inside `waiting`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from ..loaders import importing
from . import output
from .figures import age

FIRST = 1.5
"""Seconds that a command may be silent at first."""

AGAIN, OFTEN, RARELY = 2.0, 60.0, 30.0
"""It says so again every 2 s, for a minute, and then every 30 s: the log of a nightly command stays readable."""


@contextlib.contextmanager
def waiting(what: str | Callable[[], str]) -> Iterator[None]:
    """While the block takes long, say on standard error what is waited for.

    A thread does it: most waits are in calls of a library. So nothing may fork inside of the block.
    """
    done = threading.Event()
    teller = threading.Thread(target=_tell, args=(what, done), name="jobs-patience", daemon=True)
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
    """While the block imports the application and takes long, say where it is."""
    thread = threading.get_ident()

    def what() -> str:
        place = importing.place_of(thread)
        return "the application to be imported" + (f", now at {place}" if place else "")

    with waiting(what):
        yield
