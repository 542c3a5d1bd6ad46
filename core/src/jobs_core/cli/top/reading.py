"""The thread that reads what the current view shows, so that a slow backend never stops the screen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import click
from msgspec import Struct

from ...errors import JobsError
from ...pauses import Pace
from .. import output
from ..common import Context

SHARE = 0.05
"""Largest share of time that the backend spends on a view: if readings take a second, the next is 20 s later."""

AGAIN = 1.0
"""Seconds until the next attempt after a reading that failed."""


class Status(Struct):
    """How the reading of a view goes."""

    at: float = 0.0  # unix time of the last reading that succeeded; 0 if there was none
    error: str = ""  # of the last reading
    waiting: str = ""  # what a reading has been waiting for
    note: str = ""  # what the last reading said besides


class Readable(Protocol):
    """A view whose content is read from the backend."""

    status: Status
    interval: float  # seconds between two readings, at least

    def read(self, context: Context) -> None:
        """Read it, on the thread of the reader. Raises JobsError."""


class Reader:
    """The thread that reads the view that is shown, again and again."""

    def __init__(self, context: Context, wake: Callable[[], None]) -> None:
        self._context = context
        self._wake = wake
        self._changed = threading.Condition()
        self._view: Readable | None = None
        self._due = 0.0
        self._pace = Pace(SHARE)
        self._at_once = False  # read again when the present reading ends

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="jobs-top-reader", daemon=True).start()

    def show(self, view: Readable | None) -> None:
        """Read this view from now on; None reads nothing."""
        with self._changed:
            if view is not self._view:
                self._view, self._due = view, 0.0
                self._changed.notify_all()

    def refresh(self) -> None:
        """Read the view again at once."""
        with self._changed:
            self._due, self._at_once = 0.0, True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            view = self._next()
            begin = time.monotonic()
            self._read(view)
            now = time.monotonic()
            pause = self._pace.pause(now - begin, view.interval)
            if view.status.error:
                pause = max(view.interval, AGAIN)
            with self._changed:
                if view is self._view and not self._at_once:
                    self._due = now + pause
            self._wake()

    def _next(self) -> Readable:
        """Wait until a reading is due, and return its view."""
        with self._changed:
            while True:
                left = self._due - time.monotonic()
                if self._view is not None and left <= 0:
                    self._at_once = False
                    return self._view
                self._changed.wait(left if self._view is not None else None)

    def _read(self, view: Readable) -> None:
        notes: list[str] = []

        def write(text: str) -> None:
            line = text.removeprefix("jobs: ").strip()
            if line.startswith("waiting for "):
                view.status.waiting = line
                self._wake()
            else:
                notes.append(line)

        try:
            with output.into(output.Window(200, write, lambda question: False)):
                view.read(self._context)
        except click.exceptions.Exit:  # a command would end here; it has said why
            view.status.error = "; ".join(notes)
        except JobsError as error:
            view.status.error = " ".join(str(error).split())
        except Exception as error:  # a fault of ours, or of a plugin: the screen says so, and goes on
            view.status.error = f"{type(error).__name__}: {error}"
        else:
            view.status.error, view.status.at, view.status.note = "", time.time(), "; ".join(notes)
        finally:
            view.status.waiting = ""
