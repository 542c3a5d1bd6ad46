"""The backend for one schema of a database; the package's docstring says how it works."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from jobs_core.backend_kit import SelfPipe
from jobs_core.backends.base import (
    FEATURES,
    Answer,
    BackendOptions,
    BindsKeys,
    Checkpoint,
    Delivery,
    Heartbeat,
    Housekept,
    Outgoing,
    Settlement,
)
from jobs_core.backends.documents import Guard
from jobs_core.backends.statistics import REMEMBERED
from jobs_core.errors import BackendError, OwnerLost

from .advice import advice
from .connection import ServerConnection
from .counting import Counting
from .documents import PostgresDocumentCalls
from .enlisting import PostgresTransactionCalls
from .limits import PostgresLimitCalls
from .listener import CANCEL, LONGEST_SLEEP, Listener
from .operators import PostgresOperatorCalls
from .polling import Poller, listener_for
from .rows import delivery, facts, holds, is_simple, stored, token
from .settling import PostgresSettleCalls, are_plain, plain_facts, plain_texts
from .statistics import PostgresStatisticsCalls
from .url import Target

_number = itemgetter(0)
_LOOK = "SELECT ready OR EXISTS (SELECT FROM {s}.flow_left), due FROM {s}.look(%s)"
_PUSH = "SELECT {s}.push(%s, %s, %s, %s, %s, %s, %s), {s}.sleeps(%s)"
_PUSH_ONE = "SELECT {s}.push_one(%s, %s, %s, %s, %s, %s, %s)"
ENTERED_AT_ONCE = 500
"""Pushed jobs of a topic that one statement puts into lines, which bounds how long it holds their lock."""

FIRST_PAUSE = 0.005
"""Half the seconds for which a worker sleeps that saw a ready job and could not reserve it, doubled each time.

Another worker has taken it, or a transaction is open that has locked it, such as one of an application that replaces the job.
"""

MOMENT = 0.005
"""Seconds after which a worker looks again that has just fallen asleep; each pause is ten times as long as the one before.

A push asks whether workers wait, and sees none; one falls asleep before the push commits, so that it does not see the job yet.
If the push took longer than this, it wakes a worker after it; otherwise the second look of the worker finds its job. The other
looks are for transactions of applications, whose commits may take longer.
"""

COUNTED_AT_ONCE = 10_000
"""Rows of counts that one statement adds up."""

_ANSWERS = {"s": Answer.SETTLED, "a": Answer.ALREADY, "-": Answer.STALE}


class PostgresBackend(
    PostgresOperatorCalls,
    PostgresSettleCalls,
    PostgresDocumentCalls,
    PostgresStatisticsCalls,
    PostgresTransactionCalls,
    PostgresLimitCalls,
    BindsKeys,
):
    """One connection to the server, and for a worker a second one, on which it is notified."""

    name = "postgresql"
    features = FEATURES | {
        "checkpoints", "documents", "guards", "notes", "history", "limits", "fairness", "flows", "transactions", "dead_groups",
        "amend", "move", "statistics",
    }  # fmt: skip
    wakes_to_cancel = True
    overlaps = True

    def __init__(self, target: Target, options: BackendOptions) -> None:
        super().__init__(ServerConnection(target), options)
        PostgresTransactionCalls.__init__(self, target)
        self._owner = ""
        self._topics = set()
        self._listener: Listener | Poller | None = None  # of a worker
        self.wakes_to_cancel = not target.pooling
        self._interrupts: SelfPipe | None = None  # of all others, such as housekeepers: they wait for nothing but an interrupt
        self._counting = Counting()
        self._dead_topics: list[str] = []  # those that had dead letters in the last round of housekeeping
        self._walks = "{}"  # how far it has come in counting dead letters, see `keep_dead`
        self._asleep: frozenset[str] = frozenset()  # topics for which this worker is noted as waiting
        self._look_at = 0.0  # when to look again, if no worker is told to before
        self._looked_for: tuple[str, ...] = ()  # the topics of the last look
        self._pause = MOMENT  # from the next look to the one after it
        self._looked_ready = False  # whether the last wait saw a ready job, and nothing was reserved since
        self._in_vain = 0  # how often in a row such a job could not be reserved
        self._asked = ""  # the last reserve request, if it is not answered
        self._settled = self._settling = ""  # the last settle request that is answered, and the one that is not
        self._begun = ""  # the settle request that was sent, and whose answer nobody has taken

    def open(self, owner: str | None) -> None:
        self._connection.connect()
        try:
            self._connection.prepare_store()
            if owner:
                self._listener = listener_for(self._target, owner)
                self._listener.connect()
                self._connection.function("register", owner, self._options.lease)
            elif self._interrupts is None:
                self._interrupts = SelfPipe()
        except BaseException:
            self._disconnect()
            raise
        self._owner = owner or ""

    def close(self) -> None:
        owner, self._owner = self._owner, ""
        counting, self._counting = self._counting, Counting()
        if counting.kept and self._connection.connected:
            with contextlib.suppress(BackendError):
                self._connection.function("count_pushed", json.dumps(counting.kept))
        if owner and self._connection.connected:
            with contextlib.suppress(BackendError):
                self._release(owner, [], [], b"", crash=False)
                if isinstance(self._listener, Listener):
                    self._connection.function("wake_up", self._listener.channel)
        self._disconnect()

    def _disconnect(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._connection.disconnect()

    # -- push --------------------------------------------------------------------------------------

    def push(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        return self._push(messages, request, loosely=False)

    def push_loosely(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        return self._push(messages, request, loosely=True)

    def _push(self, messages: Sequence[Outgoing], request: str, *, loosely: bool) -> Mapping[str, str]:
        if not messages:
            return {}
        counts = self._counting.due(messages)
        if len(messages) == 1 and is_simple(messages[0]):
            self._push_one(messages[0], request, counts)
            self._counting.pushed(messages, counts)
            return {}
        parameters = facts(messages, counts=counts)
        topics = sorted({message.topic for message in messages})
        asked = (request, *parameters, loosely, self._options.cancelled_ttl, topics)
        began = time.monotonic()
        ((conflicts, sleeps),) = self._connection.rows(self._connection.sql(_PUSH), asked)
        self._counting.pushed(messages, counts)
        if parameters[-1] or sleeps or time.monotonic() - began >= MOMENT:
            self._wake_for(messages, lined=parameters[-1])
        found: Mapping[str, str] = conflicts
        return found

    def _push_one(self, message: Outgoing, request: str, counts: Mapping[str, int]) -> None:
        """Push a simple message; wake a worker if one waits for its topic."""
        counted = json.dumps(counts) if counts else None
        parameters = (request, message.id, message.topic, -message.priority, max(0.0, message.delay), message.payload, counted)
        began = time.monotonic()
        sleeps = self._connection.value(self._connection.sql(_PUSH_ONE), parameters)
        if sleeps or time.monotonic() - began >= MOMENT:
            self._wake([message.topic])

    def push_guarded(self, messages: Sequence[Outgoing], request: str, guard: Guard) -> Mapping[str, str] | None:
        counts = self._counting.due(messages)
        parameters = facts(messages, counts=counts)
        conflicts: Mapping[str, str] | None = self._connection.function(
            "push_guarded", guard.kind, guard.name, guard.version, request, *parameters, self._options.cancelled_ttl
        )
        if conflicts is not None:
            self._counting.pushed(messages, counts)
            self._wake_for(messages, lined=parameters[-1])
        return conflicts

    def _wake_for(self, messages: Sequence[Outgoing], *, lined: bool) -> None:
        """Wake workers for pushed jobs; if one may stand in a line, put them into their lines first, in steps."""
        topics = [message.topic for message in messages]
        if not lined:
            self._wake(topics)
            return
        names = sorted({*topics})
        for _ in range(0, len(topics) + ENTERED_AT_ONCE, ENTERED_AT_ONCE):
            counts = [topics.count(name) for name in names]
            names = self._connection.function("enter_pushed", names, counts, ENTERED_AT_ONCE)
            if not names:
                break

    def bind(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        ids, keys = [message.id for message in messages], [stored(message.unique.key) for message in messages if message.unique]
        taken: Mapping[str, str] = self._connection.function("bind", ids, keys)
        return taken

    # -- reserve -----------------------------------------------------------------------------------

    def reserve(self, topics: Sequence[str], limit: int, request: str) -> list[Delivery]:
        again, self._asked = request == self._asked, request
        self._topics.update(topics)
        parameters = (self._owner, self._options.lease, list(topics), limit, request, again, self.startable)
        statement = self._connection.call("reserve", 7)
        found, carries_on = self._deliveries(statement, parameters, request)
        if carries_on:
            self._carry_on()
            found = found or self._deliveries(statement, parameters, request)[0]
        self._in_vain = 0 if found or carries_on else self._in_vain + self._looked_ready
        self._looked_ready = False
        if found:
            self._awake(True)
        return found

    def claim(self, job_ids: Sequence[str], request: str) -> list[Delivery]:
        again, self._asked = request == self._asked, request
        parameters = (self._owner, self._options.lease, list(job_ids), request, again)
        found, _ = self._deliveries(self._connection.call("take_over", 5), parameters, request)
        self._connection.function("tidy_lines")  # of those that others had reserved
        self._topics.update(delivery.topic for delivery in found)
        return found

    def _deliveries(self, statement: str, parameters: Sequence[Any], request: str) -> tuple[list[Delivery], bool]:
        """Return the jobs that a statement reserves, and whether there is something to carry on with in flows."""
        try:
            rows = self._connection.rows(statement, parameters)
        except OwnerLost:
            raise OwnerLost.of(self._owner) from None
        self.passed_over = carries_on = False
        if rows and rows[-1][0] is None:
            last = rows.pop()
            self.passed_over, carries_on = last[-1], last[2] is not None
        keyed = [row for row in rows if row[9] is not None]
        if keyed:
            self._connection.function("free_queued", [row[1] for row in keyed], [row[9] for row in keyed])
        if rows and min(map(_number, rows)) < 0:
            deliveries = {row[0]: delivery(row, request) for row in rows}
            self._with_flows(deliveries, request, self._owner)
            return [*deliveries.values()], carries_on or len(deliveries) < len(rows)
        return [delivery(row, request) for row in rows], carries_on

    def wait(self, topics: Sequence[str], timeout: float) -> bool:
        listener = self._listener
        if listener is None or not topics:
            return self._wait_for_an_interrupt(topics, timeout)
        if isinstance(listener, Poller):
            return self._poll(listener, topics, timeout)
        deadline, paused = time.monotonic() + timeout, False
        if not self._asleep.issuperset(topics):
            self._fall_asleep(topics, listener)
        elif tuple(topics) != self._looked_for:
            self._look_at = 0.0
        while True:
            if time.monotonic() >= self._look_at:
                ready, due = self._look(topics)
                if ready:
                    left = 0.0 if paused else deadline - time.monotonic()
                    if not self._in_vain or left <= 0:
                        self._looked_ready = True
                        return self._awake(True)
                    paused = True
                    self._look_at = time.monotonic() + min(LONGEST_SLEEP, FIRST_PAUSE * 2 ** min(self._in_vain, 10))
                else:
                    self._look_again_after(due)
            heard, interrupted = listener.sleep(max(0.0, min(deadline, self._look_at) - time.monotonic()))
            if self._hear(heard):
                return self._awake(True)
            if interrupted or self.called:
                return self._awake(False)
            if time.monotonic() >= deadline:
                return False  # noted as waiting until it waits for nothing, or reserves a job: mostly it waits again at once

    def _wait_for_an_interrupt(self, topics: Sequence[str], timeout: float) -> bool:
        """Sleep as a housekeeper does, or a worker that waits for no job; return False."""
        if self._listener is not None:
            self._awake(False)
            self._hear(self._listener.sleep(timeout)[0])
            return False
        if topics or self._interrupts is None:
            raise BackendError(f"{self._target.shown}: only a worker waits for jobs")
        self._interrupts.wait(timeout)
        return False

    def _fall_asleep(self, topics: Sequence[str], listener: Listener) -> None:
        """Note that this worker waits for jobs of these topics; after that, it has to look."""
        self._connection.function("fall_asleep", list(topics), listener.channel)
        self._asleep = frozenset(topics)
        self._look_at, self._pause = 0.0, MOMENT

    def _look_again_after(self, due: float | None) -> None:
        """Note when to look again: when a job is due, and less and less often."""
        self._look_at = time.monotonic() + (self._pause if due is None else min(self._pause, due))
        self._pause = min(10 * self._pause, LONGEST_SLEEP)

    def _poll(self, poller: Poller, topics: Sequence[str], timeout: float) -> bool:
        """Wait for jobs without being notified."""
        deadline = time.monotonic() + timeout
        if self._in_vain:
            poller.looked()
        while poller.sleep_until_next(deadline - time.monotonic()):
            ready, due = self._look(topics)
            if ready:
                self._looked_ready = True
                if not self._in_vain:
                    poller.found()
                return True
            poller.looked(due)
        return False

    def _look(self, topics: Sequence[str]) -> tuple[bool, float | None]:
        """Return whether topics may have jobs, and if not, after how many seconds one is due."""
        self._looked_for = tuple(topics)
        ((ready, due),) = self._connection.rows(self._connection.sql(_LOOK), (list(topics),))
        return ready or (due is not None and due <= 0), due

    def _hear(self, heard: Iterable[bytes]) -> bool:
        """Take note of what was notified; return whether a topic may have jobs."""
        woken = False
        for each in heard:
            if each == CANCEL:
                self.called = True
            else:
                woken = True
                self._asleep -= {each.decode()}  # it was removed from the sleepers of this topic
        return woken

    def _awake(self, woken: bool) -> bool:
        """Remove this worker from the sleepers of all topics, so that nobody wakes it in vain."""
        if self._asleep and self._listener is not None:
            self._asleep = frozenset()
            self._connection.function("wake_up", self._listener.channel)
        return woken

    def advice(self) -> list[str]:
        return advice(self._target, self._connection)

    def interrupt(self) -> None:
        listener, interrupts = self._listener, self._interrupts
        if listener is not None:
            listener.interrupt()
        elif interrupts is not None:
            interrupts.wake()

    # -- settle ------------------------------------------------------------------------------------

    def begin_settle(self, settlements: Sequence[Settlement], request: str) -> bool:
        texts = plain_texts(settlements) if are_plain(settlements) else None
        if texts is None:
            return False
        self._settling = request
        parameters = (self._owner, request, self._settled, False, *texts)
        self._connection.begin(self._connection.call("settle_done", 6), parameters)
        self._begun = request
        return True

    def settle(self, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        if not settlements:
            return []
        if request == self._begun:
            self._begun = ""
            return self._note_settled(request, self._connection.end()[0][0])
        again, self._settling = request in (self._settling, self._settled), request
        if not are_plain(settlements):
            answers = self._settle_batch(settlements, request, again)
            limited = any(holds(s.token) or s.close_limits for s in settlements)
        elif texts := plain_texts(settlements):
            limited = False
            answers = self._connection.function("settle_done", self._owner, request, self._settled, again, *texts)
        else:
            limited = any(holds(s.token) for s in settlements)
            answers = self._settle_special(request, again, *plain_facts(settlements, limited=limited))
        if limited:
            self._connection.function("tidy_lines")
        return self._note_settled(request, answers)

    def _note_settled(self, request: str, answers: str) -> list[Answer]:
        self._settled, self._settling = request, ""
        return [_ANSWERS[answer] for answer in answers]

    def _settle_special(self, request: str, again: bool, seqs: list[int], requests: list[str], ran: list[bool] | None) -> str:
        """Acknowledge jobs of which some hold slots or are members of flows; return the answers."""
        if min(seqs) < -1:
            return self._settle_members(request, again, seqs, requests, ran)
        done = (self._owner, request, self._settled, again, seqs, requests)
        name, more = ("settle_done", ()) if ran is None else ("settle_holding", (ran,))
        return str(self._connection.function(name, *done, *more))

    def _settle_members(self, request: str, again: bool, seqs: list[int], requests: list[str], ran: list[bool] | None) -> str:
        """Acknowledge jobs of which some are members of flows; with `ran`, some have slots. Return the answers."""
        ttl = self._options.cancelled_ttl
        parameters = (self._owner, request, self._settled, again, seqs, requests, ttl)
        if ran is None:
            ((answers, woken),) = self._connection.rows(self._connection.call("settle_done_members", 7), parameters)
        else:
            statement = self._connection.call("settle_holding_members", 8)
            ((answers, woken),) = self._connection.rows(statement, (*parameters, ran))
        self._wake(woken)
        return str(answers)

    def checkpoint(self, checkpoints: Sequence[Checkpoint]) -> None:
        tokens = [token(each.token) for each in checkpoints]
        statement = """
            WITH new AS (
                INSERT INTO {s}.checkpoint SELECT c.seq, c.cursor
                  FROM unnest(%s::bigint[], %s::text[], %s::bytea[]) AS c (seq, request, cursor)
                 WHERE (SELECT r.owner FROM {s}.reserved AS r WHERE r.seq = c.seq AND r.request = c.request) = %s
                ON CONFLICT (seq) DO UPDATE SET cursor = excluded.cursor)
            SELECT 1"""
        cursors = [each.cursor for each in checkpoints]
        facts_of = ([seq for seq, _ in tokens], [asked for _, asked in tokens], cursors, self._owner)
        self._connection.value(self._connection.sql(statement), facts_of)

    # -- owners ------------------------------------------------------------------------------------

    def heartbeat(self) -> Heartbeat:
        self.called = False
        statement = """
            WITH renewed AS (UPDATE {s}.owner SET lease_until = {s}.now_() + %(lease)s WHERE id = %(owner)s RETURNING id),
            mine AS (
                SELECT c.id, c.forced FROM {s}.cancel AS c
                 WHERE (SELECT r.owner FROM {s}.reserved AS r WHERE r.seq = c.seq) = %(owner)s)
            SELECT (SELECT array_agg(id) FROM mine), (SELECT array_agg(id) FROM mine WHERE forced) FROM renewed"""
        rows = self._connection.rows(self._connection.sql(statement), {"lease": self._options.lease, "owner": self._owner})
        if not rows:
            raise OwnerLost.of(self._owner)
        cancelled, forced = rows[0]
        return Heartbeat((), tuple(cancelled or ()), tuple(forced or ()))

    def release_owner(self, owner: str, started: Collection[str], report: bytes, ran: Collection[str] = ()) -> int:
        return self._release(owner, list(started), list(ran), report, crash=len(started) == 1)

    def _release(self, owner: str, started: list[str], ran: list[str], report: bytes, *, crash: bool) -> int:
        ttl = self._options.cancelled_ttl
        statement = self._connection.call("release_owner", 6)
        ((topics, woken),) = self._connection.rows(statement, (owner, started, ran, report, crash, ttl))
        if topics:
            self._connection.function("tidy_lines")
        self._wake([*topics, *woken])
        return len(topics)

    def housekeep(self, limit: int) -> Housekept:
        before = self._dead_topics
        kept, todo = self._housekeep(limit)
        if self._dead_topics != before:
            also, todo = self._housekeep(limit)
            dropped = kept.dropped + also.dropped
            kept = Housekept(
                kept.readied + also.readied, kept.owners_released + also.owners_released, dropped, kept.more or also.more
            )
        topics, options = self._dead_topics, self._options
        more, letters = kept.more, 0
        if "lines" in todo:
            more = self._connection.function("keep_lines", limit) or more
        if "flows" in todo:
            keeps = [options.retention(topic).dead_keep for topic in topics]
            statement = self._connection.call("housekeep_flows", 4)
            ((letters, left, woken),) = self._connection.rows(statement, (limit, options.cancelled_ttl, topics, keeps))
            self._wake(woken)
            more = left or more
        if "letters" in todo:
            more = self._keep_letters(limit) or more
        if "statistics" in todo:
            more = self._keep_statistics(limit) or more
        if "counts" in todo:
            more = self._connection.function("keep_counts", COUNTED_AT_ONCE) or more
        if "sizes" in todo:
            self._connection.function("keep_sizes")
        if topics:
            most = [options.retention(topic).dead_max for topic in topics]
            statement = self._connection.call("keep_dead", 3)
            ((self._walks, left),) = self._connection.rows(statement, (topics, most, self._walks))
            more = left or more
        return Housekept(kept.readied, kept.owners_released, kept.dropped + letters, more=more)

    def _housekeep(self, limit: int) -> tuple[Housekept, list[str]]:
        """Do what is due in any store, as one statement; return the parts of which there is something to do."""
        options, topics = self._options, self._dead_topics
        keeps = [options.retention(topic).dead_keep for topic in topics]
        statement = self._connection.call("housekeep", 8)
        periods = (options.lease, options.outage_after, options.dedup_window, options.cancelled_ttl, float(REMEMBERED))
        ((readied, released, dropped, woken, todo, self._dead_topics),) = self._connection.rows(
            statement, (limit, *periods, topics, keeps)
        )
        if woken:
            names = sorted({*woken})
            self._connection.function("wake_after", names, [limit] * len(names))
        return Housekept(readied, released, dropped, more=limit in (readied, released, dropped)), todo
