"""The backend: each method is a request to the broker."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence

from jobs_core.backend_kit import new_token
from jobs_core.backends.base import (
    FEATURES,
    Answer,
    BackendOptions,
    Checkpoint,
    Counts,
    Delivery,
    Heartbeat,
    Housekept,
    Outgoing,
    Settlement,
)
from jobs_core.backends.documents import ABSENT, Guard
from jobs_core.backends.flows import Part
from jobs_core.backends.limits import Limit, Lines
from jobs_core.backends.notes import Note
from jobs_core.backends.statistics import StatisticsRow, check
from jobs_core.errors import BackendError, BackendUnavailable

from . import protocol as p
from .connection import BrokerConnection
from .operators import ZeromqOperatorCalls
from .url import parse


class ZeromqBackend(ZeromqOperatorCalls):
    """One connection to a broker."""

    # A broker's store belongs to one application.
    features = (FEATURES - {"prefix"}) | {
        "checkpoints", "limits", "fairness", "flows", "documents", "guards", "notes", "history",
        "dead_groups", "amend", "move", "statistics",
    }  # fmt: skip

    def __init__(self, url: str, options: BackendOptions) -> None:
        self.name = url.partition("://")[0]
        self._options = options
        self._address = parse(url, options.base_dir)
        self._owner = ""
        self._settle_request = ""  # request id of the last settle
        self._retention: dict[str, tuple[float, int]] = {}  # the values that the broker already has
        self._done_max: dict[str, int] = {}  # the same
        self._opened: BrokerConnection | None = None

    @property
    def _connection(self) -> BrokerConnection:
        if self._opened is None:
            raise BackendUnavailable(f"{self._address.shown} is not open")
        return self._opened

    def open(self, owner: str | None) -> None:
        self.close()
        try:
            connection = BrokerConnection(self._address, self._hello)
        except OSError as error:  # no file descriptors are left
            raise BackendUnavailable(f"the broker at {self._address.shown} cannot be reached: {error.strerror}") from None
        try:
            if owner:
                connection.call(p.OPEN, p.Owner(owner=owner))
            else:
                connection.call(p.COUNTS, p.OfTopics(topics=[]))  # checks that a broker answers
        except BaseException:
            connection.close()
            raise
        self._opened, self._owner = connection, owner or ""

    def _hello(self) -> p.Hello:
        options = self._options
        return p.Hello(
            lease=options.lease,
            cancelled_ttl=options.cancelled_ttl,
            dedup_window=options.dedup_window,
            retention=self._retention,
            done_max=self._done_max,
            max_message=options.max_message,
            features=list(p.FEATURES),
        )

    def close(self) -> None:
        connection, self._opened = self._opened, None
        owner, self._owner = self._owner, ""
        if connection is None:
            return
        if owner:
            with contextlib.suppress(BackendError):
                connection.call(p.CLOSE, p.Owner(owner=owner), reply=1.0, reconnect=0.5)
        connection.close()

    # -- jobs ------------------------------------------------------------------------------------

    def push(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        return self._connection.call(p.PUSH, p.Push(request=request), messages, needs=lambda: _needed_by(messages))

    def push_guarded(self, messages: Sequence[Outgoing], request: str, guard: Guard) -> Mapping[str, str] | None:
        if not self._has_documents:
            return self.push(messages, request) if guard.version == ABSENT else None
        asked = p.PushGuarded(request=request, guard=guard)
        return self._connection.call(p.PUSH_GUARDED, asked, messages, needs=lambda: _needed_by(messages))

    def push_part(self, part: Part, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        return self._connection.call(p.PUSH_PART, p.PushPart(request=request, part=part), messages, needs=lambda: (p.FLOWS,))

    def define_limits(self, limits: Mapping[str, Limit], topics: Mapping[str, Lines]) -> None:
        asked = p.DefineLimits(limits=dict(limits), lines=dict(topics))
        used = bool(limits) or any(rules.fair for rules in topics.values())
        if used or p.LIMITS in self._connection.features:
            self._connection.call(p.DEFINE_LIMITS, asked, needs=lambda: (p.LIMITS,) if used else ())

    def reserve(self, topics: Sequence[str], limit: int, request: str) -> list[Delivery]:
        self._say_retention(topics)
        asked = p.Reserve(owner=self._owner, request=request, topics=list(topics), limit=limit, startable=self.startable)
        return self._noting(self._connection.call(p.RESERVE, asked))

    def _noting(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Note whether the last answer says that a job was left behind."""
        self.passed_over = self._connection.remark == p.PASSED_OVER
        return deliveries

    def claim(self, job_ids: Sequence[str], request: str) -> list[Delivery]:
        return self._connection.call(p.CLAIM, p.Claim(owner=self._owner, request=request, ids=list(job_ids)))

    def wait(self, topics: Sequence[str], timeout: float) -> bool:
        if topics:
            return self._connection.wait(topics, timeout)
        self._connection.wait_no_longer()
        self._connection.sleep(timeout)
        return False

    def reserve_next(self, topics: Sequence[str], limit: int, request: str, timeout: float) -> list[Delivery]:
        self._say_retention(topics)
        asked = p.Next(
            owner=self._owner,
            request=request,
            topics=list(topics),
            limit=limit,
            timeout=timeout,
            startable=self.startable,
        )
        deliveries = self._connection.call_later(p.NEXT, asked, timeout)
        if deliveries is not None:
            return self._noting(deliveries)
        # The same request id with limit 0 ends that request, and returns the jobs that it may have reserved.
        again = p.Reserve(owner=self._owner, request=request, topics=list(topics), limit=0)
        return self._noting(self._connection.call(p.RESERVE, again))

    def interrupt(self) -> None:
        connection = self._opened
        if connection is not None:
            connection.interrupt()

    def settle(self, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        first, self._settle_request = request != self._settle_request, request
        connection = self._connection
        asked = p.Settle(owner=self._owner, request=request)
        answers = connection.call(p.SETTLE, asked, settlements, needs=lambda: _needed_to_settle(settlements))
        if first and connection.sendings > 1:  # "already" comes from our own repetition: our caller has asked once
            return [Answer.SETTLED if answer is Answer.ALREADY else answer for answer in answers]
        return answers

    def checkpoint(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._connection.call(p.CHECKPOINT, p.Checkpoints(owner=self._owner, checkpoints=list(checkpoints)))

    def add_statistics(self, rows: Sequence[StatisticsRow], request: str) -> int:
        check(rows)
        self._require_statistics()
        return self._connection.call(p.ADD_STATISTICS, p.AddStatistics(rows=list(rows), request=request))

    def note(self, notes: Sequence[Note]) -> None:
        if p.NOTES not in self._connection.features:
            raise BackendError("the broker is of a release without notes: upgrade jobs-zeromq there, and restart the broker")
        self._connection.call(p.NOTE, p.OfNotes(owner=self._owner, notes=list(notes)))

    # -- owners and housekeeping -----------------------------------------------------------------

    def heartbeat(self) -> Heartbeat:
        return self._connection.call(p.HEARTBEAT_OF, p.Owner(owner=self._owner))

    def release_owner(self, owner: str, started: Collection[str], report: bytes, ran: Collection[str] = ()) -> int:
        asked = p.Release(owner=owner, request=new_token(), started=list(started), report=report, ran=list(ran))
        return self._connection.call(p.RELEASE, asked)

    def housekeep(self, limit: int) -> Housekept:
        answer = self._connection.call(p.HOUSEKEEP, p.Housekeep(limit=limit))
        self._say_retention(answer.unsaid)
        return answer.kept

    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        return self._connection.call(p.COUNTS, p.OfTopics(topics=list(topics)))

    def status(self) -> p.Status:
        """Return the broker's report about itself."""
        return self._connection.call(p.STATUS, p.Nothing())

    def _say_retention(self, topics: Sequence[str]) -> None:
        """Tell the broker how long these topics' dead letters are kept, unless it has already been told."""
        new: dict[str, tuple[float, int]] = {}
        done_max: dict[str, int] = {}
        for topic in topics:
            if topic not in self._retention:
                kept = self._options.retention(topic)
                new[topic] = (kept.dead_keep, kept.dead_max)
                done_max[topic] = kept.done_max
        if new:
            self._retention.update(new)
            self._done_max.update(done_max)
            self._connection.tell(p.RETAIN, p.Retain(retention=new, done_max=done_max))


def _needed_by(messages: Sequence[Outgoing]) -> Iterator[str]:
    """Yield the features that a broker needs to store these messages."""
    if any(message.limits or message.key for message in messages):
        yield p.LIMITS
    if any(message.member is not None for message in messages):
        yield p.FLOWS


def _needed_to_settle(settlements: Sequence[Settlement]) -> Iterator[str]:
    for one in settlements:
        if one.limits or one.close_limits:
            yield p.LIMITS
        yield from _needed_by(one.followups)
