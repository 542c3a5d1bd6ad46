"""Limits and fair topics: definitions, overrides, and what they look like now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from jobs_core.backends.base import Backend
from jobs_core.backends.limits import Limit, LimitState, Lines, tat_under

from .connection import ServerConnection
from .rows import restored

_LINES = """
SELECT key, sum(size)::bigint FROM (
    SELECT key, size FROM {s}.line WHERE topic = %(topic)s
    UNION ALL SELECT coalesce(j.key, ''), 1 FROM {s}.entering AS e JOIN {s}.job AS j USING (seq) WHERE e.topic = %(topic)s
    UNION ALL SELECT '', count(*) FROM {s}.ready WHERE topic = %(topic)s HAVING count(*) > 0
) AS each GROUP BY key ORDER BY 2 DESC, 1 LIMIT %(most)s
"""


class PostgresLimitCalls(Backend):
    """The calls about limits and fair topics, a base class of `PostgresBackend`."""

    _connection: ServerConnection

    def limits(self, most: int, names: Sequence[str] = ()) -> list[LimitState]:
        rows = self._connection.rows(self._connection.call("limit_values", 1), (list(names),))
        found = []
        for name, used, waiting, concurrency, every, burst, overridden, defined, tat, closed_until, now in rows:
            definition = None if burst is None else Limit(concurrency, every, burst)
            if not (used or waiting or tat > now or closed_until > now or overridden or defined):
                continue
            opens_at = closed_until
            if definition is not None and every is not None:
                opens_at = max(opens_at, tat_under(definition, tat, now) - (burst - 1) * every)
            opens_in = opens_at - now if opens_at > now else None
            closed_for = max(0.0, closed_until - now)
            found.append(LimitState(restored(name), used, waiting, definition, overridden, opens_in, closed_for))
        return sorted(found, key=lambda state: (-state.waiting, state.limit))[:most]

    def override_limit(self, limit: str, definition: Limit | None) -> None:
        numbers = (None, None, None) if definition is None else _numbers(definition)
        self._connection.function("override_limit", limit, *numbers)

    def lines(self, topic: str, most: int) -> list[tuple[str, int]]:
        rows = self._connection.rows(self._connection.sql(_LINES), {"topic": topic, "most": most})
        return [(restored(key), count) for key, count in rows]

    def define_limits(self, limits: Mapping[str, Limit], topics: Mapping[str, Lines]) -> None:
        named = {name: _numbers(limit) for name, limit in limits.items()}
        rules = {topic: (lines.fair, lines.max_per_key) for topic, lines in topics.items()}
        self._connection.function("define_limits", _json(named), _json(rules))


def _numbers(limit: Limit) -> tuple[int | None, float | None, int]:
    return limit.concurrency, limit.interval, limit.burst


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
