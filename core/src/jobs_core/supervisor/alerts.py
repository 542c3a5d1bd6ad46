"""stub"""

from __future__ import annotations

from typing import Any


class Alerts:
    def __init__(self, config: Any, plugins: Any) -> None: ...
    def look(self, now: float, counts: Any) -> None: ...
    def going_on(self) -> list[str]:
        return []

    def close(self) -> None: ...
