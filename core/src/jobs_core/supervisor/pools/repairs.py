"""Dead workers whose jobs are not yet released: kept until the housekeeper has confirmed each, however long that takes."""

from __future__ import annotations

from collections.abc import Callable

from ..processes.children import Child
from ..system.messages import Repair

AT_ONCE = 4
"""Largest number of unconfirmed repairs sent to a housekeeper: its channel must never be full."""


class Repairs:
    """The unconfirmed repairs, and the housekeeper that gets them. Belongs to the supervisor's loop."""

    def __init__(self, on_repaired: Callable[[str], None]) -> None:
        self._waiting: dict[str, Repair] = {}
        self._told: set[str] = set()
        self._housekeeper: Child | None = None
        self._on_repaired = on_repaired

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, repair: Repair) -> None:
        """Have a dead worker's jobs released."""
        self._waiting[repair.file] = repair
        self._tell()

    def use(self, housekeeper: Child | None) -> None:
        """Use another housekeeper, or none; send it all unconfirmed repairs again (a repair may be done twice)."""
        self._housekeeper = housekeeper
        self._told.clear()
        self._tell()

    def confirm(self, file: str) -> None:
        """Forget a repair that a housekeeper has done."""
        self._told.discard(file)
        if self._waiting.pop(file, None) is not None:
            self._on_repaired(file)
        self._tell()

    def _tell(self) -> None:
        if self._housekeeper is None:
            return
        for file, repair in self._waiting.items():
            if len(self._told) >= AT_ONCE:
                return
            if file not in self._told:
                if not self._housekeeper.send(repair):
                    return
                self._told.add(file)
