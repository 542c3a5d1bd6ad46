"""What a worker or a producer asks, each inside a transaction that somebody else began.

`SqliteBackend` begins one a call. A server that stands before a store for many clients puts many requests of many
owners into one, and confirms them together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ..base import Answer, Delivery, Outgoing, Settlement
from . import endings, lines, owners
from .connection import Transaction


def push(tx: Transaction, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
    """Store messages; a repeated request is answered as it was. Conflicts by id."""
    answered = recall(tx, request)
    if answered is not None:
        return dict(json.loads(answered))
    conflicts = lines.add(tx, messages)
    remember(tx, request, json.dumps(conflicts) if conflicts else "{}")
    return conflicts


def recall(tx: Transaction, request: str) -> str | None:
    """The answer kept of a request; None if there is none, or the dedup window has passed over it."""
    answer: str | None = tx.first("SELECT conflicts FROM push_request WHERE request = ?", (request,))
    return answer


def remember(tx: Transaction, request: str, answer: str) -> None:
    """Keep the answer to a request for the dedup window."""
    tx.db.execute("INSERT INTO push_request (request, at, conflicts) VALUES (?, ?, ?)", (request, tx.now, answer))


def reserve(
    tx: Transaction, owner: str, topics: Sequence[str], limit: int, request: str, most_bytes: int | None = None
) -> list[Delivery]:
    """Reserve jobs for an owner and renew its lease; its last request, repeated, gets the same. Raises OwnerLost.

    With `most_bytes`, no more jobs than have payloads of so many bytes together, but one in any case.
    """
    if owners.renew(tx, owner, request):
        return lines.deliveries(tx, owner, request)
    return lines.take(tx, owner, topics, limit, request, most_bytes)


def claim(tx: Transaction, owner: str, job_ids: Sequence[str], request: str) -> list[Delivery]:
    """Reserve these very jobs for an owner and renew its lease; its last request, repeated, gets the same. Raises OwnerLost."""
    if owners.renew(tx, owner, request):
        return lines.deliveries(tx, owner, request)
    return lines.take_these(tx, owner, job_ids, request)


def settle(tx: Transaction, owner: str, settlements: Sequence[Settlement], request: str) -> list[Answer]:
    """End an owner's reservations; its last request, repeated, is answered and not done again."""
    answers = owners.last_answers(tx, owner, request, len(settlements))
    if answers is None:
        answers = endings.settle(tx, owner, settlements)
        owners.remember(tx, owner, request, answers)
    return answers
