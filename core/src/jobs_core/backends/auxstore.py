"""A queue that keeps no results, and a store beside it that does, combined into one backend.

The queue delivers the jobs to workers. The store keeps a record of each job, with states and keys as if it were the queue
itself, but no worker reserves from it: a worker that gets a job from the queue claims its record, and settles both. So
results, status, cancelling and unique keys work as they do in the store, with two differences, because two stores cannot be
changed in one step. After an enqueue that failed half-way, the store may show a waiting job until it is cancelled. And a
cancelled job stays in the queue until a worker receives it there and drops it.

An enqueue takes the unique key in the store, pushes the job into the queue, and then binds the key to the job. A producer
may die or give up after any of these steps, and a job that may not be in the queue must not block others. Therefore the next
enqueue takes over a key that is not bound and cancels the job that had it, so that workers drop it if it is in the queue
after all. So if an enqueue returns the id of another job, that job is always in the queue.

A job that has ended in the store but is delivered again by the queue, because its worker died in between, does not run again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from ..errors import BackendUnavailable, ConfigError, OwnerLost
from ..failpoints import failpoint
from ..ids import new_token
from .base import (
    Answer,
    Backend,
    BindsKeys,
    Checkpoint,
    Counts,
    Delivery,
    Heartbeat,
    Housekept,
    JobRecord,
    Outcome,
    Outgoing,
    Settlement,
    State,
    Token,
)
from .documents import Document
from .letters import DeadGroup
from .notes import Note
from .statistics import StatisticsRow

SUPPLIED = frozenset({"unique", "results", "cancel", "lookup"})
"""Features that the store supplies if the queue lacks them."""

_OF_STORE = SUPPLIED | {"known_ids", "checkpoints", "documents", "notes", "history", "statistics"}

_NOT_OF_QUEUE = _OF_STORE - SUPPLIED - {"known_ids"} | {"claim", "limits", "fairness", "flows", "guards", "amend", "move"}
"""What needs one step over queue and store, or is the store's."""

_ENDED = {State.CANCELLED: Outcome.CANCELLED, State.DONE: Outcome.DONE, State.DEAD: Outcome.DEAD}


def composed(queue: Backend, store: Backend) -> AuxStore:
    """Return the pair of queue and store; raise ConfigError if the backend cannot serve as a store."""
    missing = SUPPLIED - store.features
    claims = "claim" in store.features or type(store).claim is not Backend.claim  # older backends have only the method
    if missing or not claims:
        what = ", ".join(sorted(missing)) or "records that another queue's workers can claim"
        raise ConfigError(
            f"results.url: {store.name}:// does not support {what}; sqlite:///results.db, redis:// and postgresql:// do"
        )
    return AuxStore(queue, store)


class AuxStore(Backend):
    """The pair of queue and store; the module's docstring explains it.

    `App.new_backend` creates it if `[results] url` is set and the queue keeps no results.
    """

    def __init__(self, queue: Backend, store: Backend) -> None:
        self.queue = queue
        self.store = store
        self.name = queue.name
        self.features = (queue.features - _NOT_OF_QUEUE) | (store.features & _OF_STORE)
        self._owner: str | None = None
        self._generation = 0
        self._claims: dict[Token, tuple[str, Token]] = {}  # the queue's token → (job id, the store's token)

    def __repr__(self) -> str:
        return f"<AuxStore {self.queue.name} {self.store.name}>"

    def open(self, owner: str | None) -> None:
        self.queue.open(owner)
        try:
            self.store.open(owner)
        except BaseException:
            self.queue.close()
            raise
        self._owner = owner

    def close(self) -> None:
        self.queue.close()
        self.store.close()
        self._claims.clear()

    # -- the path of a job -----------------------------------------------------------------------

    def prepare(self, topics: Sequence[str]) -> None:
        self.queue.prepare(topics)
        self.store.prepare(topics)

    def confirm(self) -> None:
        self.queue.confirm()

    def push(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        """Take the keys in the store, then push the messages that have not been refused into the queue.

        After a refusal by the queue, the producer may repeat the request with some of its messages only; the store treats it
        as another request. If the store knows a chosen id and its job waits, an earlier enqueue may have failed half-way: it
        is pushed again.
        """
        if not messages:
            return {}
        first = f"{request}/{messages[0].id}"
        binding = self.store if isinstance(self.store, BindsKeys) and any(message.unique for message in messages) else None
        conflicts = binding.push_loosely(messages, first) if binding else self.store.push(messages, first)
        accepted = [message for message in messages if message.id not in conflicts]
        failpoint("push.keys_taken")
        again = [job for job_id, holder in conflicts.items() if job_id == holder for job in self._waiting(job_id)]
        self.queue.push([*map(_without_key, accepted), *again], request)
        failpoint("push.before_bind")
        keyed = [message for message in accepted if message.unique]
        return {**conflicts, **self._bound(binding, keyed)} if binding and keyed else conflicts

    def _bound(self, binding: BindsKeys, keyed: Sequence[Outgoing]) -> Mapping[str, str]:
        """Bind keys; for each message whose key was taken over meanwhile, return its id and the id of the new holder."""
        taken_over = binding.bind(keyed)
        for job_id, holder in taken_over.items():
            if not holder:
                raise BackendUnavailable(f"another enqueue under the unique key of job {job_id} is in progress")
        return taken_over

    def _waiting(self, job_id: str) -> list[Outgoing]:
        """Return the message of a job in the store, if it is ready or scheduled; else an empty list."""
        record = self.store.get(job_id)
        if record is None or record.state not in (State.READY, State.SCHEDULED):
            return []
        delay = 0.0 if record.due is None else max(0.0, record.due - record.broker_now)
        return [Outgoing(job_id, record.topic, record.payload, record.priority, delay)]

    def reserve(self, topics: Sequence[str], limit: int, request: str) -> list[Delivery]:
        deliveries = self.queue.reserve(topics, limit, request)
        if not deliveries:
            return []
        claimed = self._claim([delivery.id for delivery in deliveries], request)
        kept = []
        for delivery in deliveries:
            mine = claimed.get(delivery.id)
            if mine is not None:
                self._claims[delivery.token] = delivery.id, mine.token
                if mine.cursor:
                    delivery = replace(delivery, cursor=mine.cursor)
            elif self._ended_before(delivery):
                continue
            kept.append(delivery)
        return kept

    def _claim(self, job_ids: Sequence[str], request: str) -> dict[str, Delivery]:
        try:
            claimed = self.store.claim(job_ids, request)
        except OwnerLost:
            self._open_store_anew()
            claimed = self.store.claim(job_ids, request)
        return {delivery.id: delivery for delivery in claimed}

    def _ended_before(self, delivery: Delivery) -> bool:
        """Return whether the job has ended according to the store; if so, settle it in the queue.

        The store does not know jobs of foreign producers: those have not ended.
        """
        record = self.store.get(delivery.id)
        outcome = _ENDED.get(record.state) if record else None
        if record is None or outcome is None:
            return False
        error = record.errors[-1] if record.errors else b""
        ending = Settlement(delivery.id, delivery.token, outcome, counts=False, reason=record.reason, error=error)
        self.queue.settle([ending], new_token())
        return True

    def settle(self, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        """Settle in the store, then in the queue: if this process dies in between, the job does not run again."""
        known = [settlement for settlement in settlements if settlement.token in self._claims]
        recorded = dict(zip((s.token for s in known), self._record(known, request), strict=True))
        answers = self.queue.settle([_without_record(settlement) for settlement in settlements], request)
        ours = [
            settlement
            for settlement, answer in zip(settlements, answers, strict=True)
            if answer is Answer.SETTLED and recorded.get(settlement.token) is Answer.STALE
        ]
        if ours:  # the store had released us as dead, but according to the queue the jobs are still ours
            self._record_as_ours(ours)
        for settlement in known:
            self._claims.pop(settlement.token, None)
        return answers

    def _record(self, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        if not settlements:
            return []
        return self.store.settle([self._for_store(settlement) for settlement in settlements], request)

    def _for_store(self, settlement: Settlement) -> Settlement:
        token = self._claims[settlement.token][1]
        note = None if settlement.notes is None else replace(settlement.notes, token=token)
        return replace(settlement, token=token, followups=(), notes=note)

    def _record_as_ours(self, settlements: Sequence[Settlement]) -> None:
        claimed = self._claim([settlement.id for settlement in settlements], new_token())
        for settlement in settlements:
            if settlement.id in claimed:
                self._claims[settlement.token] = settlement.id, claimed[settlement.id].token
        self._record([settlement for settlement in settlements if settlement.id in claimed], new_token())

    def checkpoint(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Store cursors in the store, which has no record of jobs of foreign producers: these begin anew in each run."""
        known = [replace(each, token=self._claims[each.token][1]) for each in checkpoints if each.token in self._claims]
        if known:
            self.store.checkpoint(known)

    def note(self, notes: Sequence[Note]) -> None:
        """Store what jobs tell in the store, which has no record of jobs of foreign producers: their notes are not kept."""
        known = [replace(each, token=self._claims[each.token][1]) for each in notes if each.token in self._claims]
        if known:
            self.store.note(known)

    def wait(self, topics: Sequence[str], timeout: float) -> bool:
        return self.queue.wait(topics, timeout)

    def expect(self, jobs: int) -> None:
        self.queue.expect(jobs)

    def interrupt(self) -> None:
        self.queue.interrupt()

    # -- owners ----------------------------------------------------------------------------------

    def heartbeat(self) -> Heartbeat:
        heartbeat = self.queue.heartbeat()
        try:
            also = self.store.heartbeat()
        except OwnerLost:
            self._open_store_anew()
            self._reclaim()
            return heartbeat
        return replace(heartbeat, cancelled=tuple({*heartbeat.cancelled, *also.cancelled}), forced=also.forced)

    def _open_store_anew(self) -> None:
        """Register a new owner id in the store; in the queue, the owner stays the same."""
        self._generation += 1
        self.store.close()
        self.store.open(f"{self._owner}~{self._generation}")

    def _reclaim(self) -> None:
        held = {job_id: token for token, (job_id, _) in self._claims.items()}
        for job_id, claimed in self._claim(list(held), new_token()).items():
            self._claims[held[job_id]] = job_id, claimed.token

    def release_owner(self, owner: str, started: Collection[str], report: bytes, ran: Collection[str] = ()) -> int:
        released = self.queue.release_owner(owner, started, report, *([ran] if ran else []))
        self.store.release_owner(owner, started, report)
        return released

    def housekeep(self, limit: int) -> Housekept:
        kept, also = self.queue.housekeep(limit), self.store.housekeep(limit)
        return Housekept(kept.readied, kept.owners_released, kept.dropped + also.dropped, kept.more or also.more)

    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        return self.queue.counts(topics)

    # -- operators: records are in the store, waiting jobs in the queue ----------------------------------

    def get(self, job_id: str) -> JobRecord | None:
        return self.store.get(job_id)

    def cancel(self, job_id: str, *, force: bool = False) -> State:
        return self.store.cancel(job_id, force=force)

    def fetch_result(self, job_id: str, timeout: float) -> JobRecord | None:
        return self.store.fetch_result(job_id, timeout)

    def browse(self, topic: str, state: State, limit: int, offset: int = 0) -> list[JobRecord]:
        of = self.store if state is State.DONE and "history" in self.features else self.queue
        return of.browse(topic, state, limit, offset)

    def topics(self) -> list[str]:
        return self.queue.topics()

    def requeue(self, job_ids: Sequence[str]) -> int:
        self.store.requeue(job_ids)
        return self.queue.requeue(job_ids)

    def dead_groups(self, topics: Sequence[str], most: int) -> list[DeadGroup]:
        return self.queue.dead_groups(topics, most)

    def dead_in_group(self, topic: str, group: str, limit: int, offset: int = 0) -> list[JobRecord]:
        return self.queue.dead_in_group(topic, group, limit, offset)

    def discard(self, job_ids: Sequence[str], reason: str) -> int:
        discarded = self.queue.discard(job_ids, reason)
        self.store.discard(job_ids, reason)
        return discarded

    def drop(self, job_ids: Sequence[str]) -> int:
        dropped = self.queue.drop(job_ids)
        self.store.drop(job_ids)
        return dropped

    def purge(self, topic: str, state: State) -> int:
        purged = self.queue.purge(topic, state)
        self.store.purge(topic, state)
        return purged

    def purge_done(self, topic: str, limit: int, older: float = 0.0) -> int:
        return self.store.purge_done(topic, limit, older) if "history" in self.features else super().purge_done(topic, limit)

    def pause(self, topic: str) -> None:
        self.queue.pause(topic)

    def resume(self, topic: str) -> None:
        self.queue.resume(topic)

    def paused(self) -> frozenset[str]:
        return self.queue.paused()

    def documents(self, kind: str, most: int, after: str = "") -> list[Document]:
        return self.store.documents(kind, most, after)

    def document(self, kind: str, name: str) -> Document | None:
        return self.store.document(kind, name)

    def document_versions(self, kinds: Sequence[str]) -> dict[str, int]:
        return self.store.document_versions(kinds)

    def put_document(
        self, kind: str, name: str, data: bytes, request: str, *, expected: int | None = None, ttl: float | None = None
    ) -> int | None:
        return self.store.put_document(kind, name, data, request, expected=expected, ttl=ttl)

    def delete_document(self, kind: str, name: str, request: str, *, expected: int | None = None) -> bool:
        return self.store.delete_document(kind, name, request, expected=expected)

    def add_statistics(self, rows: Sequence[StatisticsRow], request: str) -> int:
        return self.store.add_statistics(rows, request)

    def statistics(
        self, span: int, since: float, most: int, *, topic: str | None = None, after: StatisticsRow | None = None
    ) -> list[StatisticsRow]:
        return self.store.statistics(span, since, most, topic=topic, after=after)

    def advice(self) -> list[str]:
        return [*self.queue.advice(), *(f"results: {line}" for line in self.store.advice())]

    def setup(self) -> None:
        self.queue.setup()
        self.store.setup()


def _without_key(message: Outgoing) -> Outgoing:
    return replace(message, unique=None) if message.unique else message


def _without_record(settlement: Settlement) -> Settlement:
    """Return a settlement without what only the store keeps."""
    plain = settlement.result is None and settlement.cursor is None and settlement.notes is None and not settlement.timeline
    return settlement if plain else replace(settlement, result=None, cursor=None, notes=None, timeline=b"")


__all__ = ["SUPPLIED", "AuxStore", "composed"]
