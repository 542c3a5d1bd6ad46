"""Execute the received requests in one transaction and answer them after its commit (group commit).

The commit is synced to the disk before durable requests are answered, but after the reserved jobs were sent to the workers.

A request that fails affects no other: its group is rolled back and executed again in halves, until the request is alone. A
request that is only refused (a lost owner, a full disk) has not written anything yet, and its group continues.
"""

from __future__ import annotations

import itertools
import json
import logging
import sqlite3
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct

from jobs_core.backend_kit import failpoint
from jobs_core.backends.base import Delivery, JobRecord, Outcome, Outgoing, Settlement, State
from jobs_core.backends.sqlite.engine import (
    Transaction,
    documents,
    flow_views,
    flows,
    housekeeping,
    letters,
    limits,
    lines,
    notes,
    operators,
    owners,
    requests,
    settling,
    statistics,
    views,
)
from jobs_core.backends.statistics import MOST_ROWS
from jobs_core.errors import BackendError

from .. import protocol as p
from .batching import batches
from .decoding import Asked, Malformed, check_json
from .store import Store

logger = logging.getLogger("jobs.broker")

T = TypeVar("T")

_NIL = p.PUSH_GUARDED.encode(None)

_OLD_CLIENT = (
    "this worker's jobs-zeromq does not know {}, which jobs of this broker have: upgrade jobs-zeromq on the worker's machine"
)


class Answered(Struct):
    """An answer and its recipient."""

    to: Asked
    kind: bytes
    body: bytes
    remark: bytes = b""  # a frame after the body


class Figures(Struct):
    """The broker's counters since its start."""

    pushed: int = 0
    reserved: int = 0
    settled: int = 0
    requests: int = 0
    commits: int = 0
    refused: int = 0


class Transactions:
    """Executes requests on a store. Used by one thread.

    `takers` returns the requests of workers that wait to reserve from given topics. Jobs that a group pushes are reserved
    for them in the same transaction.
    """

    def __init__(self, store: Store, takers: Callable[[Collection[str]], Sequence[Asked]] = lambda topics: ()) -> None:
        self._store = store
        self._takers = takers
        self.reserved_for_waiting: list[Answered] = []  # answers to takers, from the last call of `serve`
        self.figures = Figures()
        self.news: set[str] = set()  # topics that may have jobs for waiting workers
        self.heeds_ends = False  # whether a client waits for the end of a job
        self.touched: set[str] = set()  # while `heeds_ends`, the jobs that may have ended
        self.heeds_flows = False  # whether a client waits for the end of a flow
        self.rested: set[str] = set()  # while `heeds_flows`, the flows that may have ended

    def serve(self, asked: Sequence[Asked], *, serves_waiting: bool = True) -> list[Answered]:
        """Execute the requests and return the answers, in order.

        On return, the transaction is committed, including the reservations for takers. Answers to durable requests may only
        be sent after `synced`.

        If the transaction fails and is repeated, no jobs are reserved for waiting workers.
        """
        if not asked:
            return []
        try:
            return self._together(asked, serves_waiting)
        except Exception as error:
            if serves_waiting:
                return self.serve(asked, serves_waiting=False)
            if len(asked) == 1:
                return [refusal(asked[0], error)]
            middle = len(asked) // 2
            return self.serve(asked[:middle], serves_waiting=False) + self.serve(asked[middle:], serves_waiting=False)

    def synced(self, answers: Sequence[Answered]) -> Sequence[Answered]:
        """Sync the changes to the disk and return the answers; if that fails, return errors instead."""
        try:
            self._store.sync()
        except BackendError as error:
            logger.warning("%s", error)
            return [refusal(answer.to, error) for answer in answers]
        return answers

    def release_reserved(self, answer: Answered) -> None:
        """Release the jobs of a reserve whose worker has disconnected."""
        one = answer.to
        jobs = p.RESERVE.decode_answer(answer.body)
        try:
            with self._store.transaction() as tx:
                tx.options = one.peer.options
                settling.settle(tx, [(one.request.owner, [Settlement(job.id, job.token, Outcome.RELEASE) for job in jobs])])
        except BackendError as error:
            logger.warning("%d jobs stay with a worker that is gone until its lease expires: %s", len(jobs), error)
        else:
            self.news |= tx.wake

    def _together(self, asked: Sequence[Asked], serves_waiting: bool) -> list[Answered]:
        if not any(one.verb.writes for one in asked):
            with self._store.reading() as db:
                now = self._store.now()
                return [self._answer(one, partial(self._read, one, db, now)) for one in asked]
        done: dict[int, Answered] = {}
        failpoint("broker.before_commit")
        with self._store.transaction() as tx:
            self._do_all(tx, asked, done)
            takers = self._takers(tx.wake) if serves_waiting and tx.wake else ()
            self._do_all(tx, takers, done)
        failpoint("broker.after_commit")
        self.figures.commits += 1
        self.news |= tx.wake
        if self.heeds_flows:
            self.rested.update(tx.rested)
        for answer in done.values():
            failpoint(answer.to.verb.confirmed)
            self._account(answer)
        self.reserved_for_waiting += [done[id(one)] for one in takers]
        return [done[id(one)] for one in asked]

    def _do_all(self, tx: Transaction, asked: Sequence[Asked], done: dict[int, Answered]) -> None:
        """Execute the requests and record their answers by `id(request)`."""
        for batch in batches(asked):
            tx.options = batch[0].peer.options
            done.update(zip(map(id, batch), self._do(tx, batch), strict=True))

    def _answer(self, one: Asked, work: Callable[[], Any]) -> Answered:
        try:
            return _ok(one, work())
        except BackendError as error:
            return refusal(one, error)

    def _do(self, tx: Transaction, batch: Sequence[Asked]) -> Sequence[Answered]:
        one = batch[0]
        together = _TOGETHER.get(one.verb.name)
        if together is not None:
            return together(self, tx, batch)
        if one.verb.writes:
            return [self._answer(one, partial(_WRITE[one.verb.name], self, tx, one))]
        return [self._answer(one, partial(self._read, one, tx.db, tx.now))]

    def _read(self, one: Asked, db: sqlite3.Connection, now: float) -> Any:
        answer = _READ[one.verb.name](db, now, one.request)
        if p.FLOWS not in one.peer.features and _has_waiting(answer):
            raise BackendError(
                "this client's jobs-zeromq does not know flows, of which the job is a member: upgrade jobs-zeromq there"
            )
        return answer

    def _account(self, answer: Answered) -> None:
        if answer.kind is not p.OK:
            return
        verb, request = answer.to.verb, answer.to.request
        if verb is p.PUSH or verb is p.PUSH_PART or (verb is p.PUSH_GUARDED and answer.body != _NIL):
            self.figures.pushed += len(request.messages)
        elif verb is p.PUT:
            self.figures.pushed += len(answer.to.payloads)
        elif verb is p.SETTLE:
            self.figures.settled += len(request.settlements)
            if self.heeds_ends:
                self.touched.update([settlement.id for settlement in request.settlements])
        elif isinstance(request, p.Change):
            self.touched.update(request.ids)

    # -- requests -----------------------------------------------------------------------------------

    def push(self, tx: Transaction, batch: Sequence[Asked]) -> list[Answered]:
        try:
            self._store.check_room()
        except BackendError as error:
            return [refusal(one, error) for one in batch]
        conflicts = requests.push(tx, [_as_push(one) for one in batch])
        return [
            _ok(one, p.Stored(ids=one.request.ids) if one.verb is p.PUT else refused)
            for one, refused in zip(batch, conflicts, strict=True)
        ]

    def reserve(self, tx: Transaction, batch: Sequence[Asked]) -> list[Answered]:
        if any(one.peer.is_old for one in batch) and (tx.excludes_older_releases or tx.excludes_releases_without_flows):
            return [answer for one in batch for answer in self._reserve_if_known(tx, one)]
        return self._reserve(tx, batch)

    def _reserve_if_known(self, tx: Transaction, one: Asked) -> list[Answered]:
        """Refuse jobs to a worker of a release that does not know what jobs of this store have."""
        if p.LIMITS not in one.peer.features and tx.excludes_older_releases:
            return [refusal(one, BackendError(_OLD_CLIENT.format("limits and fair topics")))]
        if p.FLOWS not in one.peer.features and tx.excludes_releases_without_flows:
            return [refusal(one, BackendError(_OLD_CLIENT.format("flows")))]
        return self._reserve(tx, [one])

    def _reserve(self, tx: Transaction, batch: Sequence[Asked]) -> list[Answered]:
        reserves = [
            requests.Reserve(one.owner, one.topics, one.limit, one.request, one.startable)
            for one in (one.request for one in batch)
        ]
        tx.passed_over = ()
        answers = []
        for one, deliveries in zip(batch, requests.reserve(tx, reserves, p.MAX_FRAME), strict=True):
            if isinstance(deliveries, BackendError):
                answers.append(refusal(one, deliveries))
            else:
                answer = _ok(one, deliveries, p.PASSED_OVER if one.request.owner in tx.passed_over else b"")
                if len(answer.body) > p.MAX_FRAME:
                    deliveries = _within_frame(tx, one.request.owner, deliveries)
                    answer.body = one.verb.encode(deliveries)
                if not deliveries and isinstance(one.request, p.Next):
                    owners.forget_request(tx, one.request.owner)  # it waits on, and is executed again when there is news
                self.figures.reserved += len(deliveries)
                answers.append(answer)
        return answers

    def settle(self, tx: Transaction, batch: Sequence[Asked]) -> list[Answered]:
        settles = [requests.Settle(one.request.owner, one.request.settlements, one.request.request) for one in batch]
        return [_ok(one, answers) for one, answers in zip(batch, requests.settle(tx, settles), strict=True)]

    def open(self, tx: Transaction, one: Asked) -> None:
        owners.register(tx, one.request.owner)

    def close(self, tx: Transaction, one: Asked) -> None:
        owners.release(tx, one.request.owner, (), b"", crash=False)

    def claim(self, tx: Transaction, one: Asked) -> Any:
        return requests.claim(tx, one.request.owner, one.request.ids, one.request.request)

    def checkpoint(self, tx: Transaction, one: Asked) -> None:
        settling.checkpoint(tx, one.request.owner, one.request.checkpoints)

    def note(self, tx: Transaction, one: Asked) -> None:
        notes.tell(tx, one.request.owner, one.request.notes)

    def define_limits(self, tx: Transaction, one: Asked) -> None:
        lines.define(tx, one.request.limits, one.request.lines)

    def override_limit(self, tx: Transaction, one: Asked) -> None:
        lines.override(tx, one.request.name, one.request.definition)

    def push_guarded(self, tx: Transaction, one: Asked) -> Any:
        asked: p.PushGuarded = one.request
        if requests.recall(tx, asked.request) is None and not documents.holds(tx, asked.guard):
            return None
        self._store.check_room()
        return requests.push(tx, [requests.Push(asked.messages, asked.request)])[0]

    def push_part(self, tx: Transaction, one: Asked) -> Any:
        self._store.check_room()
        return flows.push_part(tx, one.request.part, one.request.messages, one.request.request)

    def cancel_flow(self, tx: Transaction, one: Asked) -> bool:
        asked: p.CancelFlow = one.request
        return self._once(tx, one, lambda: flows.cancel_flow(tx, asked.flow, finale=asked.finale))

    def retry_flow(self, tx: Transaction, one: Asked) -> int:
        return self._once(tx, one, lambda: flows.retry_flow(tx, one.request.flow))

    def add_statistics(self, tx: Transaction, one: Asked) -> int:
        return statistics.add(tx, one.request.rows, one.request.request)

    def put_document(self, tx: Transaction, one: Asked) -> int | None:
        asked: p.PutDocument = one.request
        return documents.put(tx, asked.kind, asked.name, asked.data, asked.request, asked.expected, asked.ttl)

    def delete_document(self, tx: Transaction, one: Asked) -> bool:
        asked: p.DeleteDocument = one.request
        return documents.delete(tx, asked.kind, asked.name, asked.request, asked.expected)

    def heartbeat(self, tx: Transaction, one: Asked) -> Any:
        return owners.heartbeat(tx, one.request.owner)

    def release(self, tx: Transaction, one: Asked) -> int:
        asked: p.Release = one.request
        if asked.report:
            check_json("release: report", asked.report)
        started, ran = frozenset(asked.started), frozenset(asked.ran)
        crash = len(started) == 1
        return self._once(tx, one, lambda: owners.release(tx, asked.owner, started, asked.report, crash=crash, ran=ran))

    def housekeep(self, tx: Transaction, one: Asked) -> p.Kept:
        kept = housekeeping.housekeep(tx, one.request.limit)
        return p.Kept(kept=kept, unsaid=one.peer.take_unsaid())

    def requeue(self, tx: Transaction, one: Asked) -> int:
        return self._once(tx, one, lambda: sum(operators.requeue(tx, job_id) for job_id in one.request.ids))

    def amend(self, tx: Transaction, one: Asked) -> bool:
        asked: p.Amend = one.request
        return self._once(tx, one, lambda: letters.amend(tx, asked.id, asked.was, asked.payload, asked.topic))

    def discard(self, tx: Transaction, one: Asked) -> int:
        return self._once(tx, one, lambda: sum(operators.discard(tx, job_id, one.request.reason) for job_id in one.request.ids))

    def purge(self, tx: Transaction, one: Asked) -> int:
        return self._once(tx, one, lambda: operators.purge_some(tx, one.request.topic, one.request.state))

    def purge_done(self, tx: Transaction, one: Asked) -> int:
        asked = one.request
        return self._once(tx, one, lambda: notes.purge_done(tx, asked.topic, asked.limit, asked.older))

    def drop(self, tx: Transaction, one: Asked) -> int:
        return self._once(tx, one, lambda: operators.drop(tx, one.request.ids))

    def pause(self, tx: Transaction, one: Asked) -> None:
        operators.pause(tx, one.request.topic)

    def resume(self, tx: Transaction, one: Asked) -> None:
        operators.resume(tx, one.request.topic)

    def cancel(self, tx: Transaction, one: Asked) -> State:
        if len(one.request.ids) != 1:
            raise Malformed("cancel: one id at a time")
        force = one.request.reason == "force"
        return State(self._once(tx, one, lambda: operators.cancel(tx, one.request.ids[0], force=force).value))

    def _once(self, tx: Transaction, one: Asked, work: Callable[[], T]) -> T:
        """Execute a request, or return the kept answer if its request id was executed before."""
        request = f"{one.verb.name.decode()}:{one.request.request}"
        kept = requests.recall(tx, request)
        if kept is not None:
            answer: T = json.loads(kept)
            return answer
        answer = work()
        requests.remember(tx, request, json.dumps(answer))
        return answer


def _within_frame(tx: Transaction, owner: str, deliveries: list[Delivery]) -> list[Delivery]:
    """Keep the first deliveries that fit into a frame together with the results that they contain; release the others."""
    sizes = (len(one.payload) + sum(len(result) for _, result in one.inputs) for one in deliveries)
    count = max(1, sum(size <= p.MAX_FRAME for size in itertools.accumulate(sizes)))
    if count < len(deliveries):
        back = [Settlement(one.id, one.token, Outcome.RELEASE, ran=False) for one in deliveries[count:]]
        settling.settle(tx, [(owner, back)])
    return deliveries[:count]


def _as_push(one: Asked) -> requests.Push:
    if one.verb is p.PUSH:
        return requests.Push(one.request.messages, one.request.request)
    put: p.Put = one.request
    messages = [
        Outgoing(job_id, put.topic, payload, put.priority, put.delay, chosen=True)
        for job_id, payload in zip(put.ids, one.payloads, strict=True)
    ]
    return requests.Push(messages, f"put:{put.request}")


def _ok(one: Asked, answer: Any, remark: bytes = b"") -> Answered:
    return Answered(one, p.OK, one.verb.encode(answer), remark)


def refusal(one: Asked, error: Exception) -> Answered:
    """Return the answer to a request that failed."""
    if isinstance(error, Malformed):
        return Answered(one, p.ERROR, one.verb.encode_error("malformed", str(error)))
    if isinstance(error, BackendError):
        return Answered(one, p.ERROR, one.verb.encode_error(p.code_of(error), str(error)))
    logger.warning("%s failed: %s: %s", one.verb.name.decode(), type(error).__name__, error)
    return Answered(one, p.ERROR, one.verb.encode_error("malformed", f"{one.verb.name.decode()}: {error}"))


_TOGETHER: dict[bytes, Callable[[Transactions, Transaction, Sequence[Asked]], list[Answered]]] = {
    b"push": Transactions.push,
    b"put": Transactions.push,
    b"reserve": Transactions.reserve,
    b"settle": Transactions.settle,
}
_WRITE: dict[bytes, Callable[[Transactions, Transaction, Asked], Any]] = {
    verb.name: getattr(Transactions, verb.name.decode())
    for verb in p.VERBS.values()
    if verb.writes and verb.name not in _TOGETHER
}


def _has_waiting(answer: Any) -> bool:
    """Return whether an answer has a job in a state that came with flows."""
    records = answer if isinstance(answer, list) else [answer]
    return any(isinstance(record, JobRecord) and record.state is State.WAITING for record in records)


def _counts(db: sqlite3.Connection, now: float, request: p.OfTopics) -> Any:
    return views.counts(db, request.topics, now)


def _get(db: sqlite3.Connection, now: float, request: p.OfJob) -> Any:
    return views.get(db, request.id, now)


def _browse(db: sqlite3.Connection, now: float, request: p.Browse) -> Any:
    return views.browse(db, request.topic, request.state, request.limit, request.offset, now)


def _dead_groups(db: sqlite3.Connection, now: float, request: p.DeadGroups) -> Any:
    return views.dead_groups(db, request.topics, request.most)


def _dead_in_group(db: sqlite3.Connection, now: float, request: p.DeadInGroup) -> Any:
    return views.dead_in_group(db, request.topic, request.group, request.limit, request.offset, now)


def _paused(db: sqlite3.Connection, now: float, request: p.Nothing) -> Any:
    return sorted(views.paused(db))


def _limits(db: sqlite3.Connection, now: float, request: p.ListLimits) -> Any:
    return limits.states(db, request.most, request.names, now)


def _lines(db: sqlite3.Connection, now: float, request: p.ListLines) -> Any:
    return views.lines(db, request.topic, request.most)


def _statistics(db: sqlite3.Connection, now: float, request: p.ListStatistics) -> Any:
    most = min(max(0, request.most), MOST_ROWS)
    return statistics.listed(db, request.span, request.since, most, request.topic, request.after)


def _documents(db: sqlite3.Connection, now: float, request: p.ListDocuments) -> Any:
    return documents.listed(db, request.kind, request.most, request.after, now)


def _document(db: sqlite3.Connection, now: float, request: p.OfDocument) -> Any:
    return documents.get(db, request.kind, request.name, now)


def _document_versions(db: sqlite3.Connection, now: float, request: p.OfKinds) -> Any:
    return documents.versions(db, request.kinds)


def _flow(db: sqlite3.Connection, now: float, request: p.OfFlow) -> Any:
    return flow_views.status(db, request.flow, now)


def _flows(db: sqlite3.Connection, now: float, request: p.ListFlows) -> Any:
    return flow_views.listed(db, request.most, request.offset, now)


def _flow_members(db: sqlite3.Connection, now: float, request: p.ListMembers) -> Any:
    return flow_views.members(db, request.flow, request.most, request.offset, now, dead=request.dead)


def _flow_results(db: sqlite3.Connection, now: float, request: p.FlowResults) -> Any:
    return flow_views.results(db, request.flow, request.ids, min(request.most_bytes, p.MAX_FRAME))


def _topics(db: sqlite3.Connection, now: float, request: p.Nothing) -> Any:
    return views.topics(db)


_READ: dict[bytes, Callable[[sqlite3.Connection, float, Any], Any]] = {
    b"counts": _counts,
    b"get": _get,
    b"browse": _browse,
    b"paused": _paused,
    b"dead_groups": _dead_groups,
    b"dead_in_group": _dead_in_group,
    b"topics": _topics,
    b"limits": _limits,
    b"lines": _lines,
    b"flow": _flow,
    b"flows": _flows,
    b"flow_members": _flow_members,
    b"flow_results": _flow_results,
    b"statistics": _statistics,
    b"documents": _documents,
    b"document": _document,
    b"document_versions": _document_versions,
}
