"""The wire protocol, for both ends. docs/zeromq-protocol.md describes it in prose; a test compares both.

A request is [VERSION, verb, tag, body, more…], its answer [VERSION, "ok" | "error", tag, body]. Bodies are MessagePack maps
of the structures below and of `jobs_core.backends.base`; unknown fields are ignored, missing ones have their defaults.
`put` alone uses JSON, so that a producer needs nothing but ZeroMQ.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from jobs_core.backend_kit import MAX_SECONDS
from jobs_core.backends.base import (
    CANCELLED_TTL,
    Answer,
    Checkpoint,
    Counts,
    Delivery,
    Heartbeat,
    Housekept,
    JobRecord,
    Outgoing,
    Settlement,
    State,
)
from jobs_core.backends.documents import Document, Guard
from jobs_core.backends.flows import FlowStatus, MemberStatus, Part
from jobs_core.backends.letters import DeadGroup
from jobs_core.backends.limits import Limit, LimitState, Lines
from jobs_core.backends.notes import Note
from jobs_core.backends.statistics import StatisticsRow
from jobs_core.errors import BackendError, BackendUnavailable, FlowLost, OwnerLost, QueueFull

VERSION: Final = b"jobs1"
OK: Final = b"ok"
ERROR: Final = b"error"
WAKE: Final = b"wake"
PASSED_OVER: Final = b"passed_over"
"""The frame after the body of an answer to `reserve` or `next` that says what `Backend.passed_over` says."""

LIMITS: Final = "limits"
"""The feature with which an end says that it knows limits, fair topics and keys."""

DOCUMENTS: Final = "documents"
"""The feature with which a broker says that it knows documents and guarded pushes."""

NOTES: Final = "notes"
"""The feature with which a broker says that it keeps what jobs tell, and done jobs."""

FLOWS: Final = "flows"
"""The feature with which an end says that it knows flows and their members."""

LETTERS: Final = "letters"
"""The feature with which a broker says that it counts dead letters by what went wrong, and amends them."""

STATISTICS: Final = "statistics"
"""The feature with which a broker says that it adds up statistics."""

PURGES_DONE: Final = "purge_done"
"""The feature with which a broker says that it deletes done jobs that it keeps."""

FEATURES: Final = (LIMITS, DOCUMENTS, NOTES, FLOWS, LETTERS, STATISTICS, PURGES_DONE)
"""What this release knows beyond the first one, told in `hello` and its answer."""

BEAT: Final = b"beat"

HEARTBEAT: Final = 1.5
"""Seconds between ZMTP pings, in both directions; a peer that does not answer within the same time is dead."""

MAX_FRAME: Final = 8 * 2**20
"""Largest frame that the broker accepts, in bytes; a client that sends a larger one is disconnected. Bulk
requests are split into frames.

A reserve returns at most this many bytes, too, unless a single job is larger: an answer that takes longer than a heartbeat
to arrive would break the connection, be requested again, and never arrive.
"""

MAX_TAG: Final = 64

NO_ROOM: Final = 500
"""The status with which ZeroMQ rejects a client when the broker has no free file descriptor."""

Id = Annotated[str, Meta(min_length=1, max_length=200)]
Request = Annotated[str, Meta(min_length=1, max_length=200)]
Topic = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}\Z")]
Topics = Annotated[list[Topic], Meta(max_length=10_000)]
Seconds = Annotated[float, Meta(ge=0, le=MAX_SECONDS)]
Natural = Annotated[int, Meta(ge=0, le=2**53)]
Retentions = Annotated[dict[Topic, tuple[Seconds, Natural]], Meta(max_length=10_000)]
"""Topic → (dead_keep in seconds, dead_max)."""


class Hello(Struct, kw_only=True):
    """The first request on a connection: the client's configuration."""

    lease: Annotated[float, Meta(gt=0, le=1e7)] = 30.0
    cancelled_ttl: Seconds = CANCELLED_TTL
    dedup_window: Seconds = 60.0
    retention: Retentions = {}
    done_max: Annotated[dict[Topic, int], Meta(max_length=100_000)] = {}
    max_message: Natural = 1_000_000  # bytes of results that a delivery may contain as inputs
    features: Annotated[list[str], Meta(max_length=100)] = []  # what the client knows


class Welcome(Struct, kw_only=True):
    """The broker that the client has reached."""

    epoch: str = ""  # identifies this start of the broker; tokens and request ids remain valid after a restart
    pid: int = 0
    max_frame: int = MAX_FRAME
    features: list[str] = []  # what the broker knows


class Owner(Struct, kw_only=True):
    owner: Id


class Push(Struct, kw_only=True):
    """Push messages. Further frames may each contain a list of more messages."""

    request: Request
    messages: list[Outgoing] = []


class PushGuarded(Push, kw_only=True):
    """Push messages if a document has a version."""

    guard: Guard


class PushPart(Push, kw_only=True):
    """Push a part of a flow; each message has a `member` of this flow."""

    part: Part


class Put(Struct, kw_only=True):
    """Push messages; the body is JSON, and each payload follows in a frame of its own."""

    topic: Topic
    request: Request
    ids: list[Id] = []  # empty: the broker derives ids from the request id
    priority: Annotated[int, Meta(ge=0, le=9)] = 0
    delay: Seconds = 0.0


class Stored(Struct, kw_only=True):
    """The answer to a put, as JSON."""

    ids: list[str] = []


class Reserve(Struct, kw_only=True):
    """Reserve jobs: at most `limit`, and at most MAX_FRAME bytes unless a single job is larger."""

    owner: Id
    request: Request
    topics: Topics
    limit: Annotated[int, Meta(ge=0, le=100_000)]
    startable: Natural | None = None  # see `Backend.startable`


class Next(Reserve, kw_only=True):
    """A reserve that is answered once it has reserved a job. Any other request ends it.

    A reserve with the same request id and limit 0 returns the jobs that it may have reserved.
    """

    limit: Annotated[int, Meta(ge=1, le=100_000)]
    timeout: Seconds = 0.0


class Claim(Struct, kw_only=True):
    """Reserve exactly these jobs, even if another owner has reserved them."""

    owner: Id
    request: Request
    ids: Annotated[list[str], Meta(max_length=100_000)]


class Settle(Struct, kw_only=True):
    """Settle jobs. Further frames may each contain a list of more settlements."""

    owner: Id
    request: Request
    settlements: list[Settlement] = []


class Checkpoints(Struct, kw_only=True):
    """Store the cursors of reserved jobs; those with a stale token are ignored."""

    owner: Id
    checkpoints: Annotated[list[Checkpoint], Meta(max_length=100_000)]


class OfNotes(Struct, kw_only=True):
    """Store what reserved jobs have told; notes with a stale token are ignored."""

    owner: Id
    notes: Annotated[list[Note], Meta(max_length=100_000)]


class DefineLimits(Struct, kw_only=True):
    """Set the definitions of limits and the rules of topics."""

    limits: Annotated[dict[str, Limit], Meta(max_length=10_000)] = {}
    lines: Annotated[dict[Topic, Lines], Meta(max_length=10_000)] = {}


class OverrideLimit(Struct, kw_only=True):
    """Override the definition of a limit or of one value; null resets it."""

    name: str
    definition: Limit | None = None


class ListLimits(Struct, kw_only=True):
    most: Annotated[int, Meta(ge=0, le=100_000)]
    names: Annotated[list[str], Meta(max_length=10_000)] = []


class ListLines(Struct, kw_only=True):
    """List the keys of a fair topic with the most jobs."""

    topic: Topic
    most: Annotated[int, Meta(ge=0, le=100_000)]


class AddStatistics(Struct, kw_only=True):
    """Add rows of statistics to those of the same key."""

    rows: list[StatisticsRow]
    request: str


class ListStatistics(Struct, kw_only=True):
    """List rows of statistics of a span by time, topic and job, at most 1,000."""

    span: int
    since: float
    most: int
    topic: str | None = None
    after: StatisticsRow | None = None


class ListDocuments(Struct, kw_only=True):
    """List documents of a kind by name, at most so many, and about 4 MB."""

    kind: str
    most: Annotated[int, Meta(ge=0, le=100_000)]
    after: str = ""  # the name after which to begin


class OfDocument(Struct, kw_only=True):
    kind: str
    name: str


class OfKinds(Struct, kw_only=True):
    kinds: Annotated[list[str], Meta(max_length=1000)]


class DeleteDocument(OfDocument, kw_only=True):
    """Delete a document if it has the expected version, 0 if it must not exist; null: whatever its version."""

    request: Request
    expected: Natural | None = None


class PutDocument(DeleteDocument, kw_only=True):
    """Write a document if it has the expected version; without a time to live, it stays until it is deleted."""

    data: bytes
    ttl: Seconds | None = None


class OfFlow(Struct, kw_only=True):
    flow: Id


class ListFlows(Struct, kw_only=True):
    most: Annotated[int, Meta(ge=0, le=100_000)]
    offset: Natural = 0


class ListMembers(OfFlow, kw_only=True):
    most: Annotated[int, Meta(ge=0, le=100_000)]
    offset: Natural = 0
    dead: bool = False


class FlowResults(OfFlow, kw_only=True):
    """Fetch results of members, as many as fit into `most_bytes` and a frame."""

    ids: Annotated[list[str], Meta(max_length=100_000)]
    most_bytes: Natural = 1_000_000


class CancelFlow(OfFlow, kw_only=True):
    request: Request
    finale: bool = False


class RetryFlow(OfFlow, kw_only=True):
    request: Request


class WaitFlow(OfFlow, kw_only=True):
    """Wait for the end of a flow: see `Operable.wait_flow`. Unlike `wait`, no other request ends it."""

    timeout: Annotated[float, Meta(ge=0, le=3600)] = 0.0


class Release(Struct, kw_only=True):
    owner: Id
    request: Request
    started: list[str] = []
    report: bytes = b""
    ran: list[str] = []  # started, too, but not charged; a broker of an earlier release gives their tokens back


class Housekeep(Struct, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=100_000)]


class Kept(Struct, kw_only=True):
    """The result of housekeeping, and the topics whose retention the client has not sent yet."""

    kept: Housekept
    unsaid: list[str] = []


class Retain(Struct, kw_only=True):
    """Tell for how long dead letters of topics are kept, and how many done jobs. The broker does not answer."""

    retention: Retentions
    done_max: Annotated[dict[Topic, int], Meta(max_length=100_000)] = {}


class Wait(Struct, kw_only=True):
    """Wait for jobs: the answer is one "wake", or none at all. Without topics, end the current wait.

    Any other request ends a wait, too.
    """

    topics: Topics = []
    timeout: Seconds = 0.0


class OfTopics(Struct, kw_only=True):
    topics: Topics


class OfTopic(Struct, kw_only=True):
    topic: Topic
    request: Request


class OfJob(Struct, kw_only=True):
    id: Id


class Browse(Struct, kw_only=True):
    topic: Topic
    state: State
    limit: Annotated[int, Meta(ge=0, le=100_000)]
    offset: Natural = 0


class Change(Struct, kw_only=True):
    """Change jobs by id: requeue, discard, drop, or cancel (one job; with the reason "force", its worker may be replaced)."""

    request: Request
    ids: list[str]
    reason: str = ""


class DeadGroups(Struct, kw_only=True):
    topics: Topics
    most: Annotated[int, Meta(ge=0, le=100_000)]


class DeadInGroup(Struct, kw_only=True):
    topic: Topic
    group: Annotated[str, Meta(max_length=200)]
    limit: Annotated[int, Meta(ge=0, le=100_000)]
    offset: Natural = 0


class Amend(Struct, kw_only=True):
    """Replace the payload `was` of a dead letter; with a topic, move it there."""

    request: Request
    id: Id
    was: bytes
    payload: bytes
    topic: Annotated[str, Meta(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9_.-]{0,127})?\Z")] = ""


class Purge(Struct, kw_only=True):
    """Delete up to 500 jobs of a topic. Repeat with another request id until fewer are deleted."""

    request: Request
    topic: Topic
    state: State


class PurgeDone(Struct, kw_only=True):
    """Delete up to `limit` done jobs of a topic that ended at least `older` seconds ago, the oldest first."""

    request: Request
    topic: Topic
    limit: Annotated[int, Meta(ge=1, le=500)]
    older: Annotated[float, Meta(ge=0)] = 0.0


class Result(Struct, kw_only=True):
    """Fetch a result: answered once the job has ended, or with null after `timeout` seconds."""

    id: Id
    timeout: Annotated[float, Meta(ge=0, le=3600)] = 0.0


class Nothing(Struct, kw_only=True):
    pass


class Status(Struct, kw_only=True):
    """The report of `jobsctl broker status`."""

    pid: int
    epoch: str
    uptime: float
    store: str
    listen: list[str]
    encrypted: bool
    clients: int  # clients that sent a message in the last minute
    waiting: int  # workers that wait for jobs
    pushed: int
    reserved: int
    settled: int
    requests: int
    commits: int
    refused: int  # malformed or refused requests, and refused clients


Q = TypeVar("Q")
A = TypeVar("A")


class Verb(Generic[Q, A]):
    """One kind of request: its name, the type of its body, and the type of its answer."""

    def __init__(self, name: str, request: type[Q], answer: Any, *, writes: bool = True, durable: bool = False) -> None:
        self.name = name.encode()
        self.confirmed = f"broker.{name}.after_commit"  # the name of a fail point in the broker
        self.request, self.answer = request, answer
        self.writes = writes  # whether it needs a write transaction
        self.durable = durable  # whether its changes are synced to the disk before the answer
        form: Any = msgspec.json if request is Put else msgspec.msgpack
        encoder = form.Encoder()
        self.encode: Any = encoder.encode
        self._request, self._answer = form.Decoder(request), form.Decoder(answer)

    def decode_request(self, body: bytes) -> Q:
        request: Q = self._request.decode(body)
        return request

    def decode_answer(self, body: bytes) -> A:
        answer: A = self._answer.decode(body)
        return answer

    def encode_error(self, code: str, message: str) -> bytes:
        body: bytes = self.encode({"code": code, "message": message})
        return body


HELLO: Verb[Hello, Welcome] = Verb("hello", Hello, Welcome, writes=False)
RETAIN: Verb[Retain, None] = Verb("retain", Retain, None, writes=False)
OPEN: Verb[Owner, None] = Verb("open", Owner, None)
CLOSE: Verb[Owner, None] = Verb("close", Owner, None)
PUSH: Verb[Push, dict[str, str]] = Verb("push", Push, dict[str, str], durable=True)
PUT: Verb[Put, Stored] = Verb("put", Put, Stored, durable=True)
RESERVE: Verb[Reserve, list[Delivery]] = Verb("reserve", Reserve, list[Delivery])
NEXT: Verb[Next, list[Delivery]] = Verb("next", Next, list[Delivery], writes=False)
CLAIM: Verb[Claim, list[Delivery]] = Verb("claim", Claim, list[Delivery])
WAIT: Verb[Wait, None] = Verb("wait", Wait, None, writes=False)
SETTLE: Verb[Settle, list[Answer]] = Verb("settle", Settle, list[Answer])
CHECKPOINT: Verb[Checkpoints, None] = Verb("checkpoint", Checkpoints, None)
NOTE: Verb[OfNotes, None] = Verb("note", OfNotes, None)
HEARTBEAT_OF: Verb[Owner, Heartbeat] = Verb("heartbeat", Owner, Heartbeat)
DEFINE_LIMITS: Verb[DefineLimits, None] = Verb("define_limits", DefineLimits, None, durable=True)
OVERRIDE_LIMIT: Verb[OverrideLimit, None] = Verb("override_limit", OverrideLimit, None, durable=True)
LIST_LIMITS: Verb[ListLimits, list[LimitState]] = Verb("limits", ListLimits, list[LimitState], writes=False)
LIST_LINES: Verb[ListLines, list[tuple[str, int]]] = Verb("lines", ListLines, list[tuple[str, int]], writes=False)
PUSH_GUARDED: Verb[PushGuarded, dict[str, str] | None] = Verb("push_guarded", PushGuarded, dict[str, str] | None, durable=True)
LIST_DOCUMENTS: Verb[ListDocuments, list[Document]] = Verb("documents", ListDocuments, list[Document], writes=False)
READ_DOCUMENT: Verb[OfDocument, Document | None] = Verb("document", OfDocument, Document | None, writes=False)
DOCUMENT_VERSIONS: Verb[OfKinds, dict[str, int]] = Verb("document_versions", OfKinds, dict[str, int], writes=False)
PUT_DOCUMENT: Verb[PutDocument, int | None] = Verb("put_document", PutDocument, int | None, durable=True)
ADD_STATISTICS: Verb[AddStatistics, int] = Verb("add_statistics", AddStatistics, int)
LIST_STATISTICS: Verb[ListStatistics, list[StatisticsRow]] = Verb(
    "statistics", ListStatistics, list[StatisticsRow], writes=False
)
DELETE_DOCUMENT: Verb[DeleteDocument, bool] = Verb("delete_document", DeleteDocument, bool, durable=True)
PUSH_PART: Verb[PushPart, dict[str, str]] = Verb("push_part", PushPart, dict[str, str], durable=True)
FLOW: Verb[OfFlow, FlowStatus | None] = Verb("flow", OfFlow, FlowStatus | None, writes=False)
LIST_FLOWS: Verb[ListFlows, list[FlowStatus]] = Verb("flows", ListFlows, list[FlowStatus], writes=False)
FLOW_MEMBERS: Verb[ListMembers, list[MemberStatus]] = Verb("flow_members", ListMembers, list[MemberStatus], writes=False)
FLOW_RESULTS: Verb[FlowResults, list[tuple[str, bytes]]] = Verb(
    "flow_results", FlowResults, list[tuple[str, bytes]], writes=False
)
CANCEL_FLOW: Verb[CancelFlow, bool] = Verb("cancel_flow", CancelFlow, bool, durable=True)
RETRY_FLOW: Verb[RetryFlow, int] = Verb("retry_flow", RetryFlow, int, durable=True)
WAIT_FLOW: Verb[WaitFlow, tuple[bool, FlowStatus | None]] = Verb(
    "wait_flow", WaitFlow, tuple[bool, FlowStatus | None], writes=False
)
RELEASE: Verb[Release, int] = Verb("release", Release, int)
HOUSEKEEP: Verb[Housekeep, Kept] = Verb("housekeep", Housekeep, Kept)
COUNTS: Verb[OfTopics, dict[str, Counts]] = Verb("counts", OfTopics, dict[str, Counts], writes=False)
GET: Verb[OfJob, JobRecord | None] = Verb("get", OfJob, JobRecord | None, writes=False)
BROWSE: Verb[Browse, list[JobRecord]] = Verb("browse", Browse, list[JobRecord], writes=False)
TOPICS: Verb[Nothing, list[str]] = Verb("topics", Nothing, list[str], writes=False)
REQUEUE: Verb[Change, int] = Verb("requeue", Change, int, durable=True)
DISCARD: Verb[Change, int] = Verb("discard", Change, int, durable=True)
DEAD_GROUPS: Verb[DeadGroups, list[DeadGroup]] = Verb("dead_groups", DeadGroups, list[DeadGroup], writes=False)
DEAD_IN_GROUP: Verb[DeadInGroup, list[JobRecord]] = Verb("dead_in_group", DeadInGroup, list[JobRecord], writes=False)
AMEND: Verb[Amend, bool] = Verb("amend", Amend, bool, durable=True)
PURGE: Verb[Purge, int] = Verb("purge", Purge, int, durable=True)
PURGE_DONE: Verb[PurgeDone, int] = Verb("purge_done", PurgeDone, int, durable=True)
DROP: Verb[Change, int] = Verb("drop", Change, int, durable=True)
PAUSE: Verb[OfTopic, None] = Verb("pause", OfTopic, None, durable=True)
RESUME: Verb[OfTopic, None] = Verb("resume", OfTopic, None, durable=True)
PAUSED: Verb[Nothing, list[str]] = Verb("paused", Nothing, list[str], writes=False)
CANCEL: Verb[Change, State] = Verb("cancel", Change, State, durable=True)
RESULT: Verb[Result, JobRecord | None] = Verb("result", Result, JobRecord | None, writes=False)
STATUS: Verb[Nothing, Status] = Verb("status", Nothing, Status, writes=False)

VERBS: Final[dict[bytes, Verb[Any, Any]]] = {value.name: value for value in list(globals().values()) if isinstance(value, Verb)}

ITEMS: Final[dict[bytes, Any]] = {
    PUSH.name: msgspec.msgpack.Decoder(list[Outgoing]).decode,
    PUSH_PART.name: msgspec.msgpack.Decoder(list[Outgoing]).decode,
    PUSH_GUARDED.name: msgspec.msgpack.Decoder(list[Outgoing]).decode,
    SETTLE.name: msgspec.msgpack.Decoder(list[Settlement]).decode,
}
"""The types of the frames after the body of a bulk request."""

Code = Literal["unavailable", "full", "owner_lost", "flow_lost", "refused", "malformed", "hello"]
_CODES: Final[tuple[tuple[type[BackendError], Code], ...]] = (
    (OwnerLost, "owner_lost"),
    (FlowLost, "flow_lost"),
    (QueueFull, "full"),
    (BackendUnavailable, "unavailable"),
    (BackendError, "refused"),
)


class Refusal(Struct, kw_only=True):
    """The body of an error. Code `hello`: the broker does not know this connection; send hello, and repeat the request."""

    code: str = "refused"
    message: str = ""

    def error(self) -> BackendError:
        """Return the exception of the core that has this code."""
        return next((kind for kind, code in _CODES if code == self.code), BackendError)(self.message)


def code_of(error: BackendError) -> Code:
    """Return the code for an error of the core on the wire."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


decode_refusal = msgspec.msgpack.Decoder(Refusal).decode
