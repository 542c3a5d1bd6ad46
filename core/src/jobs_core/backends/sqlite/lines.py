"""Lines: the ready jobs that have limits, or a key in a fair topic. See `backends/limits.py` for the rules.

The row of a line has its head and the turn of its key in it, so that the best open line, and the best line filed under a
limit, are each the first entry of an index. The lines that began while their topic was fair are ranked by turn, the others
by age. If a limit has room, and lines of a topic and of one of these kinds are filed under it, then an open line of this
topic and kind with this limit is at least as good as they are. Therefore the best open line is the best line that can be
served. `_advance` restores this when a limit gets room, and when such an open line is served, removed, or filed elsewhere.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from ..limits import KEY_LIMIT, Limit, Lines, key_limit
from . import limits
from .connection import Transaction

Place: TypeAlias = tuple[int, float, int]
"""Rank, time at which it became ready, and sequence number of a job: its place by age."""

Kind: TypeAlias = tuple[str, int, int, str, str]
"""What the jobs of a line have in common: topic, whether the line is fair, rank, key, and limits."""

COLUMNS: Final = "id, topic, fair, rank, key, limits, size, bounded, filed_under, turn, head_rank, head_since, head_seq"
BY_AGE: Final = "ORDER BY head_rank, head_since, head_seq LIMIT 1"
BY_TURN: Final = "ORDER BY head_rank, turn, head_since, head_seq LIMIT 1"
_LINE = f"SELECT {COLUMNS} FROM line"
_OF_KEY = "topic = ? AND fair = 1 AND rank = ? AND key = ?"
_COUNT = "UPDATE topic_lines SET ready = ready + ?, limited = limited + ? WHERE topic = ?"
_ALL_OF = "\n"
"""In `opening`, `name + _ALL_OF + last` stands for the values of a limit after `last`; an empty name, for all limits."""

_BEYOND: Final = "\U0010ffff"


class Line(NamedTuple):
    id: int
    topic: str
    fair: int
    rank: int
    key: str
    limits: str
    size: int
    bounded: int
    filed_under: str | None
    turn: int
    head_rank: int
    head_since: float
    head_seq: int

    @property
    def head(self) -> Place:
        return self.head_rank, self.head_since, self.head_seq

    def counted(self, *, fair: bool) -> list[str]:
        """Return the limits in which a job of this line counts; `fair` if the topic is fair now."""
        named: list[str] = json.loads(self.limits)
        return [*named, key_limit(self.topic, self.key)] if fair else named


# -- jobs --------------------------------------------------------------------------------------------


def line_up(tx: Transaction, seqs: Sequence[int]) -> None:
    """Make jobs ready that are not scheduled: in the plain line, or in the others."""
    plain = tx.db.execute(
        "INSERT INTO ready SELECT topic, rank, coalesce(ready_at, pushed_at), seq FROM job "
        "WHERE seq IN (SELECT value FROM json_each(?)) AND key IS NULL AND coalesce(limits, '[]') = '[]'",
        (json.dumps(seqs),),
    ).rowcount
    if plain < len(seqs):
        enter(tx, seqs)


def enter(tx: Transaction, seqs: Sequence[int]) -> None:
    """Put ready jobs with limits or a key into their lines; those without limits whose topic is not fair are plain."""
    sql = (
        "SELECT topic, rank, coalesce(ready_at, pushed_at), seq, coalesce(key, ''), coalesce(limits, '[]') FROM job "
        "WHERE seq IN (SELECT value FROM json_each(?)) AND due IS NULL "
        "AND (key IS NOT NULL OR coalesce(limits, '[]') <> '[]')"
    )
    plain: list[tuple[str, int, float, int]] = []
    lines: dict[Kind, list[Place]] = {}
    fair: dict[str, bool] = {}
    for topic, rank, since, seq, key, named in tx.db.execute(sql, (json.dumps(seqs),)).fetchall():
        if topic not in fair:
            fair[topic] = limits.rules_of(tx.db, topic).fair
        if named == "[]" and not (key and fair[topic]):
            plain.append((topic, rank, since, seq))
        else:
            kind = (topic, 1, rank, key, named) if fair[topic] else (topic, 0, 0, "", named)
            lines.setdefault(kind, []).append((rank, since, seq))
    tx.db.executemany("INSERT INTO ready VALUES (?, ?, ?, ?)", plain)
    if lines:
        tx.exclude_older_releases()
        topics = {(topic,) for topic, *_ in lines}
        tx.db.executemany("INSERT INTO topic_lines (topic) VALUES (?) ON CONFLICT DO NOTHING", topics)
    ready: Counter[str] = Counter()
    lined: list[tuple[int, int, int, float]] = []
    for kind, places in lines.items():
        line = _add(tx, kind, places, fair=fair[kind[0]])
        lined += [(seq, line.id, rank, since) for rank, since, seq in places]
        if line.filed_under is None:
            ready[line.topic] += len(places)
    tx.db.executemany("INSERT INTO lined (seq, line, rank, since) VALUES (?, ?, ?, ?)", lined)
    tx.db.executemany(_COUNT, [(count, 0, topic) for topic, count in ready.items()])


def _add(tx: Transaction, kind: Kind, places: Sequence[Place], *, fair: bool) -> Line:
    """Make room for jobs in their line, which is made if there is none; count them if it is closed, and return the line."""
    first = min(places)
    sql = f"{_LINE} WHERE topic = ? AND fair = ? AND rank = ? AND key = ? AND limits = ?"
    row = tx.db.execute(sql, kind).fetchone()
    if row is None:
        line = _begin(tx, kind, first, len(places), fair=fair)
    else:
        line = Line(*row)
        tx.db.execute("UPDATE line SET size = size + ? WHERE id = ?", (len(places), line.id))
    if line.filed_under is not None:
        _count(tx, line, len(places))
    if first < line.head:
        tx.db.execute("UPDATE line SET head_rank = ?, head_since = ?, head_seq = ? WHERE id = ?", (*first, line.id))
        _open_if_room(tx, line)
    return line


def _begin(tx: Transaction, kind: Kind, head: Place, size: int, *, fair: bool) -> Line:
    """Make a line, which is filed if one of its limits has no room."""
    topic, of_turn, rank, key, named = kind
    turn = _turn_of(tx, topic, rank, key) if of_turn else 0
    bounded = int(limits.is_bounded(tx, json.loads(named)))
    line = Line(0, *kind, size, bounded, None, turn, *head)
    blocker = limits.first_without_room(tx, line.counted(fair=fair))
    if blocker is not None:
        limit, room_at = blocker
        line = line._replace(filed_under=limit)
        tx.db.execute("INSERT INTO limit_state (name) VALUES (?) ON CONFLICT DO NOTHING", (limit,))
        _look_later(tx, topic, limit, room_at)
    sql = f"INSERT INTO line ({COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    return line._replace(id=tx.db.execute(sql, line[1:]).lastrowid or 0)


def leave(tx: Transaction, seqs: str) -> None:
    """Take jobs, given as a JSON array of sequence numbers, out of their lines."""
    sql = "SELECT seq, line FROM lined WHERE seq IN (SELECT value FROM json_each(?))"
    for seq, line in tx.db.execute(sql, (seqs,)).fetchall():
        remove(tx, Line(*tx.db.execute(f"{_LINE} WHERE id = ?", (line,)).fetchone()), seq)


def remove(tx: Transaction, line: Line, seq: int) -> None:
    """Take a job out of its line; a line without jobs is deleted."""
    tx.db.execute("DELETE FROM lined WHERE seq = ?", (seq,))
    _count(tx, line, -1)
    if line.size == 1:
        tx.db.execute("DELETE FROM line WHERE id = ?", (line.id,))
    elif seq != line.head_seq:
        tx.db.execute("UPDATE line SET size = size - 1 WHERE id = ?", (line.id,))
        return
    else:
        sql = "SELECT rank, since, seq FROM lined WHERE line = ? ORDER BY rank, since, seq LIMIT 1"
        head = tx.db.execute(sql, (line.id,)).fetchone()
        sql = "UPDATE line SET size = size - 1, head_rank = ?, head_since = ?, head_seq = ? WHERE id = ?"
        tx.db.execute(sql, (*head, line.id))
    if line.filed_under is None:
        _advance_all(tx, line)


def _count(tx: Transaction, line: Line, by: int) -> None:
    """Count jobs that enter a line or leave it."""
    if line.filed_under is None:
        tx.db.execute(_COUNT, (by, 0, line.topic))
    else:
        tx.db.execute(_COUNT, (0, by, line.topic))
        tx.db.execute("UPDATE limit_state SET waiting = waiting + ? WHERE name = ?", (by, line.filed_under))


# -- open and closed lines ---------------------------------------------------------------------------


def close_line(tx: Transaction, line: Line, limit: str, room_at: float | None) -> None:
    """File an open line under a limit without room."""
    tx.db.execute("UPDATE line SET filed_under = ? WHERE id = ?", (limit, line.id))
    tx.db.execute(_COUNT, (-line.size, line.size, line.topic))
    sql = "INSERT INTO limit_state (name, waiting) VALUES (?, ?) ON CONFLICT DO UPDATE SET waiting = waiting + excluded.waiting"
    tx.db.execute(sql, (limit, line.size))
    _look_later(tx, line.topic, limit, room_at)
    _advance_all(tx, line, except_for=limit)


def _open(tx: Transaction, line: Line) -> None:
    """Open a closed line, and wake a worker for it."""
    tx.db.execute("UPDATE line SET filed_under = NULL WHERE id = ?", (line.id,))
    tx.db.execute(_COUNT, (line.size, -line.size, line.topic))
    tx.db.execute("UPDATE limit_state SET waiting = waiting - ? WHERE name = ?", (line.size, line.filed_under))
    tx.wake.add(line.topic)


def _open_if_room(tx: Transaction, line: Line) -> None:
    """Open a closed line that has come before others, if the limit under which it is filed has room."""
    if line.filed_under is not None and limits.room_at(tx, line.filed_under) == tx.now:
        (row,) = tx.db.execute(f"{_LINE} WHERE id = ?", (line.id,)).fetchall()
        _open(tx, Line(*row))


def _advance(tx: Transaction, topic: str, limit: str) -> None:
    """Open the best lines of a topic that are filed under a limit, if it has room; otherwise note when to look again."""
    if not _waits(tx, limit):
        return
    of_key = limits.rules_of(tx.db, topic).fair
    filed = f"{_LINE} WHERE filed_under = ? AND topic = ?"
    best = [
        Line(*row)
        for fair, order in ((0, BY_AGE), (1, BY_TURN if of_key else BY_AGE))
        for row in tx.db.execute(f"{filed} AND fair = {fair} {order}", (limit, topic))
    ]
    if not best:
        return
    at = limits.room_at(tx, limit)
    if at == tx.now:
        for line in best:
            _open(tx, line)
    else:
        _look_later(tx, topic, limit, at)


def _advance_all(tx: Transaction, line: Line, except_for: str = "") -> None:
    """Advance the limits of a line that does not stand where it did among the open lines."""
    for limit in line.counted(fair=True):
        if limit != except_for:
            _advance(tx, line.topic, limit)


def _waits(tx: Transaction, limit: str) -> bool:
    return bool(tx.first("SELECT waiting FROM limit_state WHERE name = ?", (limit,)))


def _look_later(tx: Transaction, topic: str, limit: str, at: float | None) -> None:
    """Note when the rate or the closure of a limit ends; None if a slot has to be freed first."""
    sql = "INSERT INTO opening VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET at = excluded.at WHERE at <> excluded.at"
    if at is not None and tx.db.execute(sql, (topic, limit, at)).rowcount:
        tx.wake.add(topic)  # a waiting worker has to know when to look: this one may be busy then


def look_again(tx: Transaction, topic: str, most: int) -> bool:
    """Look at limits whose rate or closure has ended, or that were defined anew; return whether there are more than `most`."""
    sql = (
        "DELETE FROM opening WHERE topic = ? AND name IN "
        "(SELECT name FROM opening WHERE topic = ? AND at <= ? ORDER BY at LIMIT ?) RETURNING name"
    )
    names = [name for (name,) in tx.db.execute(sql, (topic, topic, tx.now, most)).fetchall()]
    left = most - len(names)
    for name in names:
        if _ALL_OF in name:
            left = _look_at_all(tx, topic, name, max(1, left))
        else:
            _advance(tx, topic, name)
    return left <= 0


def _look_at_all(tx: Transaction, topic: str, name: str, most: int) -> int:
    """Look at up to `most` values of a limit that lines of a topic are filed under, after one; return how many may follow.

    A definition may concern any number of values, so each step leaves a note for the next one.
    """
    name, _, last = name.partition(_ALL_OF)
    sql = (
        "SELECT filed_under FROM line WHERE filed_under > :last AND filed_under < :end AND +topic = :topic "  # +: not by topic
        "ORDER BY filed_under LIMIT 1"
    )
    end = f"{name};" if name else _BEYOND
    while (limit := tx.first(sql, {"last": last, "end": end, "topic": topic})) is not None:
        if not most:
            _look_later(tx, topic, f"{name}{_ALL_OF}{last}", tx.now)
            break
        _advance(tx, topic, limit)
        last, most = limit, most - 1
    return most


# -- changes of limits -------------------------------------------------------------------------------


def free(tx: Transaction, held: Iterable[str | None], *, tokens: bool = False) -> None:
    """Free the slots of reservations that ended (with `tokens`, of unstarted jobs), and open lines that wait for them."""
    for limit in limits.give_back(tx, held, tokens=tokens):
        _reopen(tx, limit)


def recount(tx: Transaction) -> None:
    """Count the slots of all limits anew, and open lines that wait for those that were never freed."""
    for limit in limits.recount(tx):
        _reopen(tx, limit)


def close(tx: Transaction, closures: Iterable[tuple[str, float]]) -> None:
    """Close limits, each for a number of seconds."""
    for limit in limits.close(tx, closures):
        _reopen(tx, limit)  # notes the new time for lines that are filed under it


def _reopen(tx: Transaction, limit: str) -> None:
    """Open the best lines that are filed under a limit, in each topic, if it has room."""
    if limit.startswith(KEY_LIMIT) and limit.endswith(":"):
        tx.wake.add(limit[len(KEY_LIMIT) : -1])  # plain jobs, which are never filed, count in it
    if not _waits(tx, limit):
        limits.forget(tx, limit)
        return
    sql = "SELECT topic FROM line WHERE filed_under = ? AND topic > ? ORDER BY topic LIMIT 1"
    topic = tx.first(sql, (limit, ""))
    while topic is not None:
        _advance(tx, topic, limit)
        topic = tx.first(sql, (limit, topic))


def define(tx: Transaction, named: Mapping[str, Limit], topics: Mapping[str, Lines]) -> None:
    """Store definitions of limits and rules of topics, and wake workers for lines that may have been opened by them."""
    for name in limits.define(tx, named):
        _changed(tx, name)
    for topic, rules in topics.items():
        if limits.rules_of(tx.db, topic) != rules:
            sql = (
                "INSERT INTO topic_lines (topic, fair, max_per_key) VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET fair = excluded.fair, max_per_key = excluded.max_per_key"
            )
            tx.db.execute(sql, (topic, rules.fair, rules.max_per_key))
            tx.definitions = None
            _look_later(tx, topic, _ALL_OF, tx.now)
            tx.wake.add(topic)


def override(tx: Transaction, limit: str, definition: Limit | None) -> None:
    """Override the definition of a limit or of one value; None resets it."""
    limits.override(tx, limit, definition)
    _changed(tx, limit)


def _changed(tx: Transaction, name: str) -> None:
    """Look at the lines of a limit that has another definition: at most 1,000 now, the others when they are served."""
    for (topic,) in tx.db.execute("SELECT topic FROM topic_lines WHERE limited > 0").fetchall():
        _look_later(tx, topic, name, tx.now)
        _look_later(tx, topic, f"{name}{_ALL_OF}{name}:", tx.now)
    sql = "SELECT id, bounded, limits FROM line WHERE instr(limits, ?) LIMIT 1000"
    for line, bounded, named in tx.db.execute(sql, (json.dumps(name)[:-1],)).fetchall():
        if bounded != limits.is_bounded(tx, json.loads(named)):
            flip_bounded(tx, line)


def flip_bounded(tx: Transaction, line: int) -> None:
    """Note that a concurrency is defined now for a limit of a line, or is no longer."""
    tx.db.execute("UPDATE line SET bounded = 1 - bounded WHERE id = ?", (line,))


# -- turns -------------------------------------------------------------------------------------------


def _turn_of(tx: Transaction, topic: str, rank: int, key: str) -> int:
    """Return the turn of a key for a new line of it; a key without lines goes to the end."""
    if not key:
        return int(tx.first("SELECT turn FROM keyless_turn WHERE topic = ? AND rank = ?", (topic, rank)) or 0)
    turn = tx.first(f"SELECT turn FROM line WHERE {_OF_KEY}", (topic, rank, key))
    return next_turn(tx, topic) if turn is None else int(turn)


def next_turn(tx: Transaction, topic: str) -> int:
    return int(tx.first("UPDATE topic_lines SET turn = turn + 1 WHERE topic = ? RETURNING turn", (topic,)))


def set_turn(tx: Transaction, topic: str, rank: int, key: str, turn: int) -> None:
    """Set the turn of a key, which each of its lines repeats: a step costs as much as the key has lines of this rank."""
    if not key:
        tx.db.execute("INSERT OR REPLACE INTO keyless_turn VALUES (?, ?, ?)", (topic, rank, turn))
    tx.db.execute(f"UPDATE line SET turn = ? WHERE {_OF_KEY}", (turn, topic, rank, key))


def pass_turn(tx: Transaction, topic: str, rank: int, key: str) -> int:
    """Put a key that was served at the end of the turn; return its new turn."""
    turn = next_turn(tx, topic)
    set_turn(tx, topic, rank, key, turn)
    sql = f"{_LINE} WHERE {_OF_KEY} AND filed_under IS NULL AND limits <> '[]'"
    for row in tx.db.execute(sql, (topic, rank, key)).fetchall():
        _advance_all(tx, Line(*row))
    return turn


def to_front(tx: Transaction, seqs: Sequence[int]) -> None:
    """Put the keys of these ready jobs at the front of the turn, the last one first, where topics are fair."""
    sql = (
        "SELECT job.topic, job.rank, coalesce(job.key, '') FROM json_each(?) AS these JOIN job ON job.seq = these.value "
        "JOIN topic_lines USING (topic) WHERE fair ORDER BY these.key"
    )
    rows = tx.db.execute(sql, (json.dumps(seqs),)).fetchall()
    fronts = {}
    for topic, count in Counter(topic for topic, *_ in rows).items():
        front = tx.first("UPDATE topic_lines SET front = front - ? WHERE topic = ? RETURNING front", (count, topic))
        fronts[topic] = int(front) + count
    for topic, rank, key in rows:
        fronts[topic] -= 1
        set_turn(tx, topic, rank, key, fronts[topic])
        for row in tx.db.execute(f"{_LINE} WHERE {_OF_KEY} AND filed_under IS NOT NULL", (topic, rank, key)).fetchall():
            _open_if_room(tx, Line(*row))
