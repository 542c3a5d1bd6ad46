"""Children of which there is one: the housekeeper, the HTTP child, a broker. Kept alive, with a back-off."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from .. import events
from .backoff import Backoff
from .loop import Loop
from .nursery import Ended, Offspring


class Helper:
    """Keeps one child of a kind alive. Belongs to the supervisor's loop."""

    def __init__(
        self,
        name: str,
        loop: Loop,
        make: Callable[[Helper], Offspring | None],
        *,
        obeys: bool = True,
        hear: Callable[[dict[str, Any]], None] = lambda message: None,
        on_up: Callable[[Offspring], None] = lambda child: None,
        on_down: Callable[[], None] = lambda: None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.child: Offspring | None = None
        self.up = False
        self.error = ""
        self.stopping = False
        self.renewing = False
        self._loop = loop
        self._make = make
        self._obeys = obeys  # its control channel; otherwise it goes by TERM
        self._hear = hear
        self._on_up = on_up
        self._on_down = on_down
        self._on_failure = on_failure
        self._backoff = Backoff()
        self._ready_at: float | None = None

    @property
    def pid(self) -> int:
        return self.child.pid if self.child else 0

    @property
    def failures(self) -> int:
        """Quick deaths one after the other."""
        return self._backoff.failures

    def start(self) -> None:
        """Make it, unless it is there. One that cannot be made now (None) is tried again when asked for."""
        if self.child is not None or self.stopping:
            return
        if self._backoff.left() > 0:
            self._loop.after(self._backoff.left(), self.start)
            return
        self._ready_at = None
        try:
            self.child = self._make(self)
        except OSError as error:
            self.error = f"cannot start: {error.strerror or error}"
            self._backoff.died(None)
            self._loop.after(self._backoff.left(), self.start)

    def hear(self, message: dict[str, Any]) -> None:
        """A message of the child's."""
        if message["is"] == "ready" and self.child is not None:
            self.up, self.error = True, ""
            self._ready_at = time.monotonic()
            self._on_up(self.child)
        elif message["is"] == "failed":
            self.error = message["error"]
        else:
            self._hear(message)

    def ended(self, ended: Ended) -> None:
        """It is gone; a new one is made unless it was to go."""
        self.child, was_up, self.up = None, self.up, False
        if was_up:
            self._on_down()
        if self.stopping:
            return
        if self.renewing:
            self.renewing = False
            self.start()
            return
        if self._ready_at is None:
            self.error = self.error or str(ended)
        self._backoff.died(time.monotonic() - self._ready_at if self._ready_at is not None else None)
        events.emit(events.HelperDied(self.name, ended.pid, self.error or str(ended), self._backoff.left()))
        self._loop.after(self._backoff.left(), self.start)
        self._on_failure()

    def stillborn(self, error: str) -> None:
        """The template could not make it."""
        self.child = None
        self.error = error
        self._backoff.died(None)
        self._loop.after(self._backoff.left(), self.start)
        self._on_failure()

    def stop(self) -> None:
        """Ask it to go, for good."""
        self.stopping = True
        self._ask_to_go()

    def renew(self) -> None:
        """Ask it to go, and make another: after a reload. One that is not there is made if it is wanted now."""
        if self.child is None:
            self.start()
        else:
            self.renewing = True
            self._ask_to_go()

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()

    def _ask_to_go(self) -> None:
        if self.child is None:
            return
        if self._obeys:
            self.child.send({"do": "stop"})
        elif self.child.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child.pid, signal.SIGTERM)
