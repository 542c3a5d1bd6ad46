"""Redis Cluster: one store per topic, each in a slot of its own, and a hub that records the owners and the topics.

Each topic's keys are tagged `{prefix:topic}`, so that each operation on the topic is one script on one node, as on a
single server. Operations on two topics in one step are not supported: `atomic_followups` and `strict_order` are not among the
features, and a unique key is unique in its topic. For the same reason, topics can be fair, with `max_per_key`, but there are no
limits, which count the jobs of several topics.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from jobs_core.backend_kit import new_token
from jobs_core.backends.base import (
    FEATURES,
    Answer,
    Backend,
    BackendOptions,
    Checkpoint,
    Counts,
    Delivery,
    Heartbeat,
    Housekept,
    JobRecord,
    Outgoing,
    Settlement,
    State,
    Token,
)
from jobs_core.backends.documents import Document, check
from jobs_core.backends.letters import DeadGroup
from jobs_core.backends.limits import Limit, Lines
from jobs_core.backends.notes import Note
from jobs_core.backends.statistics import StatisticsRow
from jobs_core.backends.statistics import check as check_statistics
from jobs_core.errors import BackendError, NotSupported

from . import advice
from .errors import Moved
from .forecast import LONGEST_LOOK
from .inletwatch import InletWatch
from .operators import followed
from .store import Store, in_parts
from .transport.connection import ServerConnection
from .transport.slots import Nodes
from .url import Target
from .waiting import BlockingWait, Waiter

T = TypeVar("T")


def _topic_of(token: Token) -> str:
    """Return the topic of a reservation."""
    return str(token).split(":", 2)[-1].partition("\n")[0]


def _counts(delivery: Delivery) -> bool:
    """Return whether a reservation may count for its key, in a topic with `max_per_key`."""
    return "\n" in str(delivery.token)


class RedisClusterBackend(Backend):
    """The backend for a cluster; the module's docstring says how it works."""

    name = "redis+cluster"
    features = (FEATURES - {"atomic_followups", "strict_order", "claim"}) | {
        "checkpoints", "fairness", "documents", "notes", "history", "dead_groups", "amend", "statistics",
    }  # fmt: skip

    def __init__(self, target: Target, options: BackendOptions) -> None:
        self._target, self._options = target, options
        self._prefix = target.prefix or options.prefix
        self._nodes = Nodes(target)
        self._waiter = Waiter()
        self._hub = Store(f"{{{self._prefix}}}", self._nodes, options)
        self._registry = f"{{{self._prefix}}}:cluster-topics"
        self._registry_of_kinds = f"{{{self._prefix}}}:cluster-kinds"
        self._registered_kinds: set[str] = set()
        self._stores: dict[str, Store] = {}
        self._waiting: dict[str, ServerConnection] = {}
        self._registered: set[str] = set()  # topics that this process knows to be registered in the hub
        self._joined: set[str] = set()  # topics in whose stores our owner is registered
        self._renewed: dict[str, float] = {}  # base of a store → when our lease there was last renewed
        self._owner = ""
        self._tokens: set[str] = set()
        self._seen: set[str] = set()
        self._inlets: InletWatch | None = None
        self._keeps_house = False

    # -- stores ----------------------------------------------------------------------------------

    def _store(self, topic: str) -> Store:
        store = self._stores.get(topic)
        if store is None:
            store = self._stores[topic] = Store(f"{{{self._prefix}:{topic}}}", self._nodes, self._options)
        return store

    def _register(self, topics: Iterable[str]) -> None:
        """Register topics in the hub, before anything is stored in them."""
        new = set(topics) - self._registered
        if new:
            self._nodes.call("SADD", self._registry, *sorted(new))
            self._registered |= new

    def _kind(self, kind: str) -> Store:
        """Return the store of the documents of a kind. No topic has a slash in its name."""
        return self._store(f"documents/{kind}")

    def _kinds(self) -> Iterator[Store]:
        for kind in self._nodes.call("SMEMBERS", self._registry_of_kinds):
            yield self._kind(kind.decode())

    def _known(self) -> list[str]:
        return sorted(topic.decode() for topic in self._nodes.call("SMEMBERS", self._registry))

    def _everywhere(self) -> Iterator[Store]:
        for topic in self._known():
            yield self._store(topic)

    def _join(self, topic: str) -> Store:
        """Return the store of a topic, after registering our owner there; raise OwnerLost if the hub no longer has it."""
        store = self._store(topic)
        if topic not in self._joined:
            self._beat(self._hub)
            self._register([topic])
            store.open(self._owner)
            self._joined.add(topic)
        return store

    def _beat(self, store: Store) -> Heartbeat:
        """Renew our lease in one store."""
        self._renewed[store.keys.base] = time.monotonic()
        return store.heartbeat(self._owner)

    def _ours(self) -> list[Store]:
        """Return the stores in which our owner is registered."""
        return [self._hub, *(self._store(topic) for topic in sorted(self._joined))]

    def _renew(self) -> None:
        """Renew the lease in all stores when a reserve renews it in one, but not more often than a heartbeat would."""
        for store in self._ours():
            if time.monotonic() - self._renewed.get(store.keys.base, 0.0) >= self._options.lease / 6:
                self._beat(store)

    # -- opening and closing ---------------------------------------------------------------------

    def open(self, owner: str | None) -> None:
        self._joined.clear()
        self._hub.open(owner or "")
        self._owner = owner or ""

    def close(self) -> None:
        inlets, self._inlets = self._inlets, None
        if inlets:
            inlets.stop()
        owner, self._owner = self._owner, ""
        if self._nodes.connected:
            with contextlib.suppress(BackendError):
                for store in self._stores.values():
                    store.count_pushed()
        if owner and self._nodes.connected:
            with contextlib.suppress(BackendError):
                for topic in self._joined:
                    self._store(topic).release(owner, (), b"", crash=False)
                self._hub.release(owner, (), b"", crash=False)
                self._return_tokens()
        for connection in self._waiting.values():
            connection.disconnect()
        self._waiting.clear()
        self._nodes.disconnect()

    # -- the path of a job ----------------------------------------------------------------------

    def push(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        by_topic: dict[str, list[Outgoing]] = {}
        for message in messages:
            by_topic.setdefault(message.topic, []).append(message)
        self._register(by_topic)
        conflicts: dict[str, str] = {}
        for n, (topic, part) in enumerate(by_topic.items()):
            with in_parts(n > 0):
                conflicts |= self._store(topic).push(part, request)
        return conflicts

    def define_limits(self, limits: Mapping[str, Limit], topics: Mapping[str, Lines]) -> None:
        if limits:
            raise NotSupported("limits", f"{self.name}://")
        if fair := [topic for topic, rules in topics.items() if rules.fair]:
            self._register(fair)
        known = set(self._known())
        for topic, rules in topics.items():
            if topic in known:
                self._store(topic).define_limits({}, {topic: rules})

    def lines(self, topic: str, most: int) -> list[tuple[str, int]]:
        return self._store(topic).deepest_keys(topic, most)

    def reserve(self, topics: Sequence[str], limit: int, request: str) -> list[Delivery]:
        self._renew()
        found: list[Delivery] = []
        startable, self.passed_over = self.startable, False
        for topic in topics:
            if len(found) >= limit:
                break
            reserved = self._join(topic).reserve(self._owner, [topic], limit - len(found), request, startable)
            found += reserved.deliveries
            self.passed_over = self.passed_over or reserved.passed_over
            if startable is not None:
                startable = max(0, startable - sum(map(_counts, reserved.deliveries)))
            self._tokens.discard(topic)
            if reserved.inlets:
                with contextlib.suppress(BackendError):
                    self._store(topic).admit(topic, new_token())
        self._see(topics)
        return found

    def wait(self, topics: Sequence[str], timeout: float) -> bool:
        if not topics:
            self._return_tokens()
            self._waiter.interrupted(timeout)
            return False
        deadline = time.monotonic() + timeout
        while not self._waiter.interrupted():
            ready, due = self._look(topics)
            if ready or due <= 0:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            by_key = {self._store(topic).keys.wake(topic): topic for topic in topics}
            waiting = [self._blocking_wait(topic) for topic in topics]
            pause = min(left, due, LONGEST_LOOK)
            try:
                tokens, interrupted = self._waiter.wait(waiting, pause, exact=due < left)
            except Moved:  # a slot moved during the wait; the next look goes to its new node
                self._nodes.forget()
                continue
            if tokens:
                self._tokens.update(by_key[key] for key in tokens)
                return True
            if interrupted or (due >= left and time.monotonic() >= deadline):  # a change in the meantime would have woken us
                return False
        return False

    def _look(self, topics: Sequence[str]) -> tuple[bool, float]:
        any_ready, first_due = False, float("inf")
        for topic in topics:
            ready, due, inlets = self._store(topic).look([topic])
            if inlets:
                ready = self._store(topic).admit(topic, new_token()) > 0 or ready
            any_ready, first_due = any_ready or ready, min(first_due, due)
        return any_ready, first_due

    def _blocking_wait(self, topic: str) -> BlockingWait:
        """Return the wait for a topic, on a connection of its own: a command can block only on keys of one slot."""
        store = self._store(topic)
        node = self._nodes.connection(store.keys.base)
        waiting = self._waiting.get(topic)
        if waiting is None or waiting.where != node.where:
            if waiting is not None:
                waiting.disconnect()
            waiting = self._waiting[topic] = self._nodes.new_connection(store.keys.base)
        return BlockingWait(
            waiting, [store.keys.wake(topic)], store.keys.bell(self._owner), partial(store.wake_owner, self._owner)
        )

    def _return_tokens(self) -> None:
        for topic in list(self._tokens):
            self._store(topic).return_wake_tokens([topic])
            self._tokens.discard(topic)

    def interrupt(self) -> None:
        self._waiter.interrupt()

    def settle(self, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        by_topic: dict[str, list[int]] = {}
        for n, settlement in enumerate(settlements):
            by_topic.setdefault(_topic_of(settlement.token), []).append(n)
        answers = [Answer.STALE] * len(settlements)
        for topic, places in by_topic.items():
            # The core has already pushed the follow-ups, because they may belong to other topics.
            part = [msgspec.structs.replace(settlements[n], followups=()) for n in places]
            for n, answer in zip(places, self._store(topic).settle(self._owner, part, request), strict=True):
                answers[n] = answer
        return answers

    def checkpoint(self, checkpoints: Sequence[Checkpoint]) -> None:
        by_topic: dict[str, list[Checkpoint]] = {}
        for each in checkpoints:
            by_topic.setdefault(_topic_of(each.token), []).append(each)
        for topic, part in by_topic.items():
            self._store(topic).checkpoint(self._owner, part)

    def note(self, notes: Sequence[Note]) -> None:
        by_topic: dict[str, list[Note]] = {}
        for each in notes:
            by_topic.setdefault(_topic_of(each.token), []).append(each)
        for topic, part in by_topic.items():
            self._store(topic).note(self._owner, part)

    def heartbeat(self) -> Heartbeat:
        told = [self._beat(store) for store in self._ours()]
        return Heartbeat(
            cancelled=tuple(job_id for each in told for job_id in each.cancelled),
            forced=tuple(job_id for each in told for job_id in each.forced),
        )

    def release_owner(self, owner: str, started: Collection[str], report: bytes, ran: Collection[str] = ()) -> int:
        crash = len(started) == 1
        count = sum(store.release(owner, started, report, crash=crash, ran=ran) for store in self._everywhere())
        self._hub.release(owner, (), b"", crash=False)
        return count

    def housekeep(self, limit: int) -> Housekept:
        rounds = [store.housekeep(limit) for store in (self._hub, *self._everywhere(), *self._kinds())]
        self._keeps_house = True
        self._see(())
        return Housekept(
            sum(kept.readied for kept in rounds),
            rounds[0].owners_released,
            sum(kept.dropped for kept in rounds),
            more=any(kept.more for kept in rounds),
        )

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
        nodes = Nodes(self._target)

        def store(topic: str) -> Store:
            return Store(f"{{{self._prefix}:{topic}}}", nodes, self._options)

        return InletWatch(
            keys=lambda topic: store(topic).keys,
            connection=lambda topic: nodes.new_connection(store(topic).keys.base),
            admit=lambda topic: store(topic).admit(topic, new_token()),
            let_go=nodes.disconnect,
        )

    # -- operators -------------------------------------------------------------------------------

    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        self._see(topics)
        return {topic: self._store(topic).counts([topic])[topic] for topic in topics}

    def get(self, job_id: str) -> JobRecord | None:
        return next((record for store in self._everywhere() if (record := store.get(job_id))), None)

    def browse(self, topic: str, state: State, limit: int, offset: int = 0) -> list[JobRecord]:
        return self._store(topic).browse(topic, state, limit, offset)

    def find_ids(self, prefix: str, limit: int) -> list[str]:
        found = super().find_ids(prefix, limit)
        for store in self._everywhere():
            found += store.find_done(prefix, limit - len(found))
        return found

    def topics(self) -> list[str]:
        return sorted(topic for store in self._everywhere() for topic in store.topics())

    def dead_groups(self, topics: Sequence[str], most: int) -> list[DeadGroup]:
        return [group for topic in topics for group in self._store(topic).dead_groups([topic], most)]

    def dead_in_group(self, topic: str, group: str, limit: int, offset: int = 0) -> list[JobRecord]:
        return self._store(topic).dead_in_group(topic, group, limit, offset)

    def amend(self, job_id: str, was: bytes, payload: bytes, topic: str = "") -> bool:
        known = next((record.topic for store in self._everywhere() if (record := store.get(job_id))), None)
        if known is None:
            return False
        if topic and topic != known:  # the topics are in two slots: no step is over both
            raise NotSupported("move", f"{self.name}://")
        return self._store(known).amend(job_id, was, payload, "")

    def requeue(self, job_ids: Sequence[str]) -> int:
        return sum(store.requeue(job_ids) for store in self._everywhere())

    def discard(self, job_ids: Sequence[str], reason: str) -> int:
        return sum(store.discard(job_ids, reason) for store in self._everywhere())

    def purge(self, topic: str, state: State) -> int:
        return self._store(topic).purge(topic, state)

    def purge_inlet(self, topic: str) -> int:
        return self._store(topic).purge_inlet(topic)

    def purge_done(self, topic: str, limit: int, older: float = 0.0) -> int:
        return self._store(topic).purge_done(topic, limit, older)

    def drop(self, job_ids: Sequence[str]) -> int:
        return sum(store.drop(job_ids) for store in self._everywhere())

    def pause(self, topic: str) -> None:
        self._register([topic])
        self._store(topic).pause(topic)

    def resume(self, topic: str) -> None:
        self._store(topic).resume(topic)

    def paused(self) -> frozenset[str]:
        return frozenset(topic for store in self._everywhere() for topic in store.paused())

    def add_statistics(self, rows: Sequence[StatisticsRow], request: str) -> int:
        check_statistics(rows)
        return self._hub.add_statistics(rows, request)

    def statistics(
        self, span: int, since: float, most: int, *, topic: str | None = None, after: StatisticsRow | None = None
    ) -> list[StatisticsRow]:
        return self._hub.statistics(span, since, most, topic, after)

    def documents(self, kind: str, most: int, after: str = "") -> list[Document]:
        return self._kind(kind).documents(kind, most, after)

    def document(self, kind: str, name: str) -> Document | None:
        return self._kind(kind).document(kind, name)

    def document_versions(self, kinds: Sequence[str]) -> dict[str, int]:
        return {kind: self._kind(kind).document_versions([kind])[kind] for kind in kinds}

    def put_document(
        self, kind: str, name: str, data: bytes, request: str, *, expected: int | None = None, ttl: float | None = None
    ) -> int | None:
        check(kind, name, data, ttl)
        if kind not in self._registered_kinds:
            self._nodes.call("SADD", self._registry_of_kinds, kind)
            self._registered_kinds.add(kind)
        return self._kind(kind).put_document(kind, name, data, request, expected, ttl)

    def delete_document(self, kind: str, name: str, request: str, *, expected: int | None = None) -> bool:
        return self._kind(kind).delete_document(kind, name, request, expected)

    def cancel(self, job_id: str, *, force: bool = False) -> State:
        return self._first(lambda store: store.cancel(job_id, force=force), State.UNKNOWN)

    def _first(self, ask: Callable[[Store], T], nothing: T) -> T:
        """Return the first answer that is not empty."""
        return next((answer for store in self._everywhere() if (answer := ask(store)) != nothing), nothing)

    def fetch_result(self, job_id: str, timeout: float) -> JobRecord | None:
        deadline = time.monotonic() + timeout
        while True:
            record = self.get(job_id)
            if record is None:
                return JobRecord(job_id, "", State.UNKNOWN)
            store = self._store(record.topic)
            waiting = self._nodes.new_connection(store.keys.base)
            try:
                return followed(store, waiting, job_id, max(0.0, deadline - time.monotonic()))
            except Moved:  # a slot moved during the wait
                self._nodes.forget()
            finally:
                waiting.disconnect()

    def advice(self) -> list[str]:
        """Return the risks of all nodes, without duplicates."""
        found = (line for connection in self._nodes.masters() for line in advice.advice(self._target, connection))
        return list(dict.fromkeys(found))
