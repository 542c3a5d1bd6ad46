"""The backend for one server, reached directly or through sentinels."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial

from jobs_core.backend_kit import count, new_token
from jobs_core.backends.base import (
    FEATURES,
    Answer,
    BackendOptions,
    BindsKeys,
    Checkpoint,
    Counts,
    Delivery,
    Heartbeat,
    Housekept,
    Outgoing,
    Settlement,
)
from jobs_core.backends.documents import Guard, check
from jobs_core.backends.flows import Part
from jobs_core.backends.limits import Limit, Lines
from jobs_core.backends.notes import Note
from jobs_core.backends.statistics import StatisticsRow
from jobs_core.backends.statistics import check as check_statistics
from jobs_core.errors import BackendError, BackendUnavailable

from .forecast import LONGEST_LOOK, UNKNOWN, Forecast
from .inletwatch import InletWatch
from .operators import RedisOperatorCalls
from .scripts import ScriptCall
from .store import Reserved, Store, in_parts
from .transport.connection import ServerConnection, connector
from .url import Target
from .waiting import BlockingWait, Waiter

REPLICATION_TIMEOUT = 2.0
"""Seconds that a push waits for replicas; shorter than COMMAND_TIMEOUT."""


class RedisBackend(RedisOperatorCalls, BindsKeys):
    """The backend for one store on one server; the package's docstring says how it works."""

    name = "redis"
    features = FEATURES | {
        "checkpoints", "limits", "fairness", "flows", "documents", "guards", "notes", "history", "dead_groups", "amend", "move",
        "statistics",
    }  # fmt: skip

    def __init__(self, target: Target, options: BackendOptions) -> None:
        self._target = target
        self._connect = connector(target)
        self._connection = ServerConnection(self._connect, target.shown)
        self._waiting = ServerConnection(self._connect, target.shown)
        self._waiter = Waiter()
        self._store = Store(f"{{{target.prefix or options.prefix}}}", self._connection, options)
        self._owner = ""
        self._tokens: set[str] = set()  # topics whose wake token we took, and that we have not checked since
        self._forecast = UNKNOWN
        self._seen: set[str] = set()  # topics of earlier requests
        self._inlets: InletWatch | None = None
        self._keeps_house = False

    def open(self, owner: str | None) -> None:
        self._connection.connect()
        self._store.open(owner or "")
        self._owner = owner or ""
        self._forecast = UNKNOWN

    def close(self) -> None:
        inlets, self._inlets = self._inlets, None
        if inlets:
            inlets.stop()
        owner, self._owner = self._owner, ""
        if self._connection.connected:
            with contextlib.suppress(BackendError):
                self._store.count_pushed()
        if owner and self._connection.connected:
            with contextlib.suppress(BackendError):
                self._store.release(owner, (), b"", crash=False)
                self._return_tokens()
        self._waiting.disconnect()
        self._connection.disconnect()

    def push(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        if not messages:
            return {}
        conflicts = self._store.push(messages, request)
        if self._target.replicas:
            with in_parts(True):
                self._until_replicated()
        return conflicts

    def push_part(self, part: Part, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        conflicts = self._store.push_part(part, messages, request)
        if self._target.replicas:
            with in_parts(True):
                self._until_replicated()
        return conflicts

    def push_loosely(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        return self._store.push_loosely(messages, request)

    def bind(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        taken_over = self._store.bind(messages)
        if self._target.replicas:
            self._until_replicated()
        return taken_over

    def push_guarded(self, messages: Sequence[Outgoing], request: str, guard: Guard) -> Mapping[str, str] | None:
        conflicts = self._store.push_guarded(messages, request, guard)
        if self._target.replicas:
            self._until_replicated()
        return conflicts

    def put_document(
        self, kind: str, name: str, data: bytes, request: str, *, expected: int | None = None, ttl: float | None = None
    ) -> int | None:
        check(kind, name, data, ttl)
        version = self._store.put_document(kind, name, data, request, expected, ttl)
        if self._target.replicas:
            self._until_replicated()
        return version

    def delete_document(self, kind: str, name: str, request: str, *, expected: int | None = None) -> bool:
        deleted = self._store.delete_document(kind, name, request, expected)
        if self._target.replicas:
            self._until_replicated()
        return deleted

    def add_statistics(self, rows: Sequence[StatisticsRow], request: str) -> int:
        check_statistics(rows)
        return self._store.add_statistics(rows, request)

    def _until_replicated(self) -> None:
        """Wait until the requested number of replicas has the writes of this connection."""
        wanted = self._target.replicas
        reached = int(self._connection.call("WAIT", wanted, round(REPLICATION_TIMEOUT * 1000)))
        if reached < wanted:
            raise BackendUnavailable(
                f"{self._target.shown}: the push reached {count(reached, 'replica')} in {REPLICATION_TIMEOUT:g} s, but "
                f"replicas={wanted} is required"
            )

    def define_limits(self, limits: Mapping[str, Limit], topics: Mapping[str, Lines]) -> None:
        self._store.define_limits(limits, topics)

    def reserve(self, topics: Sequence[str], limit: int, request: str) -> list[Delivery]:
        reserved = self._store.reserve(self._owner, topics, limit, request, self.startable)
        return self._taken(topics, limit, reserved)

    def _taken(self, topics: Sequence[str], limit: int, reserved: Reserved) -> list[Delivery]:
        """Return the deliveries of a reserve, and remember the state that it reported."""
        deliveries, self.passed_over = reserved.deliveries, reserved.passed_over
        if len(deliveries) < limit:
            self._forecast = Forecast.now(topics, reserved.due)
            self._tokens.difference_update(topics)
        else:  # the script stopped at the limit, before the topics that follow
            self._forecast = UNKNOWN
            for topic in topics:
                self._tokens.discard(topic)
                if not deliveries or topic == deliveries[-1].topic:
                    break
        self._see(topics)
        for topic in reserved.inlets:
            self._admit(topic)
        return deliveries

    def claim(self, job_ids: Sequence[str], request: str) -> list[Delivery]:
        return self._store.claim(self._owner, job_ids, request)

    def _admit(self, topic: str) -> None:
        """Admit the messages that foreign producers have pushed. A failure does not affect the reserved jobs."""
        with contextlib.suppress(BackendError):
            self._store.admit(topic, new_token())

    def wait(self, topics: Sequence[str], timeout: float) -> bool:
        if not topics:
            self._return_tokens()
            self._waiter.interrupted(timeout)
            return False
        deadline = time.monotonic() + timeout
        while not self._waiter.interrupted():
            ready, due, inlets = self._store.look(topics)
            for topic in inlets:
                ready = self._store.admit(topic, new_token()) > 0 or ready
            if ready or due <= 0:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            woken, interrupted = self._sleep(self._blocking_wait(topics), min(left, due, LONGEST_LOOK), exact=due < left)
            if woken:
                return True
            if interrupted or (due >= left and time.monotonic() >= deadline):  # a change in the meantime would have woken us
                return False
        return False

    def _blocking_wait(self, topics: Sequence[str], then: ScriptCall | None = None) -> BlockingWait:
        keys = self._store.keys
        tokens = [keys.wake(topic) for topic in topics]
        return BlockingWait(self._waiting, tokens, keys.bell(self._owner), partial(self._store.wake_owner, self._owner), then)

    def _sleep(self, wait: BlockingWait, timeout: float, *, exact: bool) -> tuple[bool, bool]:
        """Wait for the wake tokens of topics, and keep those that arrive.

        Returns whether any arrived, and whether the wait was interrupted.
        """
        tokens, interrupted = self._waiter.wait([wait], timeout, exact=exact)
        self._tokens.update(map(self._store.keys.woken, tokens))
        return bool(tokens), interrupted

    def reserve_next(self, topics: Sequence[str], limit: int, request: str, timeout: float) -> list[Delivery]:
        """Send the reserve directly after the wait, so that the server answers both at once.

        The state that the last reserve reported remains valid, because every job that becomes ready leaves a wake token.
        Another look is needed only for scheduled jobs, and for tokens that were lost when their receiver died.
        """
        if self._waiter.interrupted():
            return []
        if timeout <= 0 or not self._forecast.calm(topics) or not self._tokens.isdisjoint(topics):
            ready, due, inlets = self._store.look(topics)
            if ready or due <= 0 or inlets:
                return self.reserve(topics, limit, request)
            self._forecast = Forecast.now(topics, due)
            self._tokens.difference_update(topics)
        return self._reserve_when_woken(topics, limit, request, timeout) if timeout > 0 else []

    def _reserve_when_woken(self, topics: Sequence[str], limit: int, request: str, timeout: float) -> list[Delivery]:
        wait = self._blocking_wait(topics, self._store.reserving(self._owner, topics, limit, request, self.startable))
        pause = min(timeout, self._forecast.calm(topics))
        self._sleep(wait, pause, exact=self._forecast.until_due() <= pause)
        reserved = self._store.reserved(self._owner, wait.answer)
        return self._taken(topics, limit, reserved)

    def _return_tokens(self) -> None:
        """Pass our wake tokens on to other workers, because this one cannot reserve jobs."""
        if self._tokens:
            self._store.return_wake_tokens(self._tokens)
            self._tokens.clear()

    def interrupt(self) -> None:
        self._waiter.interrupt()

    def settle(self, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        if not settlements:
            return []
        return self._store.settle(self._owner, settlements, request)

    def checkpoint(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._store.checkpoint(self._owner, checkpoints)

    def note(self, notes: Sequence[Note]) -> None:
        self._store.note(self._owner, notes)

    def heartbeat(self) -> Heartbeat:
        return self._store.heartbeat(self._owner)

    def release_owner(self, owner: str, started: Collection[str], report: bytes, ran: Collection[str] = ()) -> int:
        return self._store.release(owner, started, report, crash=len(started) == 1, ran=ran)

    def housekeep(self, limit: int) -> Housekept:
        kept = self._store.housekeep(limit)
        self._keeps_house = True
        self._see(())
        return kept

    def _see(self, topics: Collection[str]) -> None:
        """Watch the inlets of these topics, if this process does housekeeping.

        Before its first housekeeping, topics are only remembered; they are watched from then on.
        """
        self._seen.update(topics)
        if self._keeps_house and self._seen:
            if self._inlets is None:
                self._inlets = self._watch_inlets()
            self._inlets.watch(self._seen)

    def _watch_inlets(self) -> InletWatch:
        commands = ServerConnection(self._connect, self._target.shown)
        store = Store(self._store.keys.base, commands, self._store.options)
        return InletWatch(
            keys=lambda topic: store.keys,
            connection=lambda topic: ServerConnection(self._connect, self._target.shown),
            admit=lambda topic: store.admit(topic, new_token()),
            let_go=commands.disconnect,
        )

    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        self._see(topics)
        return super().counts(topics)
