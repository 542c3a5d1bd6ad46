"""The dashboard as the supervisor knows it: a function that serves, and a try of its address.

Every command that checks the configuration imports this module, so it imports the server only where that is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .settings import Settings

if TYPE_CHECKING:
    from jobs_core import App


class Supervised:
    """What `jobs_dashboard` returns."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, app: App, ready: Callable[[], None]) -> None:
        """Serve until TERM; call `ready` once it listens."""
        from .serving import serve_supervised

        serve_supervised(app, ready)

    def try_address(self, base_dir: Path) -> None:
        """Listen on the configured address, and stop listening. Raises ConfigError if that is not possible."""
        from .serving import listener

        listener(self._settings, base_dir).close()
        if isinstance(self._settings.address, Path):
            (base_dir / self._settings.address).unlink()
