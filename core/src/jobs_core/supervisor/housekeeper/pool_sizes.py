"""The sizes that operators have set for pools of this machine: documents in the backend, which outlast restarts and reloads."""

from __future__ import annotations

from collections.abc import Callable

from ... import events
from ...app import App
from ...backends.base import Backend
from ...machines import size_of, sizes
from ..system.messages import Commanded


class PoolSizes:
    """What this housekeeper has told its supervisor about the sizes of pools. One thread uses it."""

    def __init__(self, app: App, machine: str, tell: Callable[[Commanded], object]) -> None:
        self._app = app
        self._machine = machine
        self._tell = tell
        self._version = -1
        self._told: dict[str, int] = {}
        self.refused: dict[str, str] = {}  # name of a document, TARGET/POOL → why it is not obeyed

    def look(self, backend: Backend, version: int) -> None:
        """Tell the supervisor about each pool whose size has changed, if `version`, of their kind, has."""
        if version == self._version:
            return
        self.refused = {}
        found = sizes(self._app, backend, self._refuse)
        for pool in self._app.config.pools:
            size = size_of(found, pool, self._machine)
            workers = None if size is None else size.workers
            if workers == self._told.get(pool):
                continue
            if workers is None:
                del self._told[pool]
            else:
                self._told[pool] = workers
            self._tell(Commanded("", "scale", pool, workers))
        self._version = version

    def _refuse(self, name: str, error: str) -> None:
        self.refused[name] = error
        events.emit(events.PoolSizeRefused(name, error))
