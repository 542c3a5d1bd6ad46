"""The statistics of all machines; see statistics.sql."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs_core.backends.base import Backend
from jobs_core.backends.statistics import REMEMBERED, StatisticsRow, check

from .connection import ServerConnection

FOLDED_AT_ONCE = 500

_LISTED = "SELECT at, topic, job, sums, peaks FROM {s}.statistics WHERE span = %s AND "


class PostgresStatisticsCalls(Backend):
    """The calls about statistics, a base class of `PostgresBackend`."""

    _connection: ServerConnection

    def add_statistics(self, rows: Sequence[StatisticsRow], request: str) -> int:
        check(rows)
        given = [(row.span, row.at, row.topic, row.job, _array(row.sums), _array(row.peaks)) for row in rows]
        columns: list[list[Any]] = [list(column) for column in zip(*given, strict=True)] if given else [[] for _ in range(6)]
        left_out: int = self._connection.function("add_statistics", request, *columns)
        return left_out

    def statistics(
        self, span: int, since: float, most: int, *, topic: str | None = None, after: StatisticsRow | None = None
    ) -> list[StatisticsRow]:
        sql = _LISTED + ("at >= %s" if after is None else "(at, topic, job) > (%s, %s, %s)")
        sql += "" if topic is None else " AND topic = %s"
        place: tuple[Any, ...] = (since,) if after is None else after.place
        parameters = [span, *place, *([] if topic is None else [topic]), most]
        found = self._connection.rows(self._connection.sql(f"{sql} ORDER BY at, topic, job LIMIT %s"), parameters)
        return [StatisticsRow(at, topic, job, tuple(sums), tuple(peaks), span) for at, topic, job, sums, peaks in found]

    def _keep_statistics(self, limit: int) -> bool:
        """Fold and drop old rows; return whether there may be more."""
        more: bool = self._connection.function("keep_statistics", min(limit, FOLDED_AT_ONCE), float(REMEMBERED))
        return more


def _array(numbers: Sequence[int]) -> str:
    return f"{{{','.join(map(str, numbers))}}}"
