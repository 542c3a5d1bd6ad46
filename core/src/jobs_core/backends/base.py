"""The interface that every backend implements and the core relies on.

All backends have the same states::

    push ──► ready ──reserve──► reserved ──settle──► done | cancelled | dead
               ▲                   │
               └── scheduled ◄─────┘ retry, defer (release goes straight back to ready)

A worker process opens a backend under an *owner* id. Its reservations belong to that owner, whose single lease covers all of
them, one job or five thousand. Every reservation has a *token*, and a job can be settled only with its current token. Times
are seconds on the broker's own clock. Payloads are opaque bytes: a backend never parses them.

Methods are called by one thread at a time, except `interrupt`, which any thread and a signal handler may call. A backend is
opened after a fork, and never used across one. `jobs_core.testing.BackendContract` tests everything that is said here.
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

from ..errors import BackendError, NotSupported
from ..message import UniqueKey
from .documents import ABSENT, Document, Guard
from .flows import FlowStatus, Member, MemberStatus, Part
from .letters import DeadGroup, Fingerprint
from .limits import Limit, LimitState, Lines
from .notes import NONE, Note, Notes
from .statistics import StatisticsRow
from .transactions import Enlisted

INTERFACE_VERSION: Final = 2
"""The interface described here. Version 2 added optional features: see ALL_FEATURES."""

OLDEST_INTERFACE: Final = 1
"""Plugins from this version on are loaded; one that declares no version is of version 1."""

FEATURES: Final = frozenset(
    {
        "delay",  # push and settle may schedule a job for later
        "priority",  # 0 to 9, higher first within a topic
        "unique",  # push refuses a second job under a held unique key
        "debounce",  # with unique: UniqueKey.longest limits how long jobs that replace each other are put off
        "results",  # a job's return value is kept for its time to live
        "cancel",  # a queued job is cancelled at once, and the worker of a running one is told
        "browse",  # jobs can be listed by topic and state
        "lookup",  # a job can be found by id
        "pause",  # a topic can be paused for all workers
        "atomic_followups",  # jobs enqueued by a job, or at its end, commit with its acknowledgement or dead letter
        "dedup",  # a repeated push request adds nothing
        "known_ids",  # push adds nothing for a chosen id that the store holds, even of an ended job, and reports it
        "fencing",  # a stale owner can settle nothing
        "owner_release",  # release_owner returns a dead process's jobs at once
        "exact_redelivery",  # redeliveries and crashes are counted exactly
        "exact_counts",  # counts are exact, not estimates
        "ages",  # counts tell how long the oldest ready job has waited
        "strict_order",  # topics in strict order, priority and first-in-first-out within
        "multiprocess",  # several processes share the queue
        "claim",  # jobs can be reserved by id, so this can be the results store of another backend
        "prefix",  # BackendOptions.prefix separates applications that share one broker
    }
)
"""The features of interface version 1. This set stays as it is, because backends subtract from it what they lack."""

ALL_FEATURES: Final = FEATURES | {
    "limits",  # jobs name limits on concurrency and rate, which hold over all machines: see backends/limits.py
    "fairness",  # in a fair topic, the keys of jobs take turns
    "checkpoints",  # a running job stores a cursor, which its next delivery contains
    "flows",  # jobs wait for one another: see backends/flows.py; implies fencing, dedup and atomic_followups
    "documents",  # small named values with compare-and-set: see backends/documents.py
    "guards",  # with documents: push_guarded compares the version of a document in the step that pushes
    "notes",  # a running job tells its progress and log lines, and each of its runs leaves an entry: see backends/notes.py
    "transactions",  # jobs are pushed inside a transaction of the application: see backends/transactions.py
    "history",  # with notes, results and browse: done jobs are kept for a time if they are settled with a timeline
    "dead_groups",  # with browse: dead letters are counted by what went wrong: see backends/letters.py
    "amend",  # with browse: the payload of a dead letter can be replaced
    "move",  # with amend: a dead letter can be moved to another topic, in the same step
    "statistics",  # what workers did, by minute and topic, is added up over all machines: see backends/statistics.py
}
"""All features that a backend can list in `Backend.features`."""

MOST_SEARCHED: Final = 1000
"""Most jobs of one topic and state that are searched for an id by its beginning."""

SIGNATURE_LINE: Final = 200
"""Bytes that a signature may add to an envelope."""

KEPT_ERRORS: Final = 10
"""Number of entries in a job's history of errors; every backend keeps the newest ones."""

CANCELLED_TTL: Final = 86400.0
"""Seconds for which the status of a cancelled job is kept, whether it was cancelled while it waited or while it ran."""

Token: TypeAlias = "int | str"


class State(enum.Enum):
    """The state of a job."""

    READY = "ready"
    LIMITED = "limited"  # ready, but one of its limits had no room when its line was last looked at
    WAITING = "waiting"  # for other members of its flow
    SCHEDULED = "scheduled"
    RESERVED = "reserved"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  # never pushed, or finished without a stored result


class Outcome(enum.Enum):
    """The end of a reservation."""

    DONE = "done"
    RETRY = "retry"  # the run failed: schedule the job again, and count the attempt
    DEFER = "defer"  # schedule the job again, without counting an attempt
    RELEASE = "release"  # the job was not started, or is to continue elsewhere: return it to the front of its topic at once
    DEAD = "dead"  # move the job to the dead letters, with a reason
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # move the job to the dead letters, because it was not started in time


ENDS: Final = frozenset({Outcome.DONE, Outcome.DEAD, Outcome.EXPIRED})
"""Outcomes whose follow-ups are pushed in the same step."""


class Answer(enum.Enum):
    """The answer to a settlement."""

    SETTLED = "settled"
    ALREADY = "already"  # the same request was sent before, and settled it
    STALE = "stale"  # the reservation no longer belongs to this owner: nothing was done


class Outgoing(Struct, frozen=True, gc=False):
    """An encoded message to be pushed, with the few facts that a backend needs."""

    id: str
    topic: str
    payload: bytes
    priority: int = 0
    delay: float = 0.0
    unique: UniqueKey | None = None
    chosen: bool = False  # the id does not come from `new_id`: the backend may know it already
    key: str = ""  # the jobs of one key, such as a tenant, take turns with those of others in a fair topic
    limits: tuple[str, ...] = ()  # sorted, without duplicates
    member: Member | None = None  # its place in a flow


class Delivery(Struct, frozen=True, gc=False):
    """One reserved job, as the backend delivers it to a worker."""

    id: str
    topic: str
    payload: bytes
    token: Token
    attempt: int  # attempts that ended before this run, see `previous_attempts`
    redeliveries: int  # runs during which the worker died
    crashes: int  # of these, the runs beside which the worker was running no other job
    deferrals: int  # number of times that it was deferred
    pushed_at: float  # broker's clock
    broker_now: float  # broker's clock
    key: str = ""
    limits: tuple[str, ...] = ()
    cursor: bytes = b""  # as it was last stored, see `Backend.checkpoint`
    flow: str = ""  # the flow of which it is a member
    inputs: tuple[tuple[str, bytes], ...] = ()  # ids and results of `Member.inputs`, as many as fit into `max_message` together

    @property
    def previous_attempts(self) -> int:
        """Return `attempt` under a clearer name; the field keeps its name for the backends that construct a Delivery."""
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
    result: bytes | None = None  # done: the result to keep
    result_ttl: float = 0.0  # done, cancelled: seconds for which the end of the job is kept
    followups: tuple[Outgoing, ...] = ()  # done, dead, expired: jobs to push in the same step; may be members of the job's flow
    ran: bool = True  # whether the function was entered; if not, the reservation gives the tokens of its rates back
    limits: tuple[str, ...] | None = None  # release, defer, retry: the limits of the job from now on
    close_limits: tuple[tuple[str, float], ...] = ()  # limits to close, each for a number of seconds from now
    cursor: bytes | None = None  # release, defer, retry, dead: the cursor to store; None leaves the stored one as it is
    notes: Note | None = None  # the last notes of the run, with the same id and token; done: only together with `timeline`
    timeline: bytes = b""  # an entry about the run, to be kept with the job; done: the job itself is kept for `result_ttl`
    fingerprint: Fingerprint | None = None  # dead, expired: what went wrong


class Checkpoint(Struct, frozen=True, gc=False):
    """The cursor of a reserved job, to be stored with it."""

    id: str
    token: Token
    cursor: bytes


class Heartbeat(Struct, frozen=True):
    """The broker's news about an owner's jobs."""

    lost: tuple[str, ...] = ()  # ids of jobs that the owner no longer has reserved
    cancelled: tuple[str, ...] = ()  # ids of jobs to cancel
    forced: tuple[str, ...] = ()  # of these, the ones to end even if their worker has to be replaced


class Counts(Struct, frozen=True):
    """A topic's jobs by state, as numbers."""

    ready: int = 0
    scheduled: int = 0
    reserved: int = 0
    dead: int = 0
    oldest_age: float | None = None  # seconds for which the oldest ready job has been ready; needs the feature `ages`
    limited: int = 0  # not among the ready ones; in a fair topic, the oldest ready job is the oldest head of a line
    waiting: int = 0
    pushed: int | None = None  # jobs that were ever added, by any producer; None if the store does not count them
    refused: int | None = None  # pushes that added nothing, because a unique key was held, or the chosen id was known


class Housekept(Struct, frozen=True):
    """The result of one round of housekeeping; `more` requests another round soon."""

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
    reason: str = ""  # dead; cancelled with its flow, or because of another member
    errors: tuple[bytes, ...] = ()  # JSON documents, oldest first
    result: bytes | None = None
    broker_now: float = 0.0
    key: str = ""
    limits: tuple[str, ...] = ()
    blocked_by: str = ""  # limited: the limit under which its line is filed
    cursor: bytes = b""
    member: Member | None = None
    waiting_for: tuple[str, ...] = ()  # waiting: a few of the ids and stages that it still waits for, dead ones first
    notes: Notes = NONE  # `browse` leaves the lines out
    timeline: tuple[bytes, ...] = ()  # oldest first


class Retention(Struct, frozen=True):
    """The limits on the dead letters of a topic, their age and their number; and on the number of its done jobs."""

    dead_keep: float = 30 * 86400.0
    dead_max: int = 100_000
    done_max: int = 10_000  # only of done jobs that were settled with a timeline


class BackendOptions(Struct, frozen=True):
    """The settings that the core gives to a backend besides its URL."""

    lease: float = 30.0  # seconds for which reservations hold without a heartbeat
    prefix: str = "jobs"  # separates applications on one broker; a backend that is never shared may ignore it
    base_dir: Path = Path()  # relative paths in the URL start here
    retention: Callable[[str], Retention] = lambda topic: Retention()
    cancelled_ttl: float = CANCELLED_TTL  # seconds for which the status of a job is kept that was cancelled while queued
    dedup_window: float = 60.0  # seconds for which a push request is remembered
    clock: Callable[[], float] | None = None  # for tests: replaces the broker's clock, if the broker is written in Python
    settings: Mapping[str, object] = {}  # the backend's own table in the configuration
    topics: tuple[str, ...] = ()  # topics of the configuration, sorted: for `setup`, and backends without `browse`
    longest_run: Callable[[], float | None] = lambda: None  # longest timeout of any job, in seconds; None: unlimited or unknown
    # For backends that check the messages of foreign producers before they use them:
    max_message: int = 1_000_000  # bytes of an envelope
    verify: Callable[[bytes], bytes] | None = None  # returns the body of a payload, or raises SignatureError; None: unsigned

    @property
    def largest_payload(self) -> int:
        """Return the largest size of a payload in bytes: the envelope and a signature line."""
        return self.max_message + SIGNATURE_LINE

    @property
    def outage_after(self) -> float:
        """Return the seconds without housekeeping after which it extends all leases before it releases any owner."""
        return min(10.0, self.lease / 3)

    def now(self) -> float:
        return self.clock() if self.clock else time.time()


class Operable:
    """The calls of operators. A method that a backend does not override raises NotSupported with the missing feature.

    They are made by commands and by handles, on a connection that belongs to no worker.
    """

    name: str
    features: frozenset[str]

    @property
    def queued_states(self) -> tuple[State, ...]:
        """Return the states of jobs that wait, in the order in which to look for them."""
        lines = (State.LIMITED,) if {"limits", "fairness"} & self.features else ()
        return (State.READY, *lines, State.SCHEDULED, *((State.WAITING,) if "flows" in self.features else ()))

    def get(self, job_id: str) -> JobRecord | None:
        """Return everything known about a job; None if the backend does not know its id.

        Called by: handles, `jobsctl show`, `jobsctl why`. Atomicity: one consistent view. Blocks: for a round trip.
        Raises: NotSupported (lookup), BackendUnavailable.
        """
        raise self._lacks("lookup")

    def browse(self, topic: str, state: State, limit: int, offset: int = 0) -> list[JobRecord]:
        """List the jobs of a topic in one state in the order in which they will run; dead letters and done jobs newest first.

        With `history`, done jobs are those that were settled with a timeline; without it, there are none.

        Called by: `jobsctl list`, `jobsctl dead`, `jobsctl check`. Atomicity: one consistent view a call.
        Blocks: for a round trip. Raises: NotSupported (browse), BackendUnavailable.
        """
        raise self._lacks("browse")

    def find_ids(self, prefix: str, limit: int) -> list[str]:
        """List up to `limit` ids of jobs that begin with `prefix`.

        This default searches the first MOST_SEARCHED jobs of each topic and state.

        Called by: commands that take an id. Atomicity: none needed. Blocks: for a round trip; this default, for several per
        topic. Raises: BackendUnavailable.
        """
        if "browse" not in self.features:
            return []
        found = (
            record.id
            for topic in self.topics()
            for state in (State.DEAD, State.RESERVED, *self.queued_states)
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
        """Make dead and scheduled jobs ready now, and reset the attempts of dead ones; return how many.

        A job with limits goes to its line, as after a push. A dead member of a flow waits again if what it waits for has not
        ended; one of a cancelled flow stays dead, and so does one that its flow refused.

        Called by: `jobsctl dead retry`. Atomicity: each job in one step. Blocks: for a round trip.
        Raises: NotSupported (browse), BackendUnavailable.
        """
        raise self._lacks("browse")

    def dead_groups(self, topics: Sequence[str], most: int) -> list[DeadGroup]:
        """Count the dead letters of these topics by what went wrong; return up to `most` groups of each, the largest first.

        The cost depends on the number of groups, not on that of letters. Letters that have no fingerprint yet are in the
        group UNNAMED.

        Called by: `jobsctl dead groups`. Atomicity: one consistent view per topic. Blocks: for a round trip.
        Raises: NotSupported (dead_groups), BackendUnavailable.
        """
        raise self._lacks("dead_groups")

    def dead_in_group(self, topic: str, group: str, limit: int, offset: int = 0) -> list[JobRecord]:
        """List the dead letters of a topic with this id of a fingerprint, oldest first; looks at no others.

        Called by: `jobsctl dead retry`, `jobsctl dead drop`, the housekeeper. Atomicity: one consistent view a call.
        Blocks: for a round trip. Raises: NotSupported (dead_groups), BackendUnavailable.
        """
        raise self._lacks("dead_groups")

    def amend(self, job_id: str, was: bytes, payload: bytes, topic: str = "") -> bool:
        """Replace the payload of a dead letter, and move it to the dead letters of another topic if one is given.

        It keeps its id, errors and time of death. Returns False, having changed nothing, if there is no dead letter with this
        id and the payload `was`. A member of a flow is not moved: that raises BackendError. Without `move`, another topic than
        its own raises NotSupported.

        Called by: `jobsctl dead retry`. Atomicity: one step. Blocks: for a round trip.
        Raises: NotSupported (amend, move), BackendUnavailable, BackendError.
        """
        raise self._lacks("amend")

    def discard(self, job_ids: Sequence[str], reason: str) -> int:
        """Move ready, limited, scheduled and waiting jobs to the dead letters; return how many.

        Called by: operators' code. Atomicity: each job in one step. Blocks: for a round trip.
        Raises: NotSupported (browse), BackendUnavailable.
        """
        raise self._lacks("browse")

    def purge(self, topic: str, state: State) -> int:
        """Delete all ready (with the limited ones), scheduled, waiting or dead jobs of a topic for good; return how many.

        Called by: `jobsctl purge`, `jobsctl dead drop`. Atomicity: may be seen half done. Blocks: until done.
        Raises: NotSupported (browse), BackendUnavailable.
        """
        raise self._lacks("browse")

    def purge_done(self, topic: str, limit: int, older: float = 0.0) -> int:
        """Delete up to `limit` done jobs of a topic that ended at least `older` seconds ago, the oldest first; return how many.

        A smaller number than `limit` means that none are left. The payload, the notes, the timeline and the result go. The id
        stays known until its time is over, so that a push that is repeated late still adds nothing.

        A backend with `history` overrides it; one written for an earlier release of this interface may not.
        Called by: `jobsctl purge --state done`. Atomicity: each job in one step. Blocks: for a round trip.
        Raises: NotSupported (history), BackendUnavailable, BackendError.
        """
        if "history" not in self.features:
            raise self._lacks("history")
        raise BackendError(
            f"{self.name}:// cannot delete done jobs: upgrade its plugin, or wait until keep_done is over for them"
        )

    def purge_inlet(self, topic: str) -> int:
        """Delete messages of foreign producers that are still in the inlet; return how many.

        Called by: `jobsctl purge --inlet`. Atomicity: one step. Blocks: for a round trip.
        Raises: NotSupported (inlet), BackendUnavailable.
        """
        raise self._lacks("inlet")

    def drop(self, job_ids: Sequence[str]) -> int:
        """Delete dead letters for good; return how many.

        Called by: `jobsctl dead drop ID`. Atomicity: each job in one step. Blocks: for a round trip.
        Raises: NotSupported (browse), BackendUnavailable.
        """
        raise self._lacks("browse")

    def pause(self, topic: str) -> None:
        """Keep workers from reserving jobs of a topic until it is resumed, even across restarts.

        Called by: `jobsctl pause`. Atomicity: one step. Blocks: for a round trip.
        Raises: NotSupported (pause), BackendUnavailable.
        """
        raise self._lacks("pause")

    def resume(self, topic: str) -> None:
        """Let workers reserve jobs of a paused topic again, and wake those that wait for them.

        Called by: `jobsctl resume`. Atomicity: one step. Blocks: for a round trip.
        Raises: NotSupported (pause), BackendUnavailable.
        """
        raise self._lacks("pause")

    def paused(self) -> frozenset[str]:
        """Return the paused topics; without the feature `pause` there are none.

        Called by: `jobsctl topics`, `jobsctl why`. Atomicity: one step. Blocks: for a round trip. Raises: BackendUnavailable.
        """
        return frozenset()

    def cancel(self, job_id: str, *, force: bool = False) -> State:
        """Cancel a queued job at once, or ask the owner of a reserved one to do so; return its state afterwards.

        With `force`, `Heartbeat.forced` reports the job to its owner too, which may end the process to stop it.

        Called by: handles, `jobsctl cancel`. Atomicity: one step. Blocks: for a round trip; the owner of a
        reserved job is told within 250 ms, see `Backend.wakes_to_cancel`.
        Raises: NotSupported (cancel), BackendUnavailable.
        """
        raise self._lacks("cancel")

    def fetch_result(self, job_id: str, timeout: float) -> JobRecord | None:
        """Wait until a job has ended, and return its record; None if it has not within `timeout` seconds.

        A record in state UNKNOWN means that the job never existed, or finished without a stored result.
        Called by: `JobHandle.result`, on a connection of its own. Atomicity: none needed.
        Blocks: up to `timeout`. Raises: NotSupported (results), BackendUnavailable.
        """
        raise self._lacks("results")

    def claim(self, job_ids: Sequence[str], request: str) -> list[Delivery]:
        """Reserve exactly these jobs, due or not, even if another owner has them; skip dead, waiting and unknown ones.

        For a store that keeps the records of jobs that another queue delivers: an owner that received a job there claims
        its record here. Renews the owner's lease. If the owner repeats its last request, it gets the same jobs. Only a
        backend with this method can be used for `[results]`.
        Called by: `AuxStore`, for couriers. Atomicity: one step. Blocks: for a round trip.
        Raises: NotSupported (claim), OwnerLost, BackendUnavailable.
        """
        raise self._lacks("claim")

    def limits(self, most: int, names: Sequence[str] = ()) -> list[LimitState]:
        """List the values of limits that are in use, closed, in debt or overridden, those with the most waiting jobs first.

        With `names`, only values of these limits. Every defined or overridden name is listed, even if it is not in use.
        Returns up to `most` states, of at most 10,000 values that are looked at.

        Called by: `jobsctl limits`, `jobsctl why`, metrics. Atomicity: none needed. Blocks: for a round trip.
        Raises: NotSupported (limits), BackendUnavailable.
        """
        raise self._lacks("limits")

    def override_limit(self, limit: str, definition: Limit | None) -> None:
        """Override the definition of a limit, or of one value of it, until it is reset with None; wake workers if it opens.

        None also ends the closures by jobs (`Settlement.close_limits`): that of the value, or those of the name and of all its
        values. A backend may end the closures of a name in steps, each of a bounded number of values.

        Called by: `jobsctl limits set` and `reset`. Atomicity: one step for the override. Blocks: for a round trip, and for
        one more for each step. Raises nothing if there is neither an override nor a closure.
        Raises: NotSupported (limits), BackendUnavailable.
        """
        raise self._lacks("limits")

    def lines(self, topic: str, most: int) -> list[tuple[str, int]]:
        """Return the keys of a fair topic with the most ready and limited jobs, and how many; "" for those without a key.

        Called by: `jobsctl topics`. Atomicity: none needed. Blocks: for a round trip.
        Raises: NotSupported (fairness), BackendUnavailable.
        """
        raise self._lacks("fairness")

    def flow(self, flow_id: str) -> FlowStatus | None:
        """Return the state and progress of a flow; None if the backend does not know it, or no longer.

        Called by: handles, `jobsctl flow show`. Atomicity: one consistent view. Blocks: for a round trip.
        Raises: NotSupported (flows), BackendUnavailable.
        """
        raise self._lacks("flows")

    def flows(self, most: int, offset: int = 0) -> list[FlowStatus]:
        """List flows: the failed ones first, then those that run, then the others, each kind newest first.

        Called by: `jobsctl flows`, metrics. Atomicity: none needed. Blocks: for a round trip.
        Raises: NotSupported (flows), BackendUnavailable.
        """
        raise self._lacks("flows")

    def flow_members(self, flow_id: str, most: int, offset: int = 0, *, dead: bool = False) -> list[MemberStatus]:
        """List the members of a flow in the order in which they were added; of more than MOST_LISTED, only the live ones.

        Returns up to `most` members, and at most MOST_LISTED in one call. With `dead`, it lists only those that `retry_flow`
        requeues, in any order, and looks at no others.

        Called by: handles, `jobsctl flow show`. Atomicity: none needed. Blocks: for a round trip.
        Raises: NotSupported (flows), BackendUnavailable.
        """
        raise self._lacks("flows")

    def flow_results(self, flow_id: str, job_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        """Return the ids and results of members that another member takes, as many as fit into `max_message` together.

        A member that has no result is left out; the first one is always returned, however large it is.

        Called by: `current_job().results()`. Atomicity: none needed. Blocks: for a round trip.
        Raises: NotSupported (flows), BackendUnavailable.
        """
        raise self._lacks("flows")

    def cancel_flow(self, flow_id: str, *, finale: bool = False) -> bool:
        """Cancel all members that have not ended; return whether the flow is known and had not ended.

        Once this returned, no member starts and none is added; reserved ones are told. With `finale`, members of the finale
        still run when what they wait for has ended, unless the last part of the flow was missing.

        Called by: handles, `jobsctl flow cancel`. Atomicity: one step; what it decided is carried out in slices.
        Blocks: for a round trip. Raises: NotSupported (flows), BackendUnavailable.
        """
        raise self._lacks("flows")

    def retry_flow(self, flow_id: str) -> int:
        """Requeue the dead members of a flow, but those that it refused, at most 1,000 in one call; return how many.

        Called by: handles, `jobsctl flow retry`. Atomicity: each job in one step. Blocks: for a round trip.
        Raises: NotSupported (flows), BackendUnavailable.
        """
        raise self._lacks("flows")

    def wait_flow(self, flow_id: str, timeout: float) -> FlowStatus | None:
        """Wait until a flow is done, cancelled with nothing left that runs, or failed with nothing left to run.

        Returns None if that is not so within `timeout` seconds, and at once if the flow is unknown.

        Called by: handles, on a connection of their own. Atomicity: none needed. Blocks: up to `timeout`.
        Raises: NotSupported (flows), BackendUnavailable.
        """
        raise self._lacks("flows")

    def documents(self, kind: str, most: int, after: str = "") -> list[Document]:
        """List up to `most` documents of a kind by name, those with names after `after`.

        A page may be shorter, because it holds about 4 MB at most; an empty one means that no more documents follow.

        Called by: `documents.all_of`. Atomicity: none needed. Blocks: for a round trip.
        Raises: NotSupported (documents), BackendUnavailable.
        """
        raise self._lacks("documents")

    def document(self, kind: str, name: str) -> Document | None:
        """Return a document; None if it is absent, or has expired.

        Called by: commands, applications. Atomicity: none needed. Blocks: for a round trip.
        Raises: NotSupported (documents), BackendUnavailable.
        """
        raise self._lacks("documents")

    def document_versions(self, kinds: Sequence[str]) -> dict[str, int]:
        """Return the number of the last change of each kind, so that a reader knows whether to read it again.

        Called by: the housekeeper. Atomicity: none needed. Blocks: for a round trip.
        Raises: NotSupported (documents), BackendUnavailable.
        """
        raise self._lacks("documents")

    def put_document(
        self, kind: str, name: str, data: bytes, request: str, *, expected: int | None = None, ttl: float | None = None
    ) -> int | None:
        """Write a document; return its new version, or None, with nothing changed, if it does not have the version `expected`.

        `expected` is ABSENT if it must not exist, and None if any version will do. Without `ttl` (seconds), it stays until it
        is deleted. A repeated request returns the first answer. A document that is too large, or one too many of its kind,
        raises BackendError.

        Called by: commands, applications, the housekeeper. Atomicity: one step. Blocks: until durable.
        Raises: NotSupported (documents), BackendUnavailable, BackendError.
        """
        raise self._lacks("documents")

    def delete_document(self, kind: str, name: str, request: str, *, expected: int | None = None) -> bool:
        """Delete a document; return False, with nothing changed, if it is absent or does not have the version `expected`.

        A repeated request returns the first answer.

        Called by: commands, applications. Atomicity: one step. Blocks: until durable.
        Raises: NotSupported (documents), BackendUnavailable.
        """
        raise self._lacks("documents")

    def statistics(
        self, span: int, since: float, most: int, *, topic: str | None = None, after: StatisticsRow | None = None
    ) -> list[StatisticsRow]:
        """List up to `most` rows of statistics of one span by time, topic and job, from the time `since` on.

        `topic` selects the rows of one topic; those of "" count all topics. With `after`, the last row of a page, this is the
        next page; an empty one means that no more rows follow.

        Called by: `jobsctl stats`. Atomicity: one consistent view a call. Blocks: for a round trip.
        Raises: NotSupported (statistics), BackendUnavailable.
        """
        raise self._lacks("statistics")

    def advice(self) -> list[str]:
        """Return the risks in the settings of the broker, each with its fix; empty if there are none.

        Called by: `jobsctl check`, and once by the housekeeper. Atomicity: none needed. Blocks: for a few round trips.
        Raises: BackendUnavailable.
        """
        return []

    def setup(self) -> None:
        """Create the queues or tables that the broker needs once, so that workers need no permission to do so; idempotent.

        Called by: `jobsctl setup`. Atomicity: may be repeated. Blocks: until done. Raises: BackendError, BackendUnavailable.
        """

    def setup_sql(self, producer: str = "", worker: str = "") -> str:
        """Return the SQL that `setup` executes, with the permissions of two roles if they are named; empty if it needs none.

        `producer` may enqueue alone, `worker` may do all but `setup`.

        Called by: `jobsctl setup --sql`, on a backend that need not be open. Atomicity: none. Blocks: never. Raises: nothing.
        """
        return ""

    def _lacks(self, feature: str) -> NotSupported:
        return NotSupported(feature, f"{self.name}://")


class BindsKeys(abc.ABC):
    """The unique keys of a results store that is used beside a queue: see `AuxStore`.

    Once a job is known to be in the queue, its key is bound to it. Until then, the key is held loosely, which means that the
    next enqueue takes it over.
    """

    @abc.abstractmethod
    def push_loosely(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        """Push messages, holding their unique keys loosely; cancel waiting jobs that held such a key loosely before."""

    @abc.abstractmethod
    def bind(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        """Bind the keys of these messages, which are now all in the queue, unless another job has taken them over.

        Returns, for each message whose key was taken over, its id and the id of the new holder, or "" if the new holder
        holds the key loosely.
        Called by: `AuxStore`, for producers. Atomicity: one step. Blocks: until durable. Raises: BackendUnavailable.
        """


class Backend(Operable, abc.ABC):
    """A connection to a broker or store. Every method but `interrupt` is called by one thread at a time."""

    name: str = ""
    """The URL scheme, for messages."""

    features: frozenset[str] = frozenset()
    """The features of this backend, a subset of ALL_FEATURES; the core and the contract depend on them, not on the name."""

    wakes_to_cancel: bool = False
    """True if `wait` and `reserve_next` return, with `called` set, when a job of this owner is to be cancelled.

    If False, couriers send several heartbeats a second while jobs run, in order to learn of cancellations.
    """

    overlaps: bool = False
    """True if `begin_settle` sends settlements without waiting: couriers then decode jobs while the server stores them."""

    called: bool = False
    """True if the owner has to send a heartbeat now, whose answer names a job to cancel. Each heartbeat clears it."""

    startable: int | None = None
    """Most jobs with a limit on concurrency (or a key with one) that the next `reserve` takes: as many as can start now.

    Set by couriers before each reservation, if the backend has `limits` or `fairness`, so that prefetched jobs do not keep
    slots from idle workers. None means no bound.
    """

    passed_over: bool = False
    """True if the last `reserve` or `reserve_next` left a job that could start behind, because `startable` was used up.

    The courier then reserves again as soon as one of its own jobs has ended, and until then reserves nothing if all its
    slots are taken: `wait` may return at once because of such a job.
    """

    @abc.abstractmethod
    def open(self, owner: str | None) -> None:
        """Connect, and register `owner` if this is a worker's connection.

        Called by: producers (no owner) and couriers, after a fork, once per owner id; again after `close`.
        Atomicity: one step. Blocks: for the connection. Raises: BackendUnavailable, BackendError.
        """

    def prepare(self, topics: Sequence[str]) -> None:
        """Do now what a first push to these topics would have to do besides, such as creating their queues.

        Called by: producers that warm up, after `open`. Atomicity: may be repeated. Blocks: for round trips.
        Raises: BackendUnavailable, BackendError.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Disconnect, release the owner's remaining jobs without counting anything, and forget the owner.

        Called by: the code that opened it; a second call does nothing. Atomicity: one step. Blocks: for a round trip.
        Raises: nothing; if the broker is unreachable, the jobs are released when the lease expires.
        """

    @abc.abstractmethod
    def push(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        """Store messages durably; return, for each refused by a unique key, its id and the id that holds the key.

        A request repeated within the dedup window adds nothing and returns the first answer. A message whose id is in the
        store adds nothing. With `conflict="replace"`, a queued holder of the key is cancelled instead.

        With `known_ids`, a message with a chosen id also adds nothing while the end of that job is kept (its result, or
        that it was cancelled). Then each message that adds nothing is returned as held by itself: {id: id}. Of two messages
        with the same id in one push the first counts, and the second is not returned.

        With `flows`, a push that has a message with a `member` raises BackendError and adds nothing: members come in
        `push_part`, or as follow-ups of a member.
        Called by: producers, and couriers for follow-ups without `atomic_followups`. Atomicity: all or nothing
        with `dedup`. Blocks: until durable. Raises: QueueFull, BackendUnavailable, BackendError.
        """

    def define_limits(self, limits: Mapping[str, Limit], topics: Mapping[str, Lines]) -> None:
        """Set the definitions of limits by name, and how topics are served; those that are not named keep theirs.

        The newest definition wins. A lower one takes nothing back; a higher one wakes workers at once.

        Called by: the supervisor and lone workers at start and reload, if the backend has `limits` or `fairness`.
        Atomicity: one step, may be repeated. Blocks: for a round trip. Raises: NotSupported (limits), BackendUnavailable.
        """
        raise self._lacks("limits")

    def push_part(self, part: Part, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        """Store a part of a flow; with the last part the flow begins. Each message has a `member` of this flow.

        Returns what `push` returns; if a message is refused by a unique key, or its id is known, the whole part adds nothing,
        and may be pushed again without it. A queued holder of a key that is in a flow is never replaced.
        A part for a closed flow adds nothing, since it was pushed before. Parts are pushed in the order of their numbers.
        Members are after members that come before them in this part or in earlier parts, and after the stages of these;
        anything else, and so every cycle, raises BackendError. A flow that is unknown, when a part is not its first,
        or was cancelled or dropped before its last part, raises FlowLost.

        Called by: producers. Atomicity: one step, may be repeated. Blocks: until durable.
        Raises: NotSupported (flows), FlowLost, BackendUnavailable, BackendError.
        """
        raise self._lacks("flows")

    def push_guarded(self, messages: Sequence[Outgoing], request: str, guard: Guard) -> Mapping[str, str] | None:
        """Push as `push` does if a document has the version of the guard; otherwise push nothing, and return None.

        With `guards`, this is one step. This default takes two, so that a change of the document that is made between them
        does not keep the jobs out. A repeated request returns the first answer, unless that was None.

        Called by: the housekeeper, for ticks of the schedule. Atomicity: one step with `guards`. Blocks: until durable.
        Raises: NotSupported (documents), QueueFull, BackendUnavailable, BackendError.
        """
        document = self.document(guard.kind, guard.name)
        if (ABSENT if document is None else document.version) != guard.version:
            return None
        return self.push(messages, request)

    def enlist(self, transaction: object) -> Enlisted:
        """Return what pushes into a transaction of the application, which its own connection represents.

        Called by: producers, on a backend that need not be open. Atomicity: none. Blocks: never.
        Raises: NotSupported (transactions), TransactionError for an object that represents no transaction.
        """
        raise self._lacks("transactions")

    def shares(self, transaction: object) -> bool:
        """Return whether a transaction of the application is on the database in which this backend stores jobs.

        Called by: producers, on a backend that need not be open, for transactions that a framework has open. Atomicity: none.
        Blocks: for a round trip the first time. Raises: NotSupported (transactions), BackendUnavailable, BackendError.
        """
        raise self._lacks("transactions")

    @abc.abstractmethod
    def reserve(self, topics: Sequence[str], limit: int, request: str) -> list[Delivery]:
        """Reserve up to `limit` ready jobs, without waiting, from the topics in this order; renew the owner's lease.

        Due scheduled jobs count as ready. If the owner repeats its last request, it gets the same jobs. See `startable`.
        Called by: couriers. Atomicity: one step. Blocks: for a round trip, never for work.
        Raises: OwnerLost, BackendUnavailable, BackendError.
        """

    @abc.abstractmethod
    def wait(self, topics: Sequence[str], timeout: float) -> bool:
        """Sleep until jobs may be ready or a scheduled job is due (True), or until `interrupt` or `timeout` (False).

        Without topics it only keeps the connection alive, because the courier never sleeps anywhere else. Housekeepers, which
        open with no owner, wait without topics as well.
        Called by: couriers, housekeepers. Atomicity: none needed. Blocks: up to `timeout` seconds, without polling.
        Raises: BackendUnavailable.
        """

    def reserve_next(self, topics: Sequence[str], limit: int, request: str, timeout: float) -> list[Delivery]:
        """Sleep as `wait` does, and reserve up to `limit` of the jobs that arrive; return an empty list if none does.

        A backend that can do both in one step saves a round trip before each job starts; this default takes two steps. It
        may return an empty list early. After an exception, `reserve` with the same request returns the jobs that this call
        had reserved.

        Called by: couriers with room for jobs. Atomicity: jobs are reserved in one step.
        Blocks: up to `timeout` seconds, without polling. Raises: OwnerLost, BackendUnavailable, BackendError.
        """
        return self.reserve(topics, limit, request) if self.wait(topics, timeout) else []

    def expect(self, jobs: int) -> None:
        """Set how many more jobs the owner will reserve at most, so that the backend does not fetch more in advance.

        Released jobs may be reserved in addition. Called by: couriers of workers with `max_jobs`, after `open`.
        Atomicity: none needed. Blocks: never. Raises: nothing.
        """

    @abc.abstractmethod
    def interrupt(self) -> None:
        """End the current `wait` or `reserve_next`; if none is running, the next one returns at once.

        Called by: any thread, and signal handlers. Atomicity: several calls may end a single wait.
        Blocks: never. Raises: nothing.
        """

    @abc.abstractmethod
    def settle(self, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        """End reservations, each according to its outcome; return an answer for each, in order.

        If the owner repeats its last request, the answer is ALREADY for each job that the request had settled.
        Called by: couriers. Atomicity: each settlement with its follow-ups in one step (with
        `atomic_followups`). Blocks: for a round trip. Raises: BackendUnavailable, BackendError.
        """

    def begin_settle(self, settlements: Sequence[Settlement], request: str) -> bool:
        """Send settlements without waiting for the answer; return False if these have to be settled at once.

        `settle` is called with the same settlements and request next, and then waits for the answer and returns it. Other calls
        may come between them. After an error, `settle` repeats the request.
        Called by: couriers, if `overlaps`. Atomicity: that of `settle`. Blocks: never for an answer.
        Raises: BackendUnavailable, BackendError.
        """
        return False

    def confirm(self) -> None:
        """Wait until no loss of the connection can undo the settlements that `settle` has answered.

        Override it if `settle` does not wait for the broker. Called by: workers, before they delete what these jobs would need
        to run again. Atomicity: none. Blocks: for a round trip. Raises: BackendUnavailable.
        """

    def checkpoint(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Store the cursors of reserved jobs, each in place of the job's last one; ignore those whose token is stale.

        The next delivery of a job contains its cursor, however this reservation ends. A dead letter keeps it; it is deleted
        with the job.
        Called by: couriers while resumable jobs run, at most once a second. Atomicity: each cursor in one step.
        Blocks: for a round trip. Raises: NotSupported (checkpoints), BackendUnavailable, BackendError.
        """
        raise self._lacks("checkpoints")

    def note(self, notes: Sequence[Note]) -> None:
        """Store what reserved jobs have told; ignore notes whose token is stale. A repeated call adds no line twice.

        Called by: couriers while jobs tell something, at most twice a second. Atomicity: each note in one step.
        Blocks: for a round trip. Raises: NotSupported (notes), BackendUnavailable, BackendError.
        """
        raise self._lacks("notes")

    def add_statistics(self, rows: Sequence[StatisticsRow], request: str) -> int:
        """Add rows of statistics to those of the same time, topic and job; return how many are too old, or too far ahead.

        Those are left out. A request that is repeated within `statistics.REMEMBERED` adds nothing and returns the first answer.

        Called by: the housekeeper, once a minute. Atomicity: one step. Blocks: for a round trip; it need not be durable.
        Raises: NotSupported (statistics), BackendUnavailable, BackendError.
        """
        raise self._lacks("statistics")

    @abc.abstractmethod
    def heartbeat(self) -> Heartbeat:
        """Renew the owner's lease; return the jobs that it has lost or has to cancel.

        Called by: couriers, several times a lease. Atomicity: one step. Blocks: for a round trip.
        Raises: OwnerLost, BackendUnavailable.
        """

    @abc.abstractmethod
    def release_owner(self, owner: str, started: Collection[str], report: bytes, ran: Collection[str] = ()) -> int:
        """Return a dead process's jobs to the front of their topics at once; return how many.

        For each job in `started`, count a redelivery and add `report` (JSON) to its history; if only one was started, count
        a crash, too. The other jobs stay uncharged. Jobs in `ran` had started, too: like those in `started`, they give no
        token of a rate back. The owner is closed for good: if it still lives, its next reserve or heartbeat raises
        OwnerLost. For an unknown owner, this does nothing. `ran` is passed only if the backend has `limits` or `fairness`.
        Called by: the housekeeper. Atomicity: one step. Blocks: for a round trip. Raises: BackendUnavailable.
        """

    @abc.abstractmethod
    def housekeep(self, limit: int) -> Housekept:
        """Make due jobs ready, release owners whose lease has expired, drop old results, dead letters and requests.

        Each job of an expired owner is charged a redelivery, and a crash if the owner had reserved only that one. If no
        housekeeping ran for `outage_after`, all leases are extended first. A call handles about `limit` jobs of each kind
        at most. Called by: the housekeeper, or the courier of a lone worker. Atomicity: idempotent,
        may run on several machines. Blocks: for a round trip. Raises: BackendUnavailable.
        """

    @abc.abstractmethod
    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        """Count each topic's jobs by state.

        What was pushed and refused is counted where that costs a push nothing: it may lag behind, see `backend_kit.Tally`, and
        it begins at 0 again if the store forgets a topic.

        Called by: the housekeeper, `jobsctl topics`. Atomicity: one consistent view per topic. Blocks: for a round trip.
        Raises: BackendUnavailable.
        """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


BackendFactory: TypeAlias = Callable[[str, BackendOptions], Backend]
"""The factory that `jobs_queue_backends` provides for each URL scheme: (url, options) to an unopened backend."""
