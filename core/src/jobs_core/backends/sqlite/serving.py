"""Reserve jobs of a topic that has lines or is fair, in the order of `backends/limits.py`."""

from __future__ import annotations

import json
from typing import TypeAlias

from ..limits import LOOKED_AT, Lines, key_limit
from . import limits, lines, members
from .connection import Transaction
from .lines import Line, Place

Order: TypeAlias = tuple[int, int, float, int]
"""Rank, turn, time at which it became ready, and sequence number: the order of service."""

_OPEN = f"SELECT {lines.COLUMNS} FROM line WHERE topic = ? AND filed_under IS NULL"


def _first_of_each(*kinds: tuple[int, str]) -> str:
    """Return an SQL query for the best open line of each kind (fair or not, with its order), bounded or not."""
    parts = [f"{_OPEN} AND fair = {fair} AND bounded = {bounded} {order}" for fair, order in kinds for bounded in (0, 1)]
    return " UNION ALL ".join(f"SELECT * FROM ({part})" for part in parts)


_BEST_BY_AGE = _first_of_each((0, lines.BY_AGE), (1, lines.BY_AGE))
_BEST_BY_TURN = _first_of_each((0, lines.BY_AGE), (1, lines.BY_TURN))
_PLAIN_FIRST = "SELECT rank, since, seq FROM ready WHERE topic = ? ORDER BY rank, since, seq LIMIT 1"
_RESERVE_PLAIN = """
INSERT INTO reserved (seq, at, owner, request)
SELECT seq, ?, ?, ? FROM ready WHERE topic = ? AND (rank, since, seq) < (?, ?, ?) ORDER BY rank, since, seq LIMIT ?
"""
_RESERVE_ONE = "INSERT INTO reserved (seq, at, owner, request, slots) SELECT seq, ?, ?, ?, ? FROM job WHERE seq = ?"
_PLACE = "SELECT topic, rank, since, seq FROM ready WHERE topic = ? ORDER BY rank, since, seq LIMIT 1 OFFSET ?"
_LEAVE = "DELETE FROM ready WHERE topic = ? AND (rank, since, seq) <= (?, ?, ?)"
_NOTHING: Order = (1 << 30, 0, float("inf"), 0)


class Serving:
    """Takes jobs of one topic for one reserve; `startable` is what it leaves of `Backend.startable`."""

    def __init__(self, tx: Transaction, topic: str, rules: Lines, startable: int | None, owner: str, request: str) -> None:
        self._tx, self._topic, self._rules = tx, topic, rules
        self._reservation = (tx.now, owner, request)
        self._plain_limits = [key_limit(topic, "")] if rules.fair else []
        self._all_bounded = rules.fair and rules.max_per_key is not None
        self._looks = LOOKED_AT
        self._plain: Place | None = None
        self._overtook = False  # a bounded job was not taken in its order, because `startable` was used up
        self.startable = startable
        self.last_token = 0
        self._turns: dict[int, int] = {}  # of jobs without a key, by rank
        if rules.fair:
            self._turns = dict(tx.db.execute("SELECT rank, turn FROM keyless_turn WHERE topic = ?", (topic,)).fetchall())

    def take(self, most: int) -> tuple[int, bool]:
        """Reserve up to `most` jobs; return how many, and whether one was left behind that could start."""
        taken = 0
        more = lines.look_again(self._tx, self._topic, LOOKED_AT)
        self._plain = self._first_plain()
        while taken < most and self._looks > 0:
            order, line, skipped = self._best_line()
            plain = self._order(*self._plain) if self._plain is not None and self._may_take_plain() else _NOTHING
            self._overtook |= skipped < min(plain, order)
            if plain < order:
                taken += self._take_plain(most - taken, order)
            elif line is None:
                break
            else:
                taken += self._take_first(line)
        passed_over = self.startable == 0 and (self._overtook or taken < most) and self._leaves_one()
        if taken == most or not self._looks or more or passed_over:
            self._tx.wake.add(self._topic)  # there may be more jobs: wake an idle worker for them
        return taken, passed_over

    def _order(self, rank: int, since: float, seq: int) -> Order:
        return rank, self._turns.get(rank, 0), since, seq

    # -- lines -------------------------------------------------------------------------------------

    def _lines(self) -> list[tuple[Order, Line]]:
        """Return the best open lines with their order, best first."""
        sql = _BEST_BY_TURN if self._rules.fair else _BEST_BY_AGE
        found = [Line(*row) for row in self._tx.db.execute(sql, (self._topic,) * 4)]
        return sorted(
            ((line.head_rank, line.turn, line.head_since, line.head_seq), line)
            if line.fair and self._rules.fair
            else (self._order(*line.head), line)
            for line in found
        )

    def _is_bounded(self, line: Line) -> bool:
        return bool(line.bounded) or self._all_bounded

    def _best_line(self) -> tuple[Order, Line | None, Order]:
        """Return the order of the best open line that may be taken, the line, and the order of the best that may not."""
        skipped = _NOTHING
        for order, line in self._lines():
            if self.startable != 0 or not self._is_bounded(line):
                return order, line, skipped
            skipped = min(skipped, order)
        return _NOTHING, None, skipped

    def _take_first(self, line: Line) -> int:
        """Reserve the first job of an open line, or file the line if it has no room; return how many were reserved."""
        counted = line.counted(fair=self._rules.fair)
        if line.bounded != limits.is_bounded(self._tx, line.counted(fair=False)):
            lines.flip_bounded(self._tx, line.id)
            return 0
        blocker = limits.first_without_room(self._tx, counted)
        if blocker is not None:
            self._looks -= 1
            lines.close_line(self._tx, line, *blocker)
            return 0
        taken = self._reserve(line.head_seq, counted)
        lines.remove(self._tx, line, line.head_seq)
        if taken:
            if self.startable is not None and self._is_bounded(line):
                self.startable -= 1
            self._pass_turn(line.head_rank, line.key)
        return taken

    def _reserve(self, seq: int, counted: list[str]) -> int:
        """Reserve a job and count it; return 0 if it is gone, because a process of an older release has removed it.

        A member of a cancelled flow is not reserved, and removed later.
        """
        if seq < 0 and members.is_barred(self._tx, seq):
            self._looks -= 1
            self._tx.barred.append((0, seq))
            return 0
        prices = limits.prices(self._tx, counted)
        cursor = self._tx.db.execute(_RESERVE_ONE, (*self._reservation, json.dumps(prices), seq))
        if not cursor.rowcount:
            return 0
        self.last_token = cursor.lastrowid or 0
        limits.take(self._tx, prices)
        return 1

    def _pass_turn(self, rank: int, key: str) -> None:
        if self._rules.fair:
            turn = lines.pass_turn(self._tx, self._topic, rank, key)
            if not key:
                self._turns[rank] = turn

    def _leaves_one(self) -> bool:
        """Return whether a bounded job could start; file the open lines without room that are found on the way."""
        if self._all_bounded and self._plain is not None and not self._plain_blocked():
            return True
        for _ in range(LOOKED_AT):
            line = next((line for _, line in self._lines() if self._is_bounded(line)), None)
            if line is None:
                return False
            blocker = limits.first_without_room(self._tx, line.counted(fair=self._rules.fair))
            if blocker is None:
                return True
            lines.close_line(self._tx, line, *blocker)
        return True

    # -- the plain line ----------------------------------------------------------------------------

    def _first_plain(self) -> Place | None:
        row = self._tx.db.execute(_PLAIN_FIRST, (self._topic,)).fetchone()
        return None if row is None else (row[0], row[1], row[2])

    def _plain_blocked(self) -> bool:
        return limits.first_without_room(self._tx, self._plain_limits) is not None

    def _may_take_plain(self) -> bool:
        return not self._all_bounded or (self.startable != 0 and not self._plain_blocked())

    def _take_plain(self, most: int, before: Order) -> int:
        """Reserve plain jobs up to a place: one if they count in the limit of the jobs without a key, otherwise all."""
        assert self._plain is not None
        if self._rules.fair:
            rank, since, seq = self._plain
            self._tx.db.execute(_LEAVE, (self._topic, rank, since, seq))
            taken = self._reserve(seq, self._plain_limits)
            if taken:
                if self.startable is not None and self._all_bounded:
                    self.startable -= 1
                self._pass_turn(rank, "")
        else:
            place = (before[0], before[2], before[3])
            cursor = self._tx.db.execute(_RESERVE_PLAIN, (*self._reservation, self._topic, *place, most))
            taken, self.last_token = cursor.rowcount, cursor.lastrowid or 0
            self._tx.db.execute(_LEAVE, self._tx.db.execute(_PLACE, (self._topic, taken - 1)).fetchone())
        self._plain = self._first_plain()
        return taken
