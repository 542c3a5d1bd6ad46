"""Settle batches in which not all are plain acknowledgements; sql/settling.sql has the other half."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from typing import Any

from jobs_core.backends.base import ENDS, BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.backends.flows import SLICE

from .flows import PostgresFlowCalls
from .rows import facts, holds, token

_AGAIN = frozenset({Outcome.RELEASE, Outcome.RETRY, Outcome.DEFER})
_DYING = frozenset({Outcome.DEAD, Outcome.EXPIRED})
_BECAME = {"d": "done", "x": "dead", "c": "cancelled"}
_SETTLED = str.maketrans("dxcq", "ssss")


class PostgresSettleCalls(PostgresFlowCalls):
    """What `PostgresBackend` does to settle batches, a base class of it."""

    _options: BackendOptions
    _owner: str
    _settled: str  # the last settle request that is answered
    _topics: set[str]  # of which jobs may be reserved

    def _settle_batch(self, settlements: Sequence[Settlement], request: str, again: bool) -> str:
        """Settle a batch; return a letter for each settlement."""
        if any(message.member is not None for settlement in settlements for message in settlement.followups):
            return self._settle_adding(settlements, request, again)
        first = _places_of_done(settlements)
        others = [n for n in range(len(settlements)) if n not in first]
        done = [settlements[n] for n in first]
        limited, with_results = any(holds(s.token) for s in done), any(s.result is not None for s in done)
        results = ([s.result for s in done], [s.result_ttl for s in done]) if with_results else (None, None)
        items, blobs = _items([settlements[n] for n in others])
        known = (self._owner, request, self._settled, again)
        statement = self._connection.call("settle_batch", 13)
        parameters = (
            *known, *plain_facts(done, limited=limited), *results, items, blobs, self._retention(settlements),
            self._options.cancelled_ttl,
        )  # fmt: skip
        ((answers, woken),) = self._connection.rows(statement, parameters)
        self._wake(woken)
        by_place = dict(zip([*first, *others], answers, strict=True))
        return "".join(by_place[n] for n in range(len(settlements)))

    def _retention(self, settlements: Iterable[Settlement]) -> str:
        """Return how many dead and done jobs topics keep, if a settlement may exceed that."""
        topics: Collection[str] = ()
        if any(settlement.outcome in _DYING or settlement.timeline for settlement in settlements):
            topics = self._topics
        limits = {topic: self._options.retention(topic) for topic in topics}
        return json.dumps({topic: (limit.dead_max, limit.done_max) for topic, limit in limits.items()})

    def _settle_adding(self, settlements: Sequence[Settlement], request: str, again: bool) -> str:
        """Settle a batch in which members add members to their flows, in one transaction: the rules of flows are in Python."""
        woken: list[str] = []
        retention = self._retention(settlements)

        def settle() -> str:
            woken.clear()
            known = self._connection.function("settling", self._owner, request, self._settled, again, len(settlements))
            if known is not None:
                return str(known)
            items, _ = _items(settlements, is_open=True)
            flows = self._connection.function("lock_flows_of", items, [])
            answers = "".join(self._settle_and_add(settlement, retention, woken) for settlement in settlements)
            insert = "WITH new AS (INSERT INTO {s}.settled VALUES (%s, %s, %s)) SELECT 1"
            self._connection.value(self._connection.sql(insert), (self._owner, request, answers))
            if flows:
                proceed = self._connection.sql("SELECT {s}.proceed(%s, %s, %s, {s}.now_())")
                woken.extend(self._connection.value(proceed, (flows, SLICE, self._options.cancelled_ttl)))
            return answers

        answers = self._connection.transaction(settle)
        self._wake(woken)
        return answers

    def _settle_and_add(self, settlement: Settlement, retention: str, woken: list[str]) -> str:
        """Settle one job, with what it adds before its end counts; return its answer."""
        items, blobs = _items([settlement], is_open=True)
        statement = self._connection.call("settle_items", 5)
        parameters = (self._owner, items, blobs, retention, self._options.cancelled_ttl)
        ((letter, topics),) = self._connection.rows(statement, parameters)
        woken += topics
        if letter == "-":
            return "-"
        seq, _ = token(settlement.token)
        if settlement.outcome in ENDS:
            self._push_followups(settlement.followups, seq, woken)
        if seq < 0 and letter in _BECAME:
            reason = _text(settlement.reason or settlement.outcome.value)
            self._connection.function("end_settled", seq, _BECAME[letter], reason, settlement.result)
        return str(letter.translate(_SETTLED))

    def _push_followups(self, messages: Sequence[Outgoing], by: int, woken: list[str]) -> None:
        """Push what a job adds at its end, in order; add the topics of the jobs that may be ready."""
        for are_members, some in groupby(messages, key=lambda message: message.member is not None):
            group = list(some)
            if are_members:
                for message in group:
                    self._join(message, by, woken)
            else:
                self._connection.function("push", None, *facts(group), False, self._options.cancelled_ttl)
                woken += [message.topic for message in group]


def are_plain(settlements: Sequence[Settlement]) -> bool:
    """Return whether settlements say that jobs are done, and nothing else; without a call for each."""
    return all(
        s.outcome is Outcome.DONE and s.result is None and not (s.followups or s.timeline or s.close_limits)
        for s in settlements
    )


def plain_texts(settlements: Sequence[Settlement]) -> tuple[str, str] | None:
    """Return the numbers and requests of plain settlements as the server writes arrays; None if one is of a special job.

    That is one that holds slots, or is the member of a flow, or has a token that is not ours. psycopg would take four times
    as long to write the same arrays from lists.
    """
    seqs, _, requests = zip(*[str(s.token).partition(":") for s in settlements], strict=True)
    digits, words = "".join(seqs), "".join(requests)
    if not (digits.isascii() and digits.isdigit() and all(seqs) and len(max(seqs, key=len)) < 19):
        return None
    if not words.isprintable() or '"' in words or "\\" in words:
        return None
    return "{" + ",".join(seqs) + "}", '{"' + '","'.join(requests) + '"}'


def plain_facts(settlements: Sequence[Settlement], *, limited: bool) -> tuple[list[int], list[str], list[bool] | None]:
    """Return the numbers and requests of plain settlements; and whether they ran, if one of them may have slots."""
    tokens = [token(s.token) for s in settlements]
    return [seq for seq, _ in tokens], [request for _, request in tokens], [s.ran for s in settlements] if limited else None


def _places_of_done(settlements: Sequence[Settlement]) -> dict[int, None]:
    """Return the places of done jobs, of which no more than a result is stored; they are settled first, in one step.

    There are none if the order may make a difference: where a job that is pushed in the batch may have the unique key or id of
    one that ends in it, and where a reservation is settled twice.
    """
    pushed = (message for settlement in settlements for message in settlement.followups)
    if any(message.unique or message.chosen for message in pushed) or len({s.token for s in settlements}) < len(settlements):
        return {}
    return {
        n: None
        for n, s in enumerate(settlements)
        if s.outcome is Outcome.DONE and not (s.followups or s.timeline or s.close_limits)
    }


def _items(settlements: Iterable[Settlement], *, is_open: bool = False) -> tuple[str, list[bytes]]:
    """Return settlements as JSON, and their bytes; if they are open, without their follow-ups."""
    blobs: list[bytes] = []
    items = [_item(settlement, blobs, is_open=is_open) for settlement in settlements]
    return json.dumps(items), blobs


def _item(settlement: Settlement, blobs: list[bytes], *, is_open: bool) -> dict[str, Any]:
    """Return what `settle_items` is to do; add its bytes to the others."""
    outcome = settlement.outcome
    seq, request = token(settlement.token)
    item: dict[str, Any] = {"seq": seq, "request": request, "outcome": outcome.value}

    def add(name: str, data: bytes | None) -> None:
        if data is not None:
            blobs.append(data)
            item[name] = len(blobs)

    if outcome in _AGAIN:
        item["after"] = settlement.after
        if settlement.limits is not None:
            item["limits"] = settlement.limits
    else:
        item |= {"reason": _text(settlement.reason or outcome.value), "ttl": settlement.result_ttl}
        add("result", settlement.result)
    if settlement.counts and outcome is Outcome.DEAD:
        item["counted"] = True
    if not settlement.ran:
        item["unstarted"] = True
    add("error", settlement.error or None)
    add("cursor", settlement.cursor)
    _tell(settlement, item, blobs)
    if settlement.fingerprint is not None:
        cause = settlement.fingerprint
        item["cause"] = [_text(part) for part in (cause.id, cause.kind, cause.place, cause.message)]
    if settlement.close_limits:
        item["closes"] = settlement.close_limits
    if is_open:
        item["open"] = True
    elif settlement.followups and outcome in ENDS:
        messages, payloads, plain, lined = facts(settlement.followups)
        first = len(blobs) + 1
        blobs += payloads
        item["followups"] = {
            "messages": json.loads(messages), "from": first, "upto": len(blobs), "plain": plain, "lined": lined,
        }  # fmt: skip
    return item


def _text(text: str) -> str:
    """Return what the server can store as text: no null characters, no halves of surrogate pairs."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()


def _tell(settlement: Settlement, item: dict[str, Any], blobs: list[bytes]) -> None:
    """Add what a settlement tells of its run."""
    note, outcome = settlement.notes, settlement.outcome
    done = outcome is Outcome.DONE
    if outcome is Outcome.CANCELLED or not (settlement.timeline or (note is not None and not done)):
        return
    item["told"] = True
    if note is not None:
        item["lines"] = len(blobs) + 1, len(blobs) + len(note.lines)
        blobs += note.lines
        item["first"] = note.first
        if note.progress is not None:
            blobs.append(note.progress)
            item["progress"] = len(blobs)
    if settlement.timeline:
        blobs.append(settlement.timeline)
        item["timeline"] = len(blobs)
    if done:
        item["kept"] = settlement.result_ttl
