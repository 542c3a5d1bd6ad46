"""stub"""

from __future__ import annotations


class Notifier:
    @classmethod
    def from_environment(cls) -> Notifier:
        return cls()

    def ready(self, status: str = "") -> None: ...
    def reloading(self) -> None: ...
    def stopping(self, status: str, extend: float) -> None: ...
    def beat(self) -> None: ...
