"""Owners: their leases, their last requests, and the release of their reservations."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from ...errors import OwnerLost
from ..base import Answer, Heartbeat, State
from . import lines, members, queue, removal
from .connection import Transaction, among

_HELD = """
SELECT seq, id, topic, errors, EXISTS (SELECT 1 FROM cancel WHERE cancel.seq = job.seq), slots
  FROM reserved JOIN job USING (seq) WHERE owner = ?
"""
_SETTLED, _NOT = b"s-"
_COUNT = "UPDATE meta SET value = value + ? WHERE key = 'owners'"
"""Count owners, once the file excludes older releases: see `recount`."""


def register(tx: Transaction, owner: str) -> None:
    """Register an owner, whose lease begins now."""
    _forget(tx, owner)
    row = (owner, tx.now + tx.options.lease, float("inf"), float("inf"))
    tx.db.execute("INSERT INTO owner (id, lease_until, latest, latest_before_4) VALUES (?, ?, ?, ?)", row)
    tx.db.execute(_COUNT, (1,))


def _forget(tx: Transaction, owner: str) -> None:
    gone = tx.db.execute("DELETE FROM owner WHERE id = ?", (owner,)).rowcount
    tx.db.execute(_COUNT, (-gone,))


def renew(tx: Transaction, requests: Mapping[str, str]) -> dict[str, str]:
    """Renew the leases of owners and record their reserve requests.

    Returns, for each owner that exists, its previous reserve request.
    """
    condition, these = among(list(requests))
    last = dict(tx.db.execute(f"SELECT id, reserve_request FROM owner WHERE id {condition}", (these,)).fetchall())
    until = tx.now + tx.options.lease
    tx.db.executemany(
        "UPDATE owner SET lease_until = ?, reserve_request = ? WHERE id = ?",
        [(until, requests[owner], owner) for owner in last],
    )
    return last


def forget_request(tx: Transaction, owner: str) -> None:
    """Forget an owner's reserve request that found nothing: executed again, it is then no repetition."""
    tx.db.execute("UPDATE owner SET reserve_request = '' WHERE id = ?", (owner,))


def heartbeat(tx: Transaction, owner: str) -> Heartbeat:
    """Renew an owner's lease; return which of its jobs are to be cancelled. Raises OwnerLost."""
    if not tx.db.execute("UPDATE owner SET lease_until = ? WHERE id = ?", (tx.now + tx.options.lease, owner)).rowcount:
        raise OwnerLost.of(owner)
    forced = "EXISTS (SELECT 1 FROM meta WHERE key = 'force:' || id)"
    sql = f"SELECT id, {forced} FROM cancel JOIN reserved USING (seq) JOIN job USING (seq) WHERE owner = ?"
    rows = tx.db.execute(sql, (owner,)).fetchall()
    return Heartbeat(cancelled=tuple(row[0] for row in rows), forced=tuple(job_id for job_id, force in rows if force))


def last_answers(tx: Transaction, settles: Sequence[tuple[str, Sequence[object], str]]) -> dict[str, list[Answer]]:
    """Return, by owner, the answers to settle requests that change nothing: of lost owners, and repeated ones."""
    condition, these = among([owner for owner, _, _ in settles])
    sql = f"SELECT id, settle_request, settle_answers FROM owner WHERE id {condition}"
    last = {owner: (request, codes) for owner, request, codes in tx.db.execute(sql, (these,))}
    answered = {}
    for owner, settlements, request in settles:
        known = last.get(owner)
        if known is None:
            answered[owner] = [Answer.STALE] * len(settlements)
        elif known[0] == request:
            answered[owner] = [Answer.ALREADY if code == _SETTLED else Answer.STALE for code in known[1]]
    return answered


def remember(tx: Transaction, settled: Sequence[tuple[str, str, list[Answer]]]) -> None:
    """Keep the answers to settle requests (owner, request and answers), in case they are repeated."""
    tx.db.executemany(
        "UPDATE owner SET settle_request = ?, settle_answers = ? WHERE id = ?",
        [(request, _codes(answers), owner) for owner, request, answers in settled],
    )


def _codes(answers: list[Answer]) -> bytes:
    return bytes([_SETTLED if answer is Answer.SETTLED else _NOT for answer in answers])


def release(
    tx: Transaction, owner: str, started: Collection[str], report: bytes, *, crash: bool, ran: Collection[str] = ()
) -> int:
    """Release an owner's jobs, charge those in `started`, and forget the owner; return how many jobs it had.

    Those in `ran` had started, too, and are not charged.
    """
    rows = tx.db.execute(_HELD, (owner,)).fetchall()
    tx.db.execute("DELETE FROM reserved WHERE owner = ?", (owner,))
    _forget(tx, owner)
    tx.gone += (owner,)
    tx.db.executemany(
        "UPDATE job SET redeliveries = redeliveries + 1, crashes = crashes + ?, errors = ? WHERE seq = ?",
        [(int(crash), removal.note(errors, report), seq) for seq, job_id, _, errors, *_ in rows if job_id in started],
    )
    held = [(job_id in started or job_id in ran, slots) for _, job_id, _, _, _, slots in rows if slots is not None]
    if held:
        lines.free(tx, [slots for had_started, slots in held if had_started])
        lines.free(tx, [slots for had_started, slots in held if not had_started], tokens=True)
    again = [(seq, job_id) for seq, job_id, _, _, cancelled, _ in rows if not cancelled]
    queue.release(tx, [seq for seq, _ in again], unstarted=[seq for seq, job_id in again if job_id not in started])
    cancelled_ids = [job_id for _, job_id, _, _, cancelled, _ in rows if cancelled]
    if cancelled_ids:
        removal.end(tx, cancelled_ids, State.CANCELLED, tx.options.cancelled_ttl)
        members.leave(tx, json.dumps([seq for seq, _, _, _, cancelled, _ in rows if cancelled]))
    tx.wake.update(topic for _, _, topic, *_ in rows)
    return len(rows)


def release_expired(tx: Transaction, limit: int) -> int:
    """Release owners whose lease has expired; if housekeeping itself had stopped, extend all leases first."""
    lease = tx.options.lease
    if tx.now - _note_housekeeping(tx, tx.now) > tx.options.outage_after:
        # Owners of an excluded release cannot get a longer lease.
        tx.db.execute("UPDATE OR IGNORE owner SET lease_until = max(lease_until, ?)", (tx.now + lease,))
    # A clock that was set back must not keep a dead owner forever.
    tx.db.execute("UPDATE owner SET lease_until = :latest WHERE lease_until > :latest", {"latest": tx.now + 2 * lease})
    expired = tx.db.execute("SELECT id FROM owner WHERE lease_until <= ? LIMIT ?", (tx.now, limit)).fetchall()
    for (owner,) in expired:
        held = {row[0] for row in tx.db.execute("SELECT id FROM reserved JOIN job USING (seq) WHERE owner = ?", (owner,))}
        release(tx, owner, held, b"", crash=len(held) == 1)
    return len(expired)


def recount(tx: Transaction) -> None:
    """Count the slots in use anew if a release without limits has released an owner, which has freed none.

    A supervisor of such a release stays connected after the file excludes it. It releases its workers that die, which may be
    of this release after a reload. It does not count owners: so `meta` has more of them than there are.
    """
    counted = tx.first("SELECT value FROM meta WHERE key = 'owners'")
    if counted is None:
        return
    owners = tx.first("SELECT count(*) FROM owner")
    if owners != counted:
        tx.db.execute(_COUNT, (owners - counted,))
        lines.recount(tx)


def begin_grace(tx: Transaction) -> None:
    """Make the next round of housekeeping extend all leases; the ZeroMQ broker calls this after it was down."""
    _note_housekeeping(tx, 0.0)


def _note_housekeeping(tx: Transaction, at: float) -> float:
    """Store the time of housekeeping; return the time before.

    A file that excludes older releases refuses the rows that they write, because they would keep house; then another row has
    the time.
    """
    last = float(tx.first("SELECT value FROM meta WHERE key LIKE 'last_house%' ORDER BY key DESC LIMIT 1"))
    excluded = "CASE WHEN value < 3 THEN 'last_housekeep' WHEN value < 4 THEN 'last_housekept' ELSE 'last_housekept_4' END"
    sql = f"INSERT OR REPLACE INTO meta (key, value) SELECT {excluded}, ? FROM meta WHERE key = 'readable_by'"
    tx.db.execute(sql, (at,))
    return last
