"""The interface that every queue backend implements and the core relies on.

One state machine for all::

    push ──► ready ──reserve──► reserved ──settle──► done | cancelled | dead
               ▲                   │
               └── scheduled ◄─────┘ retry, defer (release goes straight back to ready)

A worker process opens a backend under an *owner* id. What it reserves belongs to that owner, whose single
lease covers one job or five thousand; every reservation has a *token*, and only the holder of the current
token can settle. Times are seconds on the broker's own clock. Payloads are opaque bytes: a backend never
parses them.

Methods are called by one thread at a time, except `interrupt`, which any thread and a signal handler may call.
A backend is opened after a fork, never carried over one. The meaning of this page in executable form is
`jobs_core.testing.BackendContract`.
"""

from __future__ import annotations

import abc
import enum
import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from msgspec import Struct

from ..errors import NotSupported
from ..message import UniqueKey

INTERFACE_VERSION: Final = 1
"""Raised when a backend written for an older core would misbehave; checked when a plugin is loaded."""

FEATURES: Final = frozenset(
    {
        "delay",  # push and settle may schedule a job for later
        "priority",  # 0 to 9, higher first within a topic
        "unique",  # push refuses a second job under a held unique key
        "debounce",  # with unique: UniqueKey.longest limits how long jobs that replace each other are put off
        "results",  # what a job returned is kept for its time to live
        "cancel",  # a queued job is cancelled at once, a running one is told
        "browse",  # jobs can be listed by topic and state
        "lookup",  # a job can be found by id
        "pause",  # a topic can be paused for all workers
        "atomic_followups",  # jobs enqueued by a job, or for its end, commit with its acknowledgement, or dead letter
        "dedup",  # a repeated push request adds nothing
        "known_ids",  # push adds nothing for a chosen id that the store still holds, also of an ended job, and tells
        "fencing",  # a stale owner can settle nothing
        "owner_release",  # release_owner returns a dead process's jobs at once
        "exact_redelivery",  # redeliveries and crashes are counted exactly
        "exact_counts",  # counts are exact, not estimates
        "ages",  # counts tell how long the oldest ready job has waited
        "strict_order",  # topics in strict order, priority and first-in-first-out within
        "multiprocess",  # several processes share the queue
        "claim",  # jobs can be reserved by id: what a store beside another queue needs
        "prefix",  # BackendOptions.prefix keeps applications apart that share one broker
    }
)
"""Everything a backend can claim in `Backend.features`."""

MOST_SEARCHED: Final = 1000
"""Jobs of a topic and state that are looked at to find one by the beginning of its id."""

SIGNATURE_LINE: Final = 200
"""Bytes that a signature may add to an envelope."""

KEPT_ERRORS: Final = 10
"""Number of entries of a job's history that every backend keeps, the newest ones."""

CANCELLED_TTL: Final = 86400.0
"""Seconds for which the status of a cancelled job is kept, whether it was cancelled while it waited or while it ran."""

Token: TypeAlias = "int | str"


class State(enum.Enum):
    """The state of a job."""

    READY = "ready"
    SCHEDULED = "scheduled"
    RESERVED = "reserved"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  # never pushed, or done and deleted


class Outcome(enum.Enum):
    """The end of a reservation."""

    DONE = "done"
    RETRY = "retry"  # ran and failed: again after a while, the attempt counts
    DEFER = "defer"  # again after a while, as if it had not been reserved
    RELEASE = "release"  # not started: back to the front at once
    DEAD = "dead"  # to the dead letters, with a reason
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # to the dead letters: it was not started in time


ENDS: Final = frozenset({Outcome.DONE, Outcome.DEAD, Outcome.EXPIRED})
"""Outcomes whose follow-ups are pushed in the same step."""


class Answer(enum.Enum):
    """The answer to a settlement."""

    SETTLED = "settled"
    ALREADY = "already"  # an earlier sending of the same request did it
    STALE = "stale"  # the reservation is no longer this owner's: nothing was done


class Outgoing(Struct, frozen=True, gc=False):
    """An encoded message on its way in, with the few facts a backend acts on."""

    id: str
    topic: str
    payload: bytes
    priority: int = 0
    delay: float = 0.0
    unique: UniqueKey | None = None
    chosen: bool = False  # the id is not one of `new_id`: it may be known


class Delivery(Struct, frozen=True, gc=False):
    """One reserved job, as the backend hands it out."""

    id: str
    topic: str
    payload: bytes
    token: Token
    attempt: int  # attempts that ended before this run, see `previous_attempts`
    redeliveries: int  # runs that a lost worker took down
    crashes: int  # of these, the ones in which no other job was running
    deferrals: int  # times it was deferred
    pushed_at: float  # broker's clock
    broker_now: float  # broker's clock

    @property
    def previous_attempts(self) -> int:
        """Return `attempt` by the name that says what it counts; the field keeps its name for backends that construct it."""
        return self.attempt


class Settlement(Struct, frozen=True, gc=False):
    """The end of one reservation. Comments name the outcomes that use a field; the others ignore it."""

    id: str
    token: Token
    outcome: Outcome
    after: float = 0.0  # retry, defer: seconds until it is ready again
    counts: bool = True  # dead: whether this run was an attempt
    reason: str = ""  # dead
    error: bytes = b""  # retry, dead: one JSON document for the job's history
    result: bytes | None = None  # done: what to keep
    result_ttl: float = 0.0  # done, cancelled: for how long
    followups: tuple[Outgoing, ...] = ()  # done, dead, expired: pushed in the same step


class Heartbeat(Struct, frozen=True):
    """The broker's news about an owner's jobs."""

    lost: tuple[str, ...] = ()  # ids no longer reserved by it
    cancelled: tuple[str, ...] = ()  # ids of jobs to cancel
    forced: tuple[str, ...] = ()  # of these, the ones to end even if their worker has to be replaced


class Counts(Struct, frozen=True):
    """A topic's jobs by state, as numbers."""

    ready: int = 0
    scheduled: int = 0
    reserved: int = 0
    dead: int = 0
    oldest_age: float | None = None  # seconds since the oldest ready job became ready; with `ages`, else it is not known


class Housekept(Struct, frozen=True):
    """The result of one round of housekeeping; `more` asks for another round soon."""

    readied: int = 0
    owners_released: int = 0
    dropped: int = 0
    more: bool = False


class JobRecord(Struct, frozen=True):
    """Everything a backend knows about one job."""

    id: str
    topic: str
    state: State
    payload: bytes = b""
    priority: int = 0
    attempt: int = 0
    redeliveries: int = 0
    crashes: int = 0
    deferrals: int = 0
    pushed_at: float = 0.0
    due: float | None = None  # scheduled: when it becomes ready
    owner: str | None = None  # reserved: the owner
    since: float | None = None  # when it came into this state
    cancel_requested: bool = False
    reason: str = ""  # dead
    errors: tuple[bytes, ...] = ()  # JSON documents, oldest first
    result: bytes | None = None
    broker_now: float = 0.0


class Retention(Struct, frozen=True):
    """The limits on the dead letters of a topic: their age and their number."""

    dead_keep: float = 30 * 86400.0
    dead_max: int = 100_000


class BackendOptions(Struct, frozen=True):
    """The settings that the core gives to a backend besides its URL."""

    lease: float = 30.0  # seconds an owner may be silent
    prefix: str = "jobs"  # keeps applications on one broker apart; a store of its own (a file) need not look at it
    base_dir: Path = Path()  # relative paths in the URL start here
    retention: Callable[[str], Retention] = lambda topic: Retention()
    cancelled_ttl: float = CANCELLED_TTL  # how long the status of a job is kept that is cancelled while it waits
    dedup_window: float = 60.0  # how long a push request is remembered
    clock: Callable[[], float] | None = None  # tests: replaces the broker's clock where it is a Python one
    settings: Mapping[str, object] = {}  # the backend's own table in the configuration
    topics: tuple[str, ...] = ()  # what the configuration names, sorted: for `setup`, and backends that cannot list topics
    longest_run: Callable[[], float | None] = lambda: None  # seconds that a job may run; None: without end, or unknown
    # For backends that check the messages of foreign producers before they act on them:
    max_message: int = 1_000_000  # bytes of an envelope
    verify: Callable[[bytes], bytes] | None = None  # the body of a signed payload, or SignatureError; None: nothing is signed

    @property
    def largest_payload(self) -> int:
        """Most bytes of a payload: a signature line comes on top of the envelope."""
        return self.max_message + SIGNATURE_LINE

    @property
    def outage_after(self) -> float:
        """Seconds without housekeeping after which leases are extended before any is judged."""
        return min(10.0, self.lease / 3)

    def now(self) -> float:
        return self.clock() if self.clock else time.time()


class Operable:
    """The calls that operators may make to a backend. Every default raises NotSupported with the feature that is missing.

    Called from the command line and by handles, on a connection that is no worker's.
    """

    name: str
    features: frozenset[str]

    def get(self, job_id: str) -> JobRecord | None:
        """Return everything known about one job; None if it is unknown.

        Called by: handles, `jobsctl show`, `jobsctl why`. Atomicity: one consistent view. Blocks: for a round trip.
        Raises: NotSupported (lookup), BackendUnavailable.
        """
        raise self._lacks("lookup")

    def browse(self, topic: str, state: State, limit: int, offset: int = 0) -> list[JobRecord]:
        """List jobs of a topic in one state, next to run first; dead letters newest first.

        Called by: `jobsctl list`, `jobsctl dead`, `jobsctl check`. Atomicity: one consistent view a call.
        Blocks: for a round trip. Raises: NotSupported (browse), BackendUnavailable.
        """
        raise self._lacks("browse")

    def find_ids(self, prefix: str, limit: int) -> list[str]:
        """List ids of jobs that begin with `prefix`, so many at most.

        Called by: commands that take an id. Atomicity: none needed. Blocks: for a round trip; where it is not provided, for
        some for each topic, and of each state only the first MOST_SEARCHED jobs are looked at. Raises: BackendUnavailable.
        """
        if "browse" not in self.features:
            return []
        found = (
            record.id
            for topic in self.topics()
            for state in (State.DEAD, State.RESERVED, State.READY, State.SCHEDULED)
            for record in self.browse(topic, state, MOST_SEARCHED)
            if record.id.startswith(prefix)
        )
        return list(itertools.islice(found, limit))

    def topics(self) -> list[str]:
        """Name every topic that holds jobs or is paused, sorted.

        Called by: `jobsctl topics`. Atomicity: none needed. Blocks: for a round trip.
        Raises: NotSupported (browse), BackendUnavailable.
        """
        raise self._lacks("browse")

    def requeue(self, job_ids: Sequence[str]) -> int:
        """Make dead and scheduled jobs ready now, dead ones with their attempts forgotten; return how many.

        Called by: `jobsctl dead retry`. Atomicity: each job in one step. Blocks: for a round trip.
        Raises: NotSupported (browse), BackendUnavailable.
        """
        raise self._lacks("browse")

    def discard(self, job_ids: Sequence[str], reason: str) -> int:
        """Move ready and scheduled jobs to the dead letters; return how many.

        Called by: operators' code. Atomicity: each job in one step. Blocks: for a round trip.
        Raises: NotSupported (browse), BackendUnavailable.
        """
        raise self._lacks("browse")

    def purge(self, topic: str, state: State) -> int:
        """Delete all ready, scheduled or dead jobs of a topic for good; return how many.

        Called by: `jobsctl purge`, `jobsctl dead purge`. Atomicity: may be seen half done. Blocks: until done.
        Raises: NotSupported (browse), BackendUnavailable.
        """
        raise self._lacks("browse")

    def purge_inlet(self, topic: str) -> int:
        """Delete the entries of foreign producers that are not admitted yet; return how many.

        Called by: `jobsctl purge --inlet`. Atomicity: one step. Blocks: for a round trip.
        Raises: NotSupported (inlet), BackendUnavailable.
        """
        raise self._lacks("inlet")

    def drop(self, job_ids: Sequence[str]) -> int:
        """Delete dead letters for good; return how many.

        Called by: `jobsctl dead purge ID`. Atomicity: each job in one step. Blocks: for a round trip.
        Raises: NotSupported (browse), BackendUnavailable.
        """
        raise self._lacks("browse")

    def pause(self, topic: str) -> None:
        """Let no worker reserve jobs of a topic until it is resumed; survives restarts.

        Called by: `jobsctl pause`. Atomicity: one step. Blocks: for a round trip.
        Raises: NotSupported (pause), BackendUnavailable.
        """
        raise self._lacks("pause")

    def resume(self, topic: str) -> None:
        """Hand out jobs of a paused topic again and wake who waits for them.

        Called by: `jobsctl resume`. Atomicity: one step. Blocks: for a round trip.
        Raises: NotSupported (pause), BackendUnavailable.
        """
        raise self._lacks("pause")

    def paused(self) -> frozenset[str]:
        """Name the paused topics; backends without `pause` have none.

        Called by: `jobsctl topics`, `jobsctl why`. Atomicity: one step. Blocks: for a round trip. Raises: BackendUnavailable.
        """
        return frozenset()

    def cancel(self, job_id: str, *, force: bool = False) -> State:
        """Cancel a queued job at once, or ask the owner of a reserved one to; return the state it is in afterwards.

        With `force` the owner may end its process for it: it hears of the job in `Heartbeat.forced`, too.

        Called by: handles, `jobsctl cancel`. Atomicity: one step. Blocks: for a round trip; the owner of a
        reserved job hears of it within 250 ms, see `Backend.wakes_to_cancel`.
        Raises: NotSupported (cancel), BackendUnavailable.
        """
        raise self._lacks("cancel")

    def fetch_result(self, job_id: str, timeout: float) -> JobRecord | None:
        """Wait until a job has ended, and return its record; None if it has not within `timeout` seconds.

        A record in state UNKNOWN means that there is no such job, or that it is done and kept no result.
        Called by: `JobHandle.result`, on a connection of its own. Atomicity: none needed.
        Blocks: up to `timeout`. Raises: NotSupported (results), BackendUnavailable.
        """
        raise self._lacks("results")

    def claim(self, job_ids: Sequence[str], request: str) -> list[Delivery]:
        """Reserve exactly these jobs, due or not, whichever owner holds them; dead and unknown ones are left out.

        For a store that keeps the records of jobs which another queue carries: the owner that received one there reports
        it here. It renews the owner's lease; the owner's last request, repeated, returns the same jobs. A store without it
        cannot be `[results]`.
        Called by: `AuxStore`, for couriers. Atomicity: one step. Blocks: for a round trip.
        Raises: NotSupported (claim), OwnerLost, BackendUnavailable.
        """
        raise self._lacks("claim")

    def advice(self) -> list[str]:
        """Return the risks in the settings of the broker, each with its fix; empty if there are none.

        Called by: `jobsctl check`, and once by the housekeeper. Atomicity: none needed. Blocks: for a few round trips.
        Raises: BackendUnavailable.
        """
        return []

    def setup(self) -> None:
        """Create the queues or tables that the broker needs once, so that workers need no right to do so; idempotent.

        Called by: `jobsctl setup`. Atomicity: may be repeated. Blocks: until done. Raises: BackendError, BackendUnavailable.
        """

    def _lacks(self, feature: str) -> NotSupported:
        return NotSupported(feature, f"{self.name}://")


class BindsKeys(abc.ABC):
    """The unique keys of a store beside another queue: see `AuxStore`.

    A key is bound to a job that is known to be in the queue. Before that it is held loosely: the next enqueue takes it over.
    """

    @abc.abstractmethod
    def push_loosely(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        """`push` whose unique keys are held loosely. Where one is so held by a job that waits, that job is cancelled."""

    @abc.abstractmethod
    def bind(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        """Bind the keys of these messages, which have all arrived, where they still hold them.

        Returns, for each whose key was taken over, its id and the id that holds the key, empty if it holds it loosely.
        Called by: `AuxStore`, for producers. Atomicity: one step. Blocks: until durable. Raises: BackendUnavailable.
        """


class Backend(Operable, abc.ABC):
    """A connection to a queue. Every method but `interrupt` is called by one thread at a time."""

    name: str = ""
    """The URL scheme, for messages."""

    features: frozenset[str] = frozenset()
    """The features of this backend, out of FEATURES; the core and the contract read it instead of the name."""

    wakes_to_cancel: bool = False
    """True if `wait` and `reserve_next` return, with `called` set, when a job of this owner is to be cancelled.

    Where it is False, couriers that run jobs send several heartbeats a second to learn of it.
    """

    called: bool = False
    """True if the owner is to send a heartbeat now, which reports a job to cancel. Each heartbeat clears it."""

    @abc.abstractmethod
    def open(self, owner: str | None) -> None:
        """Connect, and register `owner` if this is a worker's connection.

        Called by: producers (no owner) and couriers, after a fork, once per owner id; again after `close`.
        Atomicity: one step. Blocks: for the connection. Raises: BackendUnavailable, BackendError.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Disconnect; the owner's remaining jobs are released uncharged, and the owner is forgotten.

        Called by: the code that opened it; a second call does nothing. Atomicity: one step. Blocks: for a round trip.
        Raises: nothing; if the broker is unreachable, the jobs are released when the lease expires.
        """

    @abc.abstractmethod
    def push(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        """Store messages durably; return, for each refused by a unique key, its id and the id that holds the key.

        A request repeated within the dedup window adds nothing and reports what it reported first; a
        message whose id is in the store adds nothing. `conflict="replace"` cancels a queued holder instead.
        With `known_ids`, a message whose id was chosen adds nothing either while the end of that job is kept (its
        result, or that it was cancelled), and what adds nothing is returned as held by itself: {id: id}. Of two
        messages of one id in one push the first counts, and the second is not returned.
        Called by: producers and, with follow-ups a backend cannot commit, couriers. Atomicity: all or nothing
        with `dedup`. Blocks: until durable. Raises: QueueFull, BackendUnavailable, BackendError.
        """

    @abc.abstractmethod
    def reserve(self, topics: Sequence[str], limit: int, request: str) -> list[Delivery]:
        """Reserve up to `limit` ready jobs, now, from the topics in the given order; renew the owner's lease.

        Due scheduled jobs count as ready. The owner's last request, repeated, returns the same jobs.
        Called by: couriers. Atomicity: one step. Blocks: for a round trip, never for work.
        Raises: OwnerLost, BackendUnavailable, BackendError.
        """

    @abc.abstractmethod
    def wait(self, topics: Sequence[str], timeout: float) -> bool:
        """Sleep until work may exist (True), a scheduled job falls due (True), `interrupt` or `timeout` (False).

        Without topics it only serves the connection: the courier sleeps nowhere else.
        Called by: couriers. Atomicity: none needed. Blocks: up to `timeout` seconds, without polling.
        Raises: BackendUnavailable.
        """

    def reserve_next(self, topics: Sequence[str], limit: int, request: str, timeout: float) -> list[Delivery]:
        """Sleep as `wait` does, and reserve up to `limit` of the jobs that arrive; return none if none do.

        Where both can be one step, a job starts a round trip earlier; this default takes two steps. It may return
        none before its time. If it raises, `reserve` repeats the request, and returns what this call had taken.
        Called by: couriers that can take work. Atomicity: jobs are reserved in one step.
        Blocks: up to `timeout` seconds, without polling. Raises: OwnerLost, BackendUnavailable, BackendError.
        """
        return self.reserve(topics, limit, request) if self.wait(topics, timeout) else []

    def expect(self, jobs: int) -> None:
        """Learn how many jobs the owner will still reserve at most: more need not be fetched ahead.

        Released jobs may be reserved once more. Called by: couriers of workers with `max_jobs`, after `open`.
        Atomicity: none needed. Blocks: never. Raises: nothing.
        """

    @abc.abstractmethod
    def interrupt(self) -> None:
        """End the current `wait` or `reserve_next`, or the next one at once if none is running.

        Called by: any thread, and signal handlers. Atomicity: several calls may end one wait.
        Blocks: never. Raises: nothing.
        """

    @abc.abstractmethod
    def settle(self, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        """End reservations, each as its outcome says; answer for each, in order.

        The owner's last request, repeated, answers ALREADY for what it did.
        Called by: couriers. Atomicity: each settlement with its follow-ups in one step (with
        `atomic_followups`). Blocks: for a round trip. Raises: BackendUnavailable, BackendError.
        """

    @abc.abstractmethod
    def heartbeat(self) -> Heartbeat:
        """Renew the owner's lease; return the jobs that were lost or cancelled meanwhile.

        Called by: couriers, several times a lease. Atomicity: one step. Blocks: for a round trip.
        Raises: OwnerLost, BackendUnavailable.
        """

    @abc.abstractmethod
    def release_owner(self, owner: str, started: Collection[str], report: bytes) -> int:
        """Release a dead process's reservations to the front of their topics at once; return how many.

        Jobs in `started` have their redeliveries counted and `report` (JSON) put into their history, and
        `crashes` too if only one was started; the others are uncharged. The owner is closed for good: its
        late reserve or heartbeat raises OwnerLost. An unknown owner is a no-op.
        Called by: the housekeeper. Atomicity: one step. Blocks: for a round trip. Raises: BackendUnavailable.
        """

    @abc.abstractmethod
    def housekeep(self, limit: int) -> Housekept:
        """Make due jobs ready, release owners whose lease has expired, drop old results, dead letters and requests.

        All jobs of such an owner are charged a redelivery, and a crash if it held exactly one. If no
        housekeeping ran for `outage_after`, all leases are extended first. At most about `limit` jobs of
        each kind a call. Called by: the housekeeper, or the courier of a lone worker. Atomicity: idempotent,
        may run on several machines. Blocks: for a round trip. Raises: BackendUnavailable.
        """

    @abc.abstractmethod
    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        """Count each topic's jobs by state.

        Called by: the housekeeper, `jobsctl topics`. Atomicity: each topic one view. Blocks: for a round trip.
        Raises: BackendUnavailable.
        """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


BackendFactory: TypeAlias = Callable[[str, BackendOptions], Backend]
"""The factory that `jobs_queue_backends` provides for each URL scheme: (url, options) to an unopened backend."""
