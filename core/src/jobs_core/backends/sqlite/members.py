"""The members of flows: their phases, and what follows from each end, by the rules of `backends/flows.py`.

`enter` moves members to another phase in one step, with the counters of their flow and stage, and notes in `flow_work` which
targets have ended. `proceed` carries on with these notes, the oldest first, for up to SLICE dependents: it counts the ends in
the rows of the dependents, and then decides the fate of those that still wait. All of it works on sets of rows, which are
passed as JSON arrays of sequence numbers.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, Final

from ..flows import AFTER_GONE, MOST_LISTED, SLICE
from . import lines, removal
from .connection import Transaction


class Phase(IntEnum):
    """The phase of a member; `flows.sql` has the numbers."""

    WAITING = 0
    STUCK = 1  # waits for something that died
    ACTIVE = 2  # ready, limited, scheduled or reserved
    DONE = 3
    DEAD = 4
    GONE = 5
    SKIPPED = 6
    LET = 7  # dead in a cancelled flow, where it counts as gone


BAD: Final = (Phase.STUCK, Phase.DEAD)
FAILED: Final = (*BAD, Phase.GONE)
_LIVE: Final = "(0, 1, 2, 4)"  # phases that a member can leave
_COLUMN: Final = ("waiting", "stuck", "active", "done", "dead", "gone", "gone", "dead")
"""The counter of each phase in the row of a flow."""

JUDGE: Final = -1  # in `flow_work.ended`: report the ends of stages in which nothing was left when the flow was closed
SWEEP: Final = -2  # likewise: remove the members of a cancelled flow
FIRST: Final = -(1 << 62)  # less than each sequence number
LAST: Final = 1 << 62

CANCELLED: Final = "its flow was cancelled"
_REASONS: Final = {
    "barred": (Phase.GONE, CANCELLED),
    "gone": (Phase.GONE, AFTER_GONE),
    "skipped": (Phase.SKIPPED, "skipped: a member that it waited for was skipped"),
    "needless": (Phase.SKIPPED, "skipped: nothing that it waited for had failed"),
}

_ENTERING = f"""
SELECT flow, stage, finale, phase, count(*), count(inputs), total > {MOST_LISTED}, open_until IS NULL, body
  FROM flow_member JOIN flow ON n = flow
 WHERE seq IN (SELECT value FROM json_each(:seqs)) AND phase IN {_LIVE} AND phase <> :phase GROUP BY 1, 2, 3, 4
"""
_COUNT = """
UPDATE flow SET waiting = waiting + :waiting, stuck = stuck + :stuck, active = active + :active, done = done + :done,
       dead = dead + :dead, gone = gone + :gone, failed_at = CASE WHEN :dead > 0 THEN :now ELSE failed_at END
 WHERE n = :flow RETURNING waiting + active = 0
"""
_FOLLOW = """
INSERT INTO flow_work (flow, target, ended, after, upto)
SELECT flow, seq, :ended, :first, last FROM (
       SELECT flow, seq, (SELECT max(dependent) FROM flow_edge WHERE target = seq) AS last FROM flow_member
        WHERE seq IN (SELECT value FROM json_each(:seqs)) AND phase IN ({0}))
 WHERE last IS NOT NULL
"""
_FOLLOW_GROUP = """
INSERT INTO flow_work (flow, target, ended, after, upto)
SELECT :flow, :target, :ended, :first, max(dependent) FROM flow_edge WHERE target = :target HAVING max(dependent) IS NOT NULL
"""
_COUNT_IN_GROUP = """
UPDATE flow_group SET live = live + ?, bad = bad + ?, gone = gone + ? WHERE n = ? RETURNING n, live, bad, gone, ended
"""
_LEAVE_RESULTS = """
UPDATE flow_result SET takers = takers - taken.count
  FROM (SELECT flow, value AS id, count(*) AS count FROM flow_member, json_each(inputs)
         WHERE seq IN (SELECT value FROM json_each(:seqs)) AND inputs IS NOT NULL GROUP BY 1, 2) AS taken
 WHERE flow_result.flow = taken.flow AND flow_result.id = taken.id
"""
_FORGET_RESULTS = """
DELETE FROM flow_result WHERE takers <= 0 AND (flow, id) IN (
       SELECT flow, value FROM flow_member, json_each(inputs)
        WHERE seq IN (SELECT value FROM json_each(:seqs)) AND inputs IS NOT NULL)
"""

_BARRED = "cancelled = 1 OR (cancelled = 2 AND NOT finale)"
_DELIVERED = f"SELECT n, flow.id, {_BARRED}, inputs FROM flow_member JOIN flow ON n = flow WHERE seq = ?"
_RESULTS = """
SELECT flow_result.id, result FROM json_each(?) AS taken CROSS JOIN flow_result ON flow = ? AND flow_result.id = taken.value
 WHERE result IS NOT NULL ORDER BY taken.key
"""

# -- phases ------------------------------------------------------------------------------------------


def enter(tx: Transaction, seqs: str, phase: Phase, reason: str = "") -> None:
    """Move members to a phase, and note what follows; skip those that have ended for good. Callers `proceed` later."""
    facts = {"seqs": seqs, "phase": phase, "reason": reason or None}
    found = tx.db.execute(_ENTERING, facts).fetchall()
    if not found:
        return
    ended, bad, gone = phase not in (Phase.WAITING, Phase.ACTIVE), phase in BAD, phase in (Phase.GONE, Phase.LET)
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    groups: dict[int, tuple[int, bool, list[int]]] = {}
    for flow, stage, finale, before, count, _, _, closed, body in found:
        counts[flow][_COLUMN[before]] -= count
        counts[flow][_COLUMN[phase]] += count
        changes = (int(before in BAD) - ended, bad - int(before in BAD), int(gone))
        for group in (stage, None if finale else body):
            if group is not None and any(changes):
                _, _, sums = groups.setdefault(group, (flow, bool(closed), [0, 0, 0]))
                sums[:] = [total + count * change for total, change in zip(sums, changes, strict=True)]
    for flow, counter in counts.items():
        _count(tx, flow, counter)
    _follow(tx, seqs, phase, {before for _, _, _, before, *_ in found})
    final = phase in (Phase.DONE, Phase.GONE, Phase.SKIPPED, Phase.LET)
    if final and any(row[5] for row in found):
        tx.db.execute(_LEAVE_RESULTS, facts)
        tx.db.execute(_FORGET_RESULTS, facts)
    _write_phase(tx, facts, {bool(final and large and closed) for *_, large, closed, _ in found})
    for group, (flow, closed, sums) in groups.items():
        row = tx.db.execute(_COUNT_IN_GROUP, (*sums, group)).fetchone()
        if closed:
            _judge(tx, flow, *row)


def _count(tx: Transaction, flow: int, counter: Counter[str]) -> None:
    facts = {"flow": flow, "now": tx.now} | {column: counter[column] for column in _COLUMN}
    tx.flows[flow] = bool(tx.first(_COUNT, facts))


def _follow(tx: Transaction, seqs: str, phase: Phase, before: set[int]) -> None:
    """Note that members have ended, or that dead ones have not; from death to death, nothing follows."""
    if phase in (Phase.WAITING, Phase.ACTIVE):
        if before.isdisjoint(BAD):
            return
        ended, those = Phase.WAITING, "1, 4"
    else:
        ended, those = (Phase.GONE if phase is Phase.LET else phase), "0, 2" if phase in BAD else "0, 1, 2, 4"
    tx.db.execute(_FOLLOW.format(those), {"seqs": seqs, "ended": ended, "first": FIRST})


def _write_phase(tx: Transaction, facts: dict[str, object], deletes: set[bool]) -> None:
    """Write the phase of members, or delete their rows: in flows that are too large for a list of those that have ended."""
    these = f"seq IN (SELECT value FROM json_each(:seqs)) AND phase IN {_LIVE} AND phase <> :phase"
    if True in deletes:
        large = f"flow IN (SELECT n FROM flow WHERE total > {MOST_LISTED} AND open_until IS NULL)"
        tx.db.execute(f"DELETE FROM flow_member WHERE {these} AND {large}", facts)
    if False in deletes:
        tx.db.execute(f"UPDATE flow_member SET phase = :phase, reason = :reason WHERE {these}", facts)


def _judge(tx: Transaction, flow: int, group: int, live: int, bad: int, gone: int, before: int | None) -> None:
    """Report the end of a stage or of the body once it has one, and take it back when a dead letter in it is retried."""
    end = None if live else Phase.GONE if gone else Phase.DEAD if bad else Phase.DONE
    if end == before:
        return
    tx.db.execute("UPDATE flow_group SET ended = ? WHERE n = ?", (end, group))
    if before in BAD and end not in BAD:
        follow_group(tx, flow, group, Phase.WAITING)
    if end is not None:
        follow_group(tx, flow, group, end)


def follow_group(tx: Transaction, flow: int, group: int, ended: Phase) -> None:
    """Note the end of a group for the members that are after it; WAITING takes a death back."""
    tx.db.execute(_FOLLOW_GROUP, {"flow": flow, "target": group, "ended": ended, "first": FIRST})


def note_work(tx: Transaction, flow: int, what: int) -> None:
    """Note something to do with a whole flow: JUDGE or SWEEP."""
    sql = "INSERT INTO flow_work (flow, ended, after, upto) VALUES (?, ?, ?, ?)"
    tx.db.execute(sql, (flow, what, FIRST, LAST))


# -- what happens to members -------------------------------------------------------------------------


def members_of(seqs: str) -> str:
    """Return the members, whose sequence numbers are negative, of a JSON array; empty if there are none."""
    if "-" not in seqs:
        return ""
    return json.dumps([seq for seq in json.loads(seqs) if seq < 0])


def leave(tx: Transaction, seqs: str) -> None:
    """Note that jobs were removed by somebody else than their flow; of plain ones, nothing."""
    if members := members_of(seqs):
        enter(tx, members, Phase.GONE)
        proceed(tx)


def end(tx: Transaction, seq: int, phase: Phase, *, reason: str = "", result: bytes | None = None) -> None:
    """Note that a member was done, died, or was cancelled. A dead letter of a cancelled flow cannot be retried."""
    if phase is Phase.DEAD and tx.first("SELECT cancelled FROM flow JOIN flow_member ON n = flow WHERE seq = ?", (seq,)):
        phase = Phase.LET
    if result is not None:
        sql = "UPDATE flow_result SET result = ? WHERE (flow, id) = (SELECT flow, id FROM flow_member WHERE seq = ?)"
        tx.db.execute(sql, (result, seq))
    enter(tx, json.dumps([seq]), phase, reason)


def refuse(tx: Transaction, seq: int, reason: str) -> None:
    """Note that a flow did not admit a member that was just added: it is dead from the start, and cannot be retried."""
    tx.db.execute("UPDATE flow_member SET lost = 4, seal = ? WHERE seq = ?", (FIRST, seq))  # it waits for no stage
    end(tx, seq, Phase.DEAD, reason=reason)


def can_retry(tx: Transaction, seq: int) -> bool:
    """Return whether a dead member may run again: not if its flow was cancelled, or never admitted it."""
    return bool(tx.first("SELECT phase = 4 AND lost IS NOT 4 FROM flow_member WHERE seq = ?", (seq,)))


def retry(tx: Transaction, seqs: str) -> None:
    """Let dead members, whose jobs are no dead letters any more, run at once, or wait again."""
    tx.db.execute(f"UPDATE flow_member SET delay = 0 WHERE seq IN ({removal.THESE}) AND delay > 0 AND awaits <= 0", (seqs,))
    enter(tx, seqs, Phase.WAITING)
    decide(tx, "SELECT value FROM json_each(:seqs)", {"seqs": seqs})
    proceed(tx)


def may_start(tx: Transaction, seq: int) -> bool:
    """Return whether a member waits for nothing any more, and may start."""
    return bool(tx.first("SELECT phase FROM flow_member WHERE seq = ?", (seq,)) == Phase.ACTIVE) and not is_barred(tx, seq)


def delivered(tx: Transaction, seq: int) -> tuple[str, bool, tuple[tuple[str, bytes], ...]]:
    """Return the flow of a reserved member, whether the member must not start, and the results that it takes."""
    row = tx.db.execute(_DELIVERED, (seq,)).fetchone()
    if row is None:
        return "", False, ()
    n, flow_id, barred, inputs = row
    if not inputs or barred:
        return flow_id, bool(barred), ()
    return flow_id, False, tuple(results(tx.db, n, inputs, tx.options.max_message))


def results(db: sqlite3.Connection, flow: int, job_ids: str, most: int, *, first: bool = False) -> list[tuple[str, bytes]]:
    """Return the results of members, a JSON array, as many as fit into `most` bytes together; or only the first."""
    found: list[tuple[str, bytes]] = []
    for job_id, result in db.execute(_RESULTS, (job_ids, flow)):
        most -= len(result)
        if most < 0 and (found or not first):
            break
        found.append((job_id, result))
    return found


def is_barred(tx: Transaction, seq: int) -> bool:
    """Return whether a member must not start, because its flow was cancelled."""
    sql = f"SELECT {_BARRED} FROM flow JOIN flow_member ON n = flow WHERE seq = ?"
    return bool(tx.first(sql, (seq,)))


def drop_barred(tx: Transaction, tokens: Sequence[int], seqs: Sequence[int]) -> None:
    """Remove members of cancelled flows that a reserve came upon: reserved ones by token, others that left their line.

    Callers `proceed` later.
    """
    sql = "DELETE FROM reserved WHERE token IN (SELECT value FROM json_each(?)) RETURNING seq, slots"
    reserved = tx.db.execute(sql, (json.dumps(tokens),)).fetchall()
    lines.free(tx, [slots for _, slots in reserved if slots is not None], tokens=True)
    remove(tx, json.dumps([*(seq for seq, _ in reserved), *seqs]), Phase.GONE, CANCELLED)


def remove(tx: Transaction, seqs: str, phase: Phase, reason: str) -> None:
    """Cancel members that stand in no line."""
    enter(tx, seqs, phase, reason)
    removal.cancel(tx, seqs, reason)


def _start(tx: Transaction, seqs: str, topics: str, *, later: bool = False) -> None:
    """Make members ready, or due after their delay, because all that they waited for has ended."""
    enter(tx, seqs, Phase.ACTIVE)
    facts = {"seqs": seqs, "now": tx.now}
    if later:
        tx.db.execute(
            "UPDATE job SET due = min(:now + (SELECT delay FROM flow_member WHERE flow_member.seq = job.seq), coalesce("
            "(SELECT until FROM unique_key WHERE key = job.unique_key AND job_id = job.id AND scope = 'queued'), 9e999)) "
            "WHERE seq IN (SELECT value FROM json_each(:seqs))",
            facts,
        )
    else:
        these = "seq IN (SELECT value FROM json_each(:seqs))"
        tx.db.execute(f"UPDATE job SET ready_at = :now WHERE {these} AND coalesce(ready_at, pushed_at) <> :now", facts)
        lines.line_up(tx, json.loads(seqs))
    tx.wake.update(json.loads(topics))


# -- what follows ------------------------------------------------------------------------------------

_NEXT = """
SELECT n, flow, target, ended, after, upto, (
       SELECT count(*) FROM (SELECT 1 FROM flow_edge WHERE target = flow_work.target AND dependent > after AND dependent <= upto
        LIMIT :most))
  FROM flow_work ORDER BY n LIMIT :most
"""
_EDGES = """
flow_work CROSS JOIN flow_edge
    ON flow_edge.target = flow_work.target AND dependent > after AND dependent <= min(upto, :cut)
       AND (any_end = 0 OR ended <> 0)
 WHERE n BETWEEN :first AND :last
"""
_TELL = f"""
UPDATE flow_member
   SET awaits = awaits - CASE WHEN :ended = 3 THEN needs + any_ends ELSE any_ends END,
       stuck = stuck + CASE WHEN :ended IN (1, 4) THEN needs WHEN :ended = 0 THEN -needs ELSE 0 END,
       failed = failed OR (any_ends AND :ended IN (1, 4, 5)),
       lost = coalesce(lost, CASE WHEN needs AND :ended IN (5, 6) THEN :ended END)
  FROM (SELECT dependent, sum(any_end) AS any_ends, sum(1 - any_end) AS needs FROM {_EDGES} GROUP BY 1) AS told
 WHERE seq = told.dependent
"""
_FORGET_EDGES = f"""
DELETE FROM flow_edge WHERE (target, dependent, any_end) IN (
       SELECT flow_edge.target, dependent, any_end FROM {_EDGES} AND (any_end = 1 OR ended NOT IN (0, 1, 4)))
"""
_FATES = f"""
SELECT fate, json_group_array(seq), json_group_array(DISTINCT topic) FROM (
       SELECT seq, topic, phase, CASE
              WHEN {_BARRED} THEN 'barred'
              WHEN lost = 5 THEN 'gone'
              WHEN lost = 6 THEN 'skipped'
              WHEN awaits <= 0 AND open_until IS NOT NULL THEN 'opening'
              WHEN awaits <= 0 AND if_failed AND NOT failed THEN 'needless'
              WHEN awaits <= 0 AND delay > 0 THEN 'later'
              WHEN awaits <= 0 THEN 'now'
              WHEN flow_member.stuck > 0 THEN 'stuck' ELSE 'waiting' END AS fate
         FROM flow_member JOIN flow ON n = flow WHERE seq IN ({{0}}) AND phase < 2)
 WHERE (fate, phase) NOT IN (VALUES ('waiting', 0), ('stuck', 1)) GROUP BY fate
"""
_OPENING = """
INSERT INTO flow_edge SELECT opening, seq, 0 FROM flow_member JOIN flow ON n = flow
 WHERE seq IN (SELECT value FROM json_each(?))
"""


def proceed(tx: Transaction, most: int = SLICE) -> bool:
    """Carry on with what follows, for up to `most` members; note the ends of flows. Return whether there is more to do."""
    more = True
    while most > 0:
        decided = _step(tx, most)
        if decided is None:
            more = False
            break
        most -= max(1, decided)
    if more:  # wake somebody, because this worker may be busy from now on
        sql = "SELECT topic FROM flow_member WHERE flow = (SELECT flow FROM flow_work ORDER BY n LIMIT 1) LIMIT 1"
        if (topic := tx.first(sql)) is not None:
            tx.wake.add(topic)
    _end_flows(tx)
    return more


def _step(tx: Transaction, most: int) -> int | None:
    """Take one or more of the oldest notes; return for how many members they stood, or None if there was none."""
    batch: list[tuple[Any, ...]] = []
    targets: set[int] = set()
    edges = 0
    rows = tx.db.execute(_NEXT, {"most": most})
    for row in rows:
        _, _, target, ended, _, _, count = row
        if batch and (ended != batch[0][3] or target is None or target in targets or edges + count > most):
            break
        batch.append(row)
        targets.add(target)
        edges += count
        if target is None or edges >= most:
            break
    rows.close()
    if not batch:
        return None
    tx.flows |= dict.fromkeys([row[1] for row in batch], True)
    first, flow, target, ended, after, upto, _ = batch[0]
    if target is None:
        return (_sweep if ended == SWEEP else _judge_some)(tx, first, flow, after, most)
    cut = LAST
    if edges >= most:
        sql = "SELECT dependent FROM flow_edge WHERE target = ? AND dependent > ? AND dependent <= ? LIMIT 1 OFFSET ?"
        cut = tx.first(sql, (target, after, upto, most - 1)) if len(batch) == 1 else LAST
    _tell(tx, first, batch[-1][0], ended, cut)
    return edges


def _tell(tx: Transaction, first: int, last: int, ended: int, cut: int) -> None:
    """Count the end of targets in the rows of the members that are after them, and decide their fate."""
    facts = {"first": first, "last": last, "ended": ended, "cut": cut}
    tx.db.execute(_TELL, facts)
    fates = tx.db.execute(_FATES.format(f"SELECT dependent FROM {_EDGES}"), facts).fetchall()
    if ended != Phase.WAITING:
        tx.db.execute(_FORGET_EDGES, facts)
    _finish(tx, first, last, cut)
    _meet(tx, fates)


def _finish(tx: Transaction, first: int, last: int, cut: int) -> None:
    """Delete notes that were carried out, or note how far one was."""
    if cut < LAST:
        tx.db.execute("UPDATE flow_work SET after = ? WHERE n = ?", (cut, first))
    else:
        tx.db.execute("DELETE FROM flow_work WHERE n BETWEEN ? AND ?", (first, last))


def decide(tx: Transaction, those: str, facts: dict[str, object]) -> None:
    """Decide the fate of members, given by an SQL query, that are waiting or stuck."""
    _meet(tx, tx.db.execute(_FATES.format(those), facts).fetchall())


def _meet(tx: Transaction, fates: Iterable[tuple[str, str, str]]) -> None:
    for fate, seqs, topics in fates:
        if fate in _REASONS:
            remove(tx, seqs, *_REASONS[fate])
        elif fate in ("now", "later"):
            _start(tx, seqs, topics, later=fate == "later")
        elif fate == "opening":
            tx.db.execute(_OPENING, (seqs,))
            tx.db.execute("UPDATE flow_member SET awaits = 1 WHERE seq IN (SELECT value FROM json_each(?))", (seqs,))
        else:
            enter(tx, seqs, Phase.STUCK if fate == "stuck" else Phase.WAITING)


def _judge_some(tx: Transaction, n: int, flow: int, after: int, most: int) -> int:
    """Report the ends of groups in which nothing was left before the flow was closed."""
    sql = "SELECT n, live, bad, gone, ended FROM flow_group WHERE flow = ? AND live = 0 AND n > ? ORDER BY n LIMIT ?"
    groups = tx.db.execute(sql, (flow, after, most)).fetchall()
    _finish(tx, n, n, groups[-1][0] if len(groups) == most else LAST)
    for group in groups:
        _judge(tx, flow, *group)
    return len(groups)


_SWEPT = """
SELECT json_group_array(seq) FILTER (WHERE phase = 4), json_group_array(seq) FILTER (WHERE phase < 2 AND {0}),
       json_group_array(seq) FILTER (WHERE phase = 2 AND {0} AND (
            EXISTS (SELECT 1 FROM job WHERE job.seq = flow_member.seq AND due IS NOT NULL)
         OR EXISTS (SELECT 1 FROM lined WHERE lined.seq = flow_member.seq)
         OR EXISTS (SELECT 1 FROM job JOIN ready ON ready.topic = job.topic AND ready.rank = job.rank
                       AND since = coalesce(ready_at, pushed_at) AND ready.seq = job.seq WHERE job.seq = flow_member.seq)))
  FROM flow_member JOIN flow ON n = flow WHERE flow = :flow AND seq > :after AND seq <= :cut
""".format("(cancelled = 1 OR NOT finale)")


def _sweep(tx: Transaction, n: int, flow: int, after: int, most: int) -> int:
    """Remove members of a cancelled flow that are not reserved; give up its dead letters."""
    sql = "SELECT seq FROM flow_member WHERE flow = ? AND seq > ? ORDER BY seq LIMIT 1 OFFSET ?"
    cut = tx.first(sql, (flow, after, most - 1))
    facts = {"flow": flow, "after": after, "cut": LAST if cut is None else cut}
    dead, waiting, queued = tx.db.execute(_SWEPT, facts).fetchone()
    _finish(tx, n, n, facts["cut"])
    enter(tx, dead, Phase.LET)
    remove(tx, waiting, Phase.GONE, CANCELLED)
    removal.dequeue(tx, queued)
    remove(tx, queued, Phase.GONE, CANCELLED)
    return most if cut is not None else 1


_END = """
UPDATE flow SET ended_at = :now, kept_until = :now + ttl
 WHERE n IN (SELECT value FROM json_each(:flows)) AND open_until IS NULL AND ended_at IS NULL
   AND waiting + stuck + active = 0 AND (dead = 0 OR cancelled)
   AND NOT EXISTS (SELECT 1 FROM flow_work WHERE flow_work.flow = flow.n)
"""
_RESTING = "SELECT id FROM flow WHERE n IN (SELECT value FROM json_each(:flows)) AND waiting + active = 0"


def _end_flows(tx: Transaction) -> None:
    """Note the end of flows in which nothing is left to do or to be retried."""
    resting = [n for n, rests in tx.flows.items() if rests]
    tx.flows.clear()
    if resting:
        facts = {"now": tx.now, "flows": json.dumps(resting)}
        tx.db.execute(_END, facts)
        tx.rested += tuple(flow_id for (flow_id,) in tx.db.execute(_RESTING, facts))
