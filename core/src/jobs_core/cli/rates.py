"""Rates: the differences between readings of the board, and a graph of the last minute in block characters."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Sequence

from msgspec import Struct

from ..scoreboard.state import Board

WINDOW = 60.0
"""Seconds that a graph spans."""

_LITTLE = 1e-6

OTHER = "(other)"
"""The topic shown for runs that did not fit into a worker's table of topics."""

BLOCKS = " ▁▂▃▄▅▆▇█"

Counts = tuple[int, int]
"""Runs done, and failed (retried or dead)."""


class Rates(Struct):
    """Runs done and failed, per second."""

    topics: dict[str, tuple[float, float]] = {}
    pools: dict[str, tuple[float, float]] = {}


class Meter:
    """The last reading and the rates of the last minute."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._topics: dict[str, Counts] = {}
        self._workers: dict[str, Counts] = {}
        self._history: dict[str, deque[tuple[float, float, float]]] = defaultdict(deque)  # from, until, done per second

    def look(self, board: Board, now: float | None = None) -> Rates:
        """Return the rates since the last reading; the first reading has none."""
        now = time.monotonic() if now is None else now
        topics: dict[str, Counts] = {}
        for row in board.figures():
            topic, ended = row.topic or OTHER, row.outcomes
            done, failed = topics.get(topic, (0, 0))
            topics[topic] = done + ended.get("done", 0), failed + ended.get("retry", 0) + ended.get("dead", 0)
        workers = {view.file: (view.header.done, view.header.failed) for view in board.workers}
        rates = Rates()
        if self._at is not None and now > self._at:
            seconds = now - self._at
            rates.topics = {name: _per_second(counts, self._topics.get(name), seconds) for name, counts in topics.items()}
            for view in board.workers:
                mine = _per_second(workers[view.file], self._workers.get(view.file), seconds)
                others = rates.pools.get(view.header.pool, (0.0, 0.0))
                rates.pools[view.header.pool] = others[0] + mine[0], others[1] + mine[1]
            self._remember(self._at, now, rates)
        self._at, self._topics, self._workers = now, topics, workers
        return rates

    def _remember(self, since: float, now: float, rates: Rates) -> None:
        for topic, (done, _) in rates.topics.items():
            self._history[topic].append((since, now, done))
        for history in self._history.values():
            while history and history[0][1] <= now - WINDOW:
                history.popleft()

    def graph(self, topic: str, width: int) -> str:
        """Draw the throughput of a topic in the last minute, the newest to the right; the highest block is its peak."""
        sums = [0.0] * width
        begin, step = (self._at or 0.0) - WINDOW, WINDOW / width
        for since, until, done in self._history.get(topic, ()):
            position = max(0.0, (since - begin) / step)
            end = min(float(width), (until - begin) / step)
            while end - position > _LITTLE:  # split a reading over the blocks that it overlaps
                slot = int(position + _LITTLE)
                part = min(end, slot + 1.0) - position
                sums[slot] += done * part
                position += part
        return blocks(sums)

    def peak(self, topic: str) -> float:
        """Return the highest throughput of a topic in the last minute, per second."""
        return max((done for _, _, done in self._history.get(topic, ())), default=0.0)


def _per_second(counts: Counts, before: Counts | None, seconds: float) -> tuple[float, float]:
    done, failed = before or (0, 0)
    return max(0, counts[0] - done) / seconds, max(0, counts[1] - failed) / seconds


def blocks(values: Sequence[float]) -> str:
    """Draw values as blocks of one to eight eighths of a line's height, relative to the highest value; 0 is blank."""
    highest = max(values, default=0.0)
    if highest <= 0:
        return BLOCKS[0] * len(values)
    return "".join(BLOCKS[max(1, round(value / highest * 8))] if value > 0 else BLOCKS[0] for value in values)
