"""The connection as the core sees it; each method a transaction over the modules beside this one."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from ...errors import BackendError, BackendUnavailable
from ...failpoints import failpoint
from ..base import FEATURES, Answer, BackendOptions, Counts, Delivery, Heartbeat, Housekept, Outgoing, Settlement
from . import endings, housekeeping, lines, owners
from .connection import Connection
from .operations import SqliteOperations

LONGEST_WAIT = 1.0
"""A waiting worker looks at the tables this often, in case that a byte was lost with its reader, seconds."""

_LOOK = """
SELECT EXISTS (SELECT 1 FROM ready WHERE topic = ?1), (SELECT min(due) FROM job WHERE topic = ?1 AND due IS NOT NULL)
 WHERE NOT EXISTS (SELECT 1 FROM paused WHERE topic = ?1)
"""
_COUNT = """
SELECT count(*), min(since),
       (SELECT count(*) FROM job WHERE topic = :topic AND due <= :now),
       (SELECT min(due) FROM job WHERE topic = :topic AND due <= :now),
       (SELECT count(*) FROM job WHERE topic = :topic AND due > :now),
       (SELECT count(*) FROM job WHERE topic = :topic AND dead_at IS NOT NULL)
  FROM ready WHERE topic = :topic
"""


class SqliteBackend(SqliteOperations):
    """One connection to a queue file."""

    name = "sqlite"
    features = FEATURES

    def __init__(self, url: str, options: BackendOptions) -> None:
        path, durability = _parse(url, options.base_dir)
        super().__init__(Connection(path, options, durability=durability))
        self._owner = ""

    def open(self, owner: str | None) -> None:
        self._connection.open()
        self._owner = owner or ""
        if owner:
            try:
                with self._connection.transaction(durable=False) as tx:
                    owners.register(tx, owner)
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        if self._owner and self._connection.is_open:
            with contextlib.suppress(BackendError), self._connection.transaction(durable=False) as tx:
                owners.release(tx, self._owner, (), b"", crash=False)
        self._owner = ""
        self._connection.close()

    def push(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        failpoint("push.before_commit")
        with self._connection.transaction() as tx:
            answered = tx.first("SELECT conflicts FROM push_request WHERE request = ?", (request,))
            if answered is not None:
                return dict(json.loads(answered))
            conflicts = lines.add(tx, messages)
            answer = json.dumps(conflicts) if conflicts else "{}"
            tx.db.execute("INSERT INTO push_request (request, at, conflicts) VALUES (?, ?, ?)", (request, tx.now, answer))
        failpoint("push.after_commit")
        return conflicts

    def reserve(self, topics: Sequence[str], limit: int, request: str) -> list[Delivery]:
        failpoint("reserve.before_commit")
        with self._connection.transaction(durable=False) as tx:
            if owners.renew(tx, self._owner, request):
                deliveries = lines.deliveries(tx, self._owner, request)
            else:
                deliveries = lines.take(tx, self._owner, topics, limit, request)
        failpoint("reserve.after_commit")
        return deliveries

    def wait(self, topics: Sequence[str], timeout: float) -> bool:
        wake_up = self._connection.wake_up
        if wake_up is None:
            raise BackendUnavailable(f"{self._connection.path} is not open")
        if not topics:
            wake_up.wait(timeout, bell_only=True)
            return False
        deadline = time.monotonic() + timeout
        with self._connection.translated():
            wake_up.listen(topics)
        while True:
            ready, due = self._look(topics)
            if ready or due <= 0:
                return True
            left = min(deadline - time.monotonic(), LONGEST_WAIT, due)
            poked, interrupted = wake_up.wait(left)
            if poked:
                return True
            if interrupted or time.monotonic() >= deadline:
                return False

    def _look(self, topics: Sequence[str]) -> tuple[bool, float]:
        """Whether a topic that is not paused has ready jobs, and in how many seconds the next scheduled one is due."""
        next_due = float("inf")
        with self._connection.reading() as db:
            for topic in topics:
                row = db.execute(_LOOK, (topic,)).fetchone()
                if row is None:
                    continue
                if row[0]:
                    return True, 0.0
                if row[1] is not None:
                    next_due = min(row[1], next_due)
        return False, next_due - self._connection.options.now()

    def interrupt(self) -> None:
        wake_up = self._connection.wake_up
        if wake_up is not None:
            wake_up.interrupt()

    def settle(self, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        failpoint("settle.before_commit")
        with self._connection.transaction(durable=False) as tx:
            answers = owners.last_answers(tx, self._owner, request, len(settlements))
            if answers is None:
                answers = endings.settle(tx, self._owner, settlements)
                owners.remember(tx, self._owner, request, answers)
        failpoint("settle.after_commit")
        return answers

    def heartbeat(self) -> Heartbeat:
        failpoint("heartbeat.before_commit")
        with self._connection.transaction(durable=False) as tx:
            heartbeat = owners.heartbeat(tx, self._owner)
        failpoint("heartbeat.after_commit")
        return heartbeat

    def release_owner(self, owner: str, started: Collection[str], report: bytes) -> int:
        with self._connection.transaction(durable=False) as tx:
            return owners.release(tx, owner, started, report, crash=len(started) == 1)

    def housekeep(self, limit: int) -> Housekept:
        with self._connection.transaction(durable=False) as tx:
            kept = housekeeping.housekeep(tx, limit)
        with self._connection.reading() as db:
            housekeeping.give_back_space(db)
        return kept

    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        now = self._connection.options.now()
        with self._connection.reading() as db:
            reserved = dict(db.execute("SELECT topic, count(*) FROM reserved JOIN job USING (seq) GROUP BY topic").fetchall())
            found = {}
            for topic in topics:
                ready, since, due, due_since, later, dead = db.execute(_COUNT, {"topic": topic, "now": now}).fetchone()
                oldest = min((time for time in (since, due_since) if time is not None), default=None)
                age = None if oldest is None else max(0.0, now - oldest)
                found[topic] = Counts(ready + due, later, reserved.get(topic, 0), dead, age)
            return found


def _parse(url: str, base_dir: Path) -> tuple[Path, str]:
    """File and durability of sqlite:///relative, sqlite:////absolute?durability=process."""
    rest, _, query = url.partition("://")[2].partition("?")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    durability = parameters.pop("durability", "power")
    if not rest.startswith("/") or len(rest) < 2:
        raise BackendError(f"{url}: expected sqlite:///file.db (relative) or sqlite:////directory/file.db (absolute)")
    if durability not in ("power", "process") or parameters:
        raise BackendError(f'{url}: the only parameter is durability, "power" (the default) or "process"')
    return base_dir / unquote(rest[1:]), durability
