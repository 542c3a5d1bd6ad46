"""The wire protocol, for both ends; docs/zeromq-protocol.md describes it in prose, and a test compares.

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
    Counts,
    Delivery,
    Heartbeat,
    Housekept,
    JobRecord,
    Outgoing,
    Settlement,
    State,
)
from jobs_core.errors import BackendError, BackendUnavailable, OwnerLost, QueueFull

VERSION: Final = b"jobs1"
OK: Final = b"ok"
ERROR: Final = b"error"
WAKE: Final = b"wake"
BEAT: Final = b"beat"

HEARTBEAT: Final = 1.5
"""Seconds between ZMTP pings, in both directions; a peer that does not answer within as long again is dead."""

MAX_FRAME: Final = 8 * 2**20
"""Largest frame that the broker accepts, in bytes; a client that sends a larger one is disconnected. Bulk is split into
frames.

It is also the most that one reserve returns, except for a single job: an answer that takes longer than a heartbeat to
arrive would break the connection, be requested again, and never arrive.
"""

MAX_TAG: Final = 64

NO_ROOM: Final = 500
"""The status with which ZeroMQ rejects a client for which the broker has no descriptor."""

Id = Annotated[str, Meta(min_length=1, max_length=200)]
Request = Annotated[str, Meta(min_length=1, max_length=200)]
Topic = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}\Z")]
Topics = Annotated[list[Topic], Meta(max_length=10_000)]
Seconds = Annotated[float, Meta(ge=0, le=MAX_SECONDS)]
Natural = Annotated[int, Meta(ge=0, le=2**53)]
Retentions = Annotated[dict[Topic, tuple[Seconds, Natural]], Meta(max_length=10_000)]
"""Topic: dead_keep in seconds, dead_max."""


class Hello(Struct, kw_only=True):
    """The first request on a connection: the client's configuration."""

    lease: Annotated[float, Meta(gt=0, le=1e7)] = 30.0
    cancelled_ttl: Seconds = CANCELLED_TTL
    dedup_window: Seconds = 60.0
    retention: Retentions = {}


class Welcome(Struct, kw_only=True):
    """The broker that the client has reached."""

    epoch: str = ""  # of this start of the broker; tokens and requests outlive it
    pid: int = 0
    max_frame: int = MAX_FRAME


class Owner(Struct, kw_only=True):
    owner: Id


class Push(Struct, kw_only=True):
    """More messages may follow, a list a frame."""

    request: Request
    messages: list[Outgoing] = []


class Put(Struct, kw_only=True):
    """JSON; the payloads follow, one a frame."""

    topic: Topic
    request: Request
    ids: list[Id] = []  # none: derived from the request
    priority: Annotated[int, Meta(ge=0, le=9)] = 0
    delay: Seconds = 0.0


class Stored(Struct, kw_only=True):
    """JSON."""

    ids: list[str] = []


class Reserve(Struct, kw_only=True):
    """The limit is the credit: the broker never returns more jobs than requested, nor more than MAX_FRAME bytes."""

    owner: Id
    request: Request
    topics: Topics
    limit: Annotated[int, Meta(ge=0, le=100_000)]


class Next(Reserve, kw_only=True):
    """A reserve that is answered when it has reserved something. Any other request ends it.

    A reserve of the same request id and limit 0 returns the jobs that it may have reserved.
    """

    limit: Annotated[int, Meta(ge=1, le=100_000)]
    timeout: Seconds = 0.0


class Claim(Struct, kw_only=True):
    """Reserve exactly these jobs, even if another owner holds them."""

    owner: Id
    request: Request
    ids: Annotated[list[str], Meta(max_length=100_000)]


class Settle(Struct, kw_only=True):
    """More settlements may follow, a list a frame."""

    owner: Id
    request: Request
    settlements: list[Settlement] = []


class Release(Struct, kw_only=True):
    owner: Id
    request: Request
    started: list[str] = []
    report: bytes = b""


class Housekeep(Struct, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=100_000)]


class Kept(Struct, kw_only=True):
    """The result, and the topics whose retention the client has not sent yet."""

    kept: Housekept
    unsaid: list[str] = []


class Retain(Struct, kw_only=True):
    """The time for which dead letters of topics are kept. It has no answer."""

    retention: Retentions


class Wait(Struct, kw_only=True):
    """Credit for one wake-up: the answer is "wake", once, or nothing. Without topics, it ends the present wait.

    Any other request ends it too.
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
    """Change jobs by id: requeue, discard, drop, cancel (one; the reason "force" ends it by any means)."""

    request: Request
    ids: list[str]
    reason: str = ""


class Purge(Struct, kw_only=True):
    """Up to 500 at a time; repeat, with another request, until fewer are gone."""

    request: Request
    topic: Topic
    state: State


class Result(Struct, kw_only=True):
    """Answered when the job has ended, or with nothing after `timeout` seconds."""

    id: Id
    timeout: Annotated[float, Meta(ge=0, le=3600)] = 0.0


class Nothing(Struct, kw_only=True):
    pass


class Status(Struct, kw_only=True):
    """The report of `jobs broker status`."""

    pid: int
    epoch: str
    uptime: float
    store: str
    listen: list[str]
    encrypted: bool
    clients: int  # with a message in the last minute
    waiting: int  # workers that wait for jobs
    pushed: int
    reserved: int
    settled: int
    requests: int
    commits: int
    refused: int  # requests that were malformed, and keys that are not on the list


Q = TypeVar("Q")
A = TypeVar("A")


class Verb(Generic[Q, A]):
    """One request: its name, the type of its body, and that of its answer."""

    def __init__(self, name: str, request: type[Q], answer: Any, *, writes: bool = True, durable: bool = False) -> None:
        self.name = name.encode()
        self.confirmed = f"broker.{name}.after_commit"  # a fail point of the broker
        self.request, self.answer = request, answer
        self.writes = writes  # needs a transaction
        self.durable = durable  # which is synced to the disk before it is answered
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
HEARTBEAT_OF: Verb[Owner, Heartbeat] = Verb("heartbeat", Owner, Heartbeat)
RELEASE: Verb[Release, int] = Verb("release", Release, int)
HOUSEKEEP: Verb[Housekeep, Kept] = Verb("housekeep", Housekeep, Kept)
COUNTS: Verb[OfTopics, dict[str, Counts]] = Verb("counts", OfTopics, dict[str, Counts], writes=False)
GET: Verb[OfJob, JobRecord | None] = Verb("get", OfJob, JobRecord | None, writes=False)
BROWSE: Verb[Browse, list[JobRecord]] = Verb("browse", Browse, list[JobRecord], writes=False)
TOPICS: Verb[Nothing, list[str]] = Verb("topics", Nothing, list[str], writes=False)
REQUEUE: Verb[Change, int] = Verb("requeue", Change, int, durable=True)
DISCARD: Verb[Change, int] = Verb("discard", Change, int, durable=True)
PURGE: Verb[Purge, int] = Verb("purge", Purge, int, durable=True)
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
    SETTLE.name: msgspec.msgpack.Decoder(list[Settlement]).decode,
}
"""The types of the frames after the body of a bulk request."""

Code = Literal["unavailable", "full", "owner_lost", "refused", "malformed", "hello"]
_CODES: Final[tuple[tuple[type[BackendError], Code], ...]] = (
    (OwnerLost, "owner_lost"),
    (QueueFull, "full"),
    (BackendUnavailable, "unavailable"),
    (BackendError, "refused"),
)


class Refusal(Struct, kw_only=True):
    """The body of an error. `hello`: the broker does not know this connection; send hello and repeat the request."""

    code: str = "refused"
    message: str = ""

    def error(self) -> BackendError:
        """Return the exception of the core that has this code."""
        return next((kind for kind, code in _CODES if code == self.code), BackendError)(self.message)


def code_of(error: BackendError) -> Code:
    """Return the code of an error on the wire."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


decode_refusal = msgspec.msgpack.Decoder(Refusal).decode
