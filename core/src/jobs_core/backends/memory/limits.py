"""The states of limits: slots, rates, closures and definitions."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from ..limits import KEY_LIMIT, Limit, LimitState, Lines, name_of, tat_under

_INF = float("inf")


class Value:
    """The state of one limit value."""

    __slots__ = ("closed", "due", "tat", "topics", "used")

    def __init__(self) -> None:
        self.used = 0
        self.tat = self.closed = 0.0
        self.due = _INF  # when topics are told that it may have room
        self.topics: set[str] = set()  # topics with lines that are filed under it

    def opens_at(self, definition: Limit | None, now: float) -> float:
        """Return when its rate and its closure allow the next reservation."""
        rate = 0.0
        if definition is not None and definition.interval is not None:
            rate = tat_under(definition, self.tat, now) - (definition.burst - 1) * definition.interval
        return max(rate, self.closed)


class Limits:
    """All limits of a store. `opens` is told each topic and limit for which there may be room."""

    def __init__(self, opens: Callable[[str, str], None]) -> None:
        self.values: dict[str, Value] = {}
        self.defined: dict[str, Limit] = {}
        self.overrides: dict[str, Limit] = {}
        self.per_key: dict[str, Limit] = {}  # topic → the limit of each of its keys
        self._opens = opens
        self._due: list[tuple[float, str]] = []
        self._debts: list[tuple[float, str]] = []  # a heap: when idle values may be forgotten

    def definition(self, limit: str) -> Limit | None:
        """Return the definition that applies to a limit value."""
        if limit.startswith(KEY_LIMIT):
            return self.per_key.get(limit[len(KEY_LIMIT) :].partition(":")[0])
        name = name_of(limit)
        return self.overrides.get(limit) or self.overrides.get(name) or self.defined.get(name)

    def bound(self, limits: Sequence[str]) -> bool:
        """Return whether a concurrency is defined for one of these limits."""
        return any((found := self.definition(limit)) is not None and found.concurrency is not None for limit in limits)

    def blocked(self, limits: Sequence[str], now: float) -> str:
        """Return the first of these limits without room; an empty string if all have room."""
        for limit in limits:
            definition, value = self.definition(limit), self.values.get(limit)
            most = definition.concurrency if definition else None
            if most is not None and (value.used if value else 0) >= most:
                return limit
            if value and value.opens_at(definition, now) > now:
                return limit
        return ""

    def take(self, limits: Sequence[str], now: float) -> tuple[tuple[str, float], ...]:
        """Take a slot of each limit, and a token of each rate; return the tokens with what they cost."""
        tokens = []
        for limit in limits:
            value, definition = self._value(limit), self.definition(limit)
            value.used += 1
            if definition and definition.interval is not None:
                value.tat = max(tat_under(definition, value.tat, now), now) + definition.interval
                tokens.append((limit, definition.interval))
        return tuple(tokens)

    def free(self, slots: Iterable[str], tokens: Iterable[tuple[str, float]], now: float) -> None:
        """Give slots and tokens back."""
        for limit, interval in tokens:
            self._value(limit).tat -= interval
        for limit in slots:
            value = self._value(limit)
            value.used -= 1
            self._opened(limit, value, now)

    def close(self, limit: str, until: float, now: float) -> None:
        """Close a limit until a time, unless it is closed for longer already."""
        value = self._value(limit)
        value.closed = max(value.closed, until)
        self._forget(limit, value, now)

    def define(self, limits: Mapping[str, Limit], topics: Mapping[str, Lines]) -> bool:
        """Store definitions; return whether one of a limit has changed."""
        changed = any(self.defined.get(name) != limit for name, limit in limits.items())
        self.defined.update(limits)
        for topic, rules in topics.items():
            self.per_key.pop(topic, None)
            if rules.fair and rules.max_per_key is not None:
                self.per_key[topic] = Limit(concurrency=rules.max_per_key)
        return changed

    def override(self, limit: str, definition: Limit | None, now: float) -> None:
        """Override a definition; None ends the override, and the closures by jobs of this value, or of all values of a name."""
        if definition is not None:
            self.overrides[limit] = definition
            return
        self.overrides.pop(limit, None)
        for each in [limit] if ":" in limit else [each for each in self.values if name_of(each) == limit]:
            if (value := self.values.get(each)) is not None and value.closed > now:
                value.closed = 0.0
                self._opened(each, value, now)

    # -- lines and times -------------------------------------------------------------------------

    def file(self, limit: str, topic: str, now: float) -> None:
        """Note that a line of a topic waits for a limit."""
        value = self._value(limit)
        value.topics.add(topic)
        at = value.opens_at(self.definition(limit), now)
        if now < at < value.due:
            value.due = at
            heapq.heappush(self._due, (at, limit))

    def unfile(self, limit: str, topic: str) -> None:
        value = self._value(limit)
        value.topics.discard(topic)
        self._forget(limit, value, None)

    def next_due(self) -> float:
        """Return when the next rate or closure ends for which a line waits."""
        while self._due:
            at, limit = self._due[0]
            value = self.values.get(limit)
            if value is not None and value.topics and value.due == at:
                return at
            heapq.heappop(self._due)
            if value is not None and value.due == at:
                value.due = _INF
        return _INF

    def open_due(self, now: float) -> None:
        """Look at the limits whose rate or closure has ended."""
        while self.next_due() <= now:
            _, limit = heapq.heappop(self._due)
            value = self.values[limit]
            value.due = _INF
            self._opened(limit, value, now)

    def _opened(self, limit: str, value: Value, now: float) -> None:
        for topic in value.topics:
            self._opens(topic, limit)
        self._forget(limit, value, now)

    def _value(self, limit: str) -> Value:
        value = self.values.get(limit)
        if value is None:
            value = self.values[limit] = Value()
        return value

    def _forget(self, limit: str, value: Value, now: float | None) -> None:
        """Forget a value without holder, line and debt, or once its debt has ended."""
        if value.used or value.topics:
            return
        debt = max(value.tat, value.closed)
        if debt <= 0 or (now is not None and debt <= now):
            self.values.pop(limit, None)
        else:
            heapq.heappush(self._debts, (debt, limit))

    def forget_idle(self, now: float) -> None:
        """Forget values without holder, line and debt."""
        while self._debts and self._debts[0][0] <= now:
            _, limit = heapq.heappop(self._debts)
            if (value := self.values.get(limit)) is not None:
                self._forget(limit, value, now)

    # -- operators -------------------------------------------------------------------------------

    def states(self, names: Collection[str], waiting: Callable[[str], int], now: float) -> Iterator[LimitState]:
        """Return the states of values in use, closed, in debt or overridden, and of all defined names."""
        self.forget_idle(now)
        for limit in {**self.values, **self.overrides, **self.defined}:
            if name_of(limit) not in names if names else limit.startswith(KEY_LIMIT):  # those of keys only by name
                continue
            value, definition = self.values.get(limit) or Value(), self.definition(limit)
            opens_in = value.opens_at(definition, now) - now
            yield LimitState(
                limit,
                value.used,
                waiting(limit),
                definition,
                limit in self.overrides or name_of(limit) in self.overrides,
                opens_in if opens_in > 0 else None,
                max(0.0, value.closed - now),
            )
