"""state.json: the supervisor's published state, written on a change, and every 5 s to show that the supervisor is alive."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import events
from ..scoreboard import state
from ..scoreboard.state import SupervisorState
from ..scoreboard.writer import start_ticks
from ..timers import Timer
from ..version import __version__
from .system.loop import Loop

SHORTEST = 0.05
"""Least number of seconds between two writes, however much changes."""

LONGEST = 4.0
"""Seconds after which an unchanged state is written again: readers take an old file as a sign of a hung supervisor."""


class Snapshot:
    """The writer of state.json. Belongs to the supervisor's loop."""

    def __init__(
        self,
        run_dir: Path,
        loop: Loop,
        describe: Callable[[], dict[str, Any]],
        *,
        started_at: float,
        backend: str,
        log: str,
    ) -> None:
        self._path = run_dir / state.STATE
        self._loop = loop
        self._describe = describe
        self._always: dict[str, Any] = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "version": __version__,
            "started_at": started_at,
            "backend": backend,
            "log": log,
            "start_ticks": start_ticks(os.getpid()),
        }
        self._timer: Timer | None = None
        self._written = 0.0  # monotonic
        self._broken = ""

    def changed(self) -> None:
        """Have the changed state written, within SHORTEST seconds."""
        if self._timer is None:
            self._timer = self._loop.after(self._written + SHORTEST - time.monotonic(), self._write)

    def publish(self) -> None:
        """Write the changed state now, for the other process that is told next."""
        if self._timer is not None:
            self._timer.cancel()
        self._write()

    def keep(self) -> None:
        """Write the file if the last one is older than LONGEST seconds; called every second."""
        if time.monotonic() - self._written > LONGEST:
            self.changed()

    def close(self) -> None:
        """Write the file for the last time."""
        self._write()

    def _write(self) -> None:
        self._timer = None
        self._written = time.monotonic()
        try:
            state.write(self._path, SupervisorState(**self._always, written_at=time.time(), **self._describe()))
            self._broken = ""
        except OSError as error:
            if str(error) != self._broken:  # a full disk is reported once, not twenty times a second
                self._broken = str(error)
                events.emit(events.RunDirTrouble(state.STATE, str(error)))
