"""Taking in what foreign producers push, at once: see `InletWatch`."""

from __future__ import annotations


class InletWatch:
    def stop(self) -> None: ...
