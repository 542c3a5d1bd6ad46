"""Requests of workers and producers, inside a transaction that the caller began.

`SqliteBackend` begins one per call. The ZeroMQ broker, which serves a store to many clients, combines many requests of many
owners into one transaction, and confirms them together. Therefore push, reserve and settle take any number of requests. The
effect is the same as executing them one by one in this order, but it takes little more than the statements of one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...errors import OwnerLost
from ..base import Answer, Delivery, Outgoing, Settlement
from . import owners, queue, settling
from .connection import Transaction, among


class Push(NamedTuple):
    messages: Sequence[Outgoing]
    request: str


class Reserve(NamedTuple):
    owner: str
    topics: Sequence[str]
    limit: int
    request: str
    startable: int | None = None


class Settle(NamedTuple):
    owner: str
    settlements: Sequence[Settlement]
    request: str


def push(tx: Transaction, pushes: Sequence[Push], *, loosely: bool = False) -> list[Mapping[str, str]]:
    """Store messages; return the conflicts by id for each request, and the first answer again for a repeated one."""
    condition, these = among([push.request for push in pushes])
    rows = tx.db.execute(f"SELECT request, conflicts FROM push_request WHERE request {condition}", (these,)).fetchall()
    answers: dict[str, Mapping[str, str]] = {request: json.loads(conflicts) for request, conflicts in rows}
    new: dict[str, Sequence[Outgoing]] = {}
    for messages, request in pushes:
        if request not in answers:
            new.setdefault(request, messages)
    if new:
        answers.update(zip(new, queue.push(tx, list(new.values()), loosely=loosely), strict=True))
        kept = [(request, tx.now, json.dumps(answers[request]) if answers[request] else "{}") for request in new]
        tx.db.executemany(_REMEMBER, kept)
    return [answers[request] for _, request in pushes]


_REMEMBER = "INSERT INTO push_request (request, at, conflicts) VALUES (?, ?, ?)"


def recall(tx: Transaction, request: str) -> str | None:
    """Return the stored answer to a request; None if the request is new, or older than the dedup window."""
    answer: str | None = tx.first("SELECT conflicts FROM push_request WHERE request = ?", (request,))
    return answer


def remember(tx: Transaction, request: str, answer: str) -> None:
    """Keep the answer to a request for the dedup window."""
    tx.db.execute(_REMEMBER, (request, tx.now, answer))


def reserve(tx: Transaction, reserves: Sequence[Reserve], most_bytes: int | None = None) -> list[list[Delivery] | OwnerLost]:
    """Reserve jobs for owners and renew their leases; return for each its deliveries, or the error if the owner is gone.

    Each owner has at most one request among these. If it repeats its last request, it gets the same jobs. `most_bytes`
    limits the payloads of one request's jobs together, but a request gets at least one job.
    """
    last = owners.renew(tx, {reserve.owner: reserve.request for reserve in reserves})
    new = [reserve for reserve in reserves if last.get(reserve.owner, reserve.request) != reserve.request]
    answers: dict[str, list[Delivery] | OwnerLost] = {}
    if new:
        answers.update(zip((reserve.owner for reserve in new), queue.reserve(tx, new, most_bytes), strict=True))
    for owner, _, _, request, startable in reserves:
        if owner not in last:
            answers[owner] = OwnerLost.of(owner)
        elif owner not in answers:
            answers[owner] = queue.deliveries(tx, owner, request)
            if startable is not None:  # the answer that was lost may have said so; if it did not, the owner asks once more
                tx.passed_over += (owner,)
    return [answers[reserve.owner] for reserve in reserves]


def claim(tx: Transaction, owner: str, job_ids: Sequence[str], request: str) -> list[Delivery]:
    """Reserve exactly these jobs for an owner and renew its lease; raise OwnerLost if the owner is gone.

    If the owner repeats its last request, it gets the same jobs.
    """
    last = owners.renew(tx, {owner: request})
    if owner not in last:
        raise OwnerLost.of(owner)
    if last[owner] == request:
        return queue.deliveries(tx, owner, request)
    return queue.reserve_these(tx, owner, job_ids, request)


def settle(tx: Transaction, settles: Sequence[Settle]) -> list[list[Answer]]:
    """Settle reservations, with at most one request per owner; a repeated last request is only answered."""
    answered = owners.last_answers(tx, settles)
    new = [settle for settle in settles if settle.owner not in answered]
    if new:
        answers = settling.settle(tx, [(owner, settlements) for owner, settlements, _ in new])
        owners.remember(tx, [(owner, request, those) for (owner, _, request), those in zip(new, answers, strict=True)])
        answered.update((settle.owner, those) for settle, those in zip(new, answers, strict=True))
    return [answered[settle.owner] for settle in settles]
