"""The records of the store: jobs, owners, and the time and options of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base import KEPT_ERRORS, Answer, BackendOptions, JobRecord, Outgoing, State
from ..letters import Fingerprint
from ..notes import MOST_RUNS, NONE, Note, Notes, seen_after, with_note

if TYPE_CHECKING:
    from ..flows import Member
    from .flows import Node
    from .lines import Line


WAITING_FOR = 10
"""Most targets that a record names of those for which a member still waits."""


class Moment:
    """The circumstances of one call: its time by the broker's clock, and the options of the caller."""

    __slots__ = ("now", "options")

    def __init__(self, options: BackendOptions) -> None:
        self.now = options.now()
        self.options = options


class Job:
    """A job in the store; its `state` determines which container holds it.

    Fields that few jobs have are attributes of the class until they are set, which creates the dict: plain jobs pay nothing.
    """

    due: float  # set when it is scheduled
    owner: str  # set, with `request` and `token`, when it is reserved
    request: str
    token: int

    # fmt: off
    __slots__ = ("__dict__", "attempt", "crashes", "deferrals", "due", "id", "owner", "payload", "plain", "pushed_at", "rank",
                 "ready_at", "redeliveries", "request", "seq", "since", "state", "token", "topic", "unique")
    # fmt: on

    cancel = False
    cursor = b""
    delay = 0.0  # of a member of a flow: from when what it waits for has ended
    errors: tuple[bytes, ...] = ()
    fingerprint: Fingerprint | None = None  # while it is dead
    force = False
    key = ""
    limits: tuple[str, ...] = ()
    line: Line | None = None  # while it is ready; None in the plain line
    member: Member | None = None
    node: Node | None = None  # its place in its flow
    notes: Notes = NONE
    reason = ""
    seen = (0, 0)  # the token of the run that noted last, and the number of its lines
    slots: tuple[str, ...] = ()  # limits in which its reservation counts
    timeline: tuple[bytes, ...] = ()
    tokens: tuple[tuple[str, float], ...] = ()  # of rates: taken with the reservation, with their interval

    def __init__(self, seq: int, message: Outgoing, now: float) -> None:
        self.seq = seq
        self.id, self.topic, self.payload = message.id, message.topic, message.payload
        self.rank, self.unique = -message.priority, message.unique
        self.pushed_at = self.ready_at = self.since = now
        self.attempt = self.redeliveries = self.crashes = self.deferrals = 0
        self.state = State.READY
        self.plain = not (message.key or message.limits or message.member)  # only plain jobs have none of the fields above
        if not self.plain:
            self.key, self.limits, self.member = message.key, message.limits, message.member

    def is_plain(self, ready_at: float) -> bool:
        """Return whether an entry of the plain line with this time still stands for it."""
        return self.state is State.READY and self.ready_at == ready_at and self.line is None

    @property
    def barred(self) -> bool:
        """Return whether it may not start any more, because its flow was cancelled."""
        return self.node is not None and self.node.barred

    @property
    def seen_state(self) -> State:
        """Return its state as operators see it, except that it does not know whether it is due."""
        return State.LIMITED if self.state is State.READY and self.line is not None and self.line.filed else self.state

    def is_due(self, now: float) -> bool:
        """Return whether it is scheduled and due: it counts as ready, although no call has moved it yet."""
        return self.state is State.SCHEDULED and self.due <= now

    def note(self, error: bytes) -> None:
        """Add an error to the history."""
        if error:
            self.errors = (*self.errors, error)[-KEPT_ERRORS:]

    def tell(self, note: Note | None, timeline: bytes = b"") -> None:
        """Add what a run has told, and its entry in the timeline."""
        if note is not None:
            seen = self.seen[1] if self.seen[0] == self.token else 0
            self.notes = with_note(self.notes, note, seen)
            self.seen = self.token, seen_after(note, seen)
        if timeline:
            self.timeline = (*self.timeline, timeline)[-MOST_RUNS:]

    def record(self, now: float, *, ended: bool = False, result: bytes | None = None, reason: str = "") -> JobRecord:
        """Return the record of this job, as operators see it; that of its end has no payload and no cursor."""
        scheduled = self.state is State.SCHEDULED and not self.is_due(now)
        return JobRecord(
            id=self.id,
            topic=self.topic,
            state=State.READY if self.is_due(now) else self.seen_state,
            payload=b"" if ended else self.payload,
            priority=-self.rank,
            attempt=self.attempt,
            redeliveries=self.redeliveries,
            crashes=self.crashes,
            deferrals=self.deferrals,
            pushed_at=self.pushed_at,
            due=self.due if scheduled else None,
            owner=self.owner if self.state is State.RESERVED else None,
            since=self.since,
            cancel_requested=self.cancel or (self.state is State.RESERVED and self.barred),
            reason=self.reason if self.state is State.DEAD else reason,
            errors=self.errors,
            broker_now=now,
            cursor=b"" if ended else self.cursor,
            result=result,
            key=self.key,
            limits=self.limits,
            blocked_by=self.line.filed if self.line is not None else "",
            member=self.member,
            waiting_for=self.node.waiting_for(WAITING_FOR) if self.node and self.state is State.WAITING else (),
            notes=NONE if ended else self.notes,
            timeline=() if ended else self.timeline,
        )


class Owner:
    """A worker's lease, its reservations, and its last requests, in case it repeats them after a lost reply."""

    __slots__ = ("called", "held", "lease_until", "reserve_request", "settle_answers", "settle_request")

    def __init__(self, lease_until: float) -> None:
        self.lease_until = lease_until
        self.called = False  # True if it has to send a heartbeat, because one of its jobs is to be cancelled
        self.held: dict[str, Job] = {}
        self.reserve_request = self.settle_request = ""
        self.settle_answers: list[Answer] = []
