"""Limits: their definitions, the one that applies to a value, and the slots and tokens that reservations hold.

The lines that wait for limits are in `lines.py`, which looks at them again when a function here has made room.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..limits import KEY_LIMIT, Limit, LimitState, Lines, name_of, tat_under
from .connection import Transaction

_DEFINITION = """
SELECT concurrency, interval, burst FROM limit_definition WHERE name = :limit AND override = 1
UNION ALL SELECT concurrency, interval, burst FROM limit_definition WHERE name = :name AND override = 1
UNION ALL SELECT concurrency, interval, burst FROM limit_definition WHERE name = :name AND override = 0 LIMIT 1
"""
_STATE = "SELECT name, used, tat, closed_until, waiting FROM limit_state"
_TAKE = """
INSERT INTO limit_state (name, used, tat) VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET used = used + 1, tat = CASE
    WHEN excluded.tat = 0 THEN tat WHEN tat > ? THEN excluded.tat ELSE max(tat + ?, excluded.tat) END
"""
"""`excluded.tat` is 0 without a rate, otherwise one interval from now; the third parameter is `_latest`."""
_IDLE = "used = 0 AND waiting = 0 AND max(tat, closed_until) <= ?"
_FORGET = f"DELETE FROM limit_state WHERE {_IDLE} AND name"
_MOST_LISTED = 10_000
VALUES = "({0} = :name OR {0} > :name || ':' AND {0} < :name || ';')"
"""A condition that a column is a limit of this name, or one of its values."""


# -- definitions -------------------------------------------------------------------------------------


def rules_of(db: sqlite3.Connection, topic: str) -> Lines:
    """Return the rules by which a topic is served."""
    row = db.execute("SELECT fair, max_per_key FROM topic_lines WHERE topic = ?", (topic,)).fetchone()
    return Lines(bool(row[0]), row[1]) if row is not None else Lines()


def definition(tx: Transaction, limit: str) -> Limit | None:
    """Return the definition that applies to a limit value, looked up once in a transaction."""
    known = tx.definitions
    if known is None:
        known = tx.definitions = {}
    if limit not in known:
        known[limit] = _find_definition(tx.db, limit)
    return known[limit]


def _find_definition(db: sqlite3.Connection, limit: str) -> Limit | None:
    """Return the definition that applies to a limit value."""
    if limit.startswith(KEY_LIMIT):
        rules = rules_of(db, limit[len(KEY_LIMIT) :].partition(":")[0])
        return Limit(rules.max_per_key) if rules.fair and rules.max_per_key is not None else None
    row = db.execute(_DEFINITION, {"limit": limit, "name": name_of(limit)}).fetchone()
    return None if row is None else Limit(*row)


def define(tx: Transaction, limits: Mapping[str, Limit]) -> list[str]:
    """Store definitions; return the names whose definition has changed."""
    sql = "SELECT name, concurrency, interval, burst FROM limit_definition WHERE override = 0"
    known = {row[0]: Limit(*row[1:]) for row in tx.db.execute(sql)}
    changed = [name for name, limit in limits.items() if known.get(name) != limit]
    for name in changed:
        _store(tx, name, limits[name], override=False)
    return changed


def override(tx: Transaction, limit: str, definition: Limit | None) -> None:
    """Override the definition of a limit or of one value; None resets it, and ends closures by jobs."""
    if definition is None:
        tx.db.execute("DELETE FROM limit_definition WHERE name = ? AND override = 1", (limit,))
        tx.definitions = None
        of_limit = "name = :name" if ":" in limit else VALUES.format("name")
        sql = f"UPDATE limit_state SET closed_until = 0 WHERE closed_until > :now AND {of_limit}"
        tx.db.execute(sql, {"name": limit, "now": tx.now})
    else:
        _store(tx, limit, definition, override=True)


def _store(tx: Transaction, name: str, limit: Limit, *, override: bool) -> None:
    row = (name, int(override), limit.concurrency, limit.interval, limit.burst)
    tx.db.execute("INSERT OR REPLACE INTO limit_definition VALUES (?, ?, ?, ?, ?)", row)
    tx.definitions = None


def is_bounded(tx: Transaction, limits: Iterable[str]) -> bool:
    """Return whether a concurrency is defined for one of these limits."""
    return any((rules := definition(tx, limit)) is not None and rules.concurrency is not None for limit in limits)


# -- room --------------------------------------------------------------------------------------------


def room_at(tx: Transaction, limit: str) -> float | None:
    """Return when a limit has room: now, at a later time, or None if a slot has to be freed first."""
    rules = definition(tx, limit)
    if rules is None and limit.startswith(KEY_LIMIT):
        return tx.now
    row = tx.db.execute(f"{_STATE} WHERE name = ?", (limit,)).fetchone() or (limit, 0, 0.0, 0.0, 0)
    if rules is not None and rules.concurrency is not None and row[1] >= rules.concurrency:
        return None
    return max(tx.now, _opens_at(rules, row, tx.now))


def _opens_at(rules: Limit | None, row: tuple[Any, ...], now: float) -> float:
    """Return when its rate and its closure allow the next reservation."""
    _, _, tat, closed_until, _ = row
    rate = 0.0
    if rules is not None and rules.interval is not None:
        rate = tat_under(rules, tat, now) - (rules.burst - 1) * rules.interval
    return float(max(rate, closed_until))


def first_without_room(tx: Transaction, limits: Iterable[str]) -> tuple[str, float | None] | None:
    """Return the first of these limits without room, with the time from which it has some (see `room_at`)."""
    for limit in limits:
        at = room_at(tx, limit)
        if at is None or at > tx.now:
            return limit, at
    return None


def prices(tx: Transaction, limits: Iterable[str]) -> dict[str, float]:
    """Return what a reservation takes from each of these limits besides a slot: the interval of its rate, or 0."""
    return {limit: (rules.interval or 0.0) if (rules := definition(tx, limit)) is not None else 0.0 for limit in limits}


def take(tx: Transaction, taken: Mapping[str, float]) -> None:
    """Take a slot of each limit, and a token of each rate."""
    rows = [(limit, tx.now + interval if interval else 0.0, _latest(tx, limit), interval) for limit, interval in taken.items()]
    tx.db.executemany(_TAKE, rows)


def _latest(tx: Transaction, limit: str) -> float:
    """Return the largest `tat` that is not left from a slower rate: see `tat_under`."""
    rules = definition(tx, limit)
    return tx.now if rules is None or rules.interval is None else tx.now + 2 * rules.burst * rules.interval


def give_back(tx: Transaction, held: Iterable[str | None], *, tokens: bool) -> list[str]:
    """Free the slots of reservations that have ended, and with `tokens` give their tokens back; return their limits."""
    used: Counter[str] = Counter()
    debts: dict[str, float] = defaultdict(float)
    for slots in held:
        for limit, interval in json.loads(slots).items() if slots else ():
            used[limit] += 1
            debts[limit] += interval if tokens else 0.0
    sql = "UPDATE limit_state SET used = max(0, used - ?), tat = tat - ? WHERE name = ?"
    tx.db.executemany(sql, [(count, debts[limit], limit) for limit, count in used.items()])
    return list(used)


def recount(tx: Transaction) -> list[str]:
    """Count the slots of all limits anew; return the limits of which fewer are in use."""
    held: Counter[str] = Counter()
    for (slots,) in tx.db.execute("SELECT slots FROM reserved WHERE slots IS NOT NULL"):
        held.update(json.loads(slots).keys())
    counted = tx.db.execute("SELECT name, used FROM limit_state WHERE used > 0").fetchall()
    freed = [limit for limit, used in counted if used > held[limit]]
    tx.db.executemany("UPDATE limit_state SET used = ? WHERE name = ?", [(held[limit], limit) for limit in freed])
    return freed


def close(tx: Transaction, closures: Iterable[tuple[str, float]]) -> list[str]:
    """Close limits, each for a number of seconds, unless it is closed for longer already; return them."""
    sql = (
        "INSERT INTO limit_state (name, closed_until) VALUES (?, ?) "
        "ON CONFLICT DO UPDATE SET closed_until = max(closed_until, excluded.closed_until)"
    )
    closed = [(limit, tx.now + seconds) for limit, seconds in closures]
    tx.db.executemany(sql, closed)
    return [limit for limit, _ in closed]


def forget(tx: Transaction, limit: str) -> None:
    """Forget a value without holder, line, debt and closure."""
    tx.db.execute(f"{_FORGET} = ?", (tx.now, limit))


def forget_idle(tx: Transaction, most: int) -> None:
    """Forget up to `most` such values."""
    tx.db.execute(f"{_FORGET} IN (SELECT name FROM limit_state WHERE {_IDLE} LIMIT ?)", (tx.now, tx.now, most))


# -- operators ---------------------------------------------------------------------------------------


def states(db: sqlite3.Connection, most: int, names: Sequence[str], now: float) -> list[LimitState]:
    """List limit values, those with the most waiting jobs first; the limits of keys only if they are named."""
    known: dict[str, tuple[Any, ...]] = {}
    of_name = f"{_STATE} WHERE {VALUES.format('name')} LIMIT :most"
    for name in names:
        known |= {row[0]: row for row in db.execute(of_name, {"name": name, "most": _MOST_LISTED})}
    if not names:
        sql = f"{_STATE} WHERE name NOT GLOB ? ORDER BY waiting DESC LIMIT ?"
        known = {row[0]: row for row in db.execute(sql, (f"{KEY_LIMIT}*", _MOST_LISTED))}
    defined = {limit for (limit,) in db.execute("SELECT name FROM limit_definition") if not names or name_of(limit) in names}
    known |= {limit: (limit, 0, 0.0, 0.0, 0) for limit in defined - known.keys()}
    sql = "SELECT name, override, concurrency, interval, burst FROM limit_definition"
    definitions = {(name, override): Limit(*numbers) for name, override, *numbers in db.execute(sql)}
    found = []
    for row in known.values():
        limit, used, tat, closed_until, waiting = row
        override = definitions.get((limit, 1)) or definitions.get((name_of(limit), 1))
        rules, overridden = override or definitions.get((name_of(limit), 0)), override is not None
        if limit.startswith(KEY_LIMIT):
            rules = _find_definition(db, limit)
        at = _opens_at(rules, row, now)
        if used or waiting or tat > now or closed_until > now or overridden or limit in defined:
            opens_in = at - now if at > now else None
            found.append(LimitState(limit, used, waiting, rules, overridden, opens_in, max(0.0, closed_until - now)))
    return sorted(found, key=lambda state: (-state.waiting, state.limit))[:most]
