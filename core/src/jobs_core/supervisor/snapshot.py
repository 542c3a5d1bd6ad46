"""state.json: what the supervisor shows of itself, written on a change, and now and then to show that it lives."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__, events
from ..scoreboard import state
from ..scoreboard.state import SupervisorState
from ..scoreboard.writer import start_ticks
from .system.loop import Loop, Timer

SHORTEST = 0.05
"""Seconds between two writings, however much changes."""

LONGEST = 4.0
"""Seconds after which it is written although nothing has changed: who reads it takes an old one for a hanging supervisor."""


class Snapshot:
    """Writes it. Belongs to the supervisor's loop."""

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
        """Something has changed: soon it is written."""
        if self._timer is None:
            self._timer = self._loop.after(self._written + SHORTEST - time.monotonic(), self._write)

    def keep(self) -> None:
        """Called every second."""
        if time.monotonic() - self._written > LONGEST:
            self.changed()

    def close(self) -> None:
        """The last one."""
        self._write()

    def _write(self) -> None:
        self._timer = None
        self._written = time.monotonic()
        try:
            state.write(self._path, SupervisorState(**self._always, written_at=time.time(), **self._describe()))
            self._broken = ""
        except OSError as error:
            if str(error) != self._broken:  # a full disk is told once, not twenty times a second
                self._broken = str(error)
                events.emit(events.RunDirTrouble(state.STATE, str(error)))
