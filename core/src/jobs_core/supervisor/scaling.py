"""stub"""

from __future__ import annotations


class PoolScaler:
    def __init__(self, least: int, most: int, grow_age: float, shrink_after: float = 10.0) -> None: ...
    def decide(
        self,
        now: float,
        *,
        workers: int,
        busy: int,
        idle_since: list[float],
        ready: int,
        oldest_age: float | None,
        done_rate: float,
    ) -> int:
        return 0
