"""The state of one in-process broker, and all operations that change it."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import msgspec

from ...errors import OwnerLost
from ...message import UniqueKey
from ..base import ENDS, Answer, Checkpoint, Delivery, Heartbeat, Housekept, JobRecord, Outcome, Outgoing, Settlement, State
from ..documents import Guard
from ..flows import SLICE, Part, misplaced
from ..letters import Fingerprint
from ..limits import Limit, Lines
from ..notes import NONE, Note
from .documents import Documents
from .flows import CANCELLED, Node
from .letters import Groups
from .limits import Limits
from .lines import TopicLines
from .members import Members
from .records import Job, Moment, Owner
from .statistics import Statistics

E = TypeVar("E")

_READY, _SCHEDULED, _RESERVED, _DEAD = State.READY, State.SCHEDULED, State.RESERVED, State.DEAD
_WAITING = State.WAITING


class MemoryStore:
    """Jobs and owners. Callers have to hold `lock`; `changed` notifies waiting threads."""

    def __init__(self) -> None:
        # Re-entrant: a signal handler may interrupt a wait while its own thread holds the lock.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.jobs: dict[str, Job] = {}
        self.owners: dict[str, Owner] = {}
        self.dead: dict[str, dict[str, Job]] = defaultdict(dict)  # by topic, oldest first
        self.needed: dict[str, dict[str, Job]] = defaultdict(dict)  # dead members of flows that wait for their retry
        self.groups = Groups()
        self.paused: set[str] = set()
        self._ready: dict[str, list[tuple[int, float, int, Job]]] = defaultdict(
            list
        )  # heaps; stale entries are skipped; has each topic
        self._ready_count: dict[str, int] = defaultdict(int)
        self._scheduled: list[tuple[float, int, Job]] = []  # a heap; stale entries are skipped
        self._ended: dict[str, tuple[float, JobRecord]] = {}  # id → (time until which it is kept, record of an ended job)
        self._ended_due: list[tuple[float, str]] = []  # a heap of these times
        self.done: dict[str, dict[str, None]] = defaultdict(dict)  # by topic: ids of the done jobs that are kept, oldest first
        self._unique: dict[str, tuple[str, float | None]] = {}  # key → (job id, end of the key's time or limit)
        self._pushes: dict[str, tuple[float, dict[str, str]]] = {}  # request → (its time, its answer)
        self._sequence = itertools.count(1)
        self._tokens = itertools.count(1)
        self._now = 0.0  # time of the call
        self._last_housekeep: float | None = None
        self.limits = Limits(self._opens)
        self._lines: dict[str, TopicLines] = {}  # topics that are fair or have lines
        self.passed_over = False  # by the last reserve
        self.members = Members(self)
        self.documents = Documents()
        self.statistics = Statistics()

    # -- push ------------------------------------------------------------------------------------

    def push(self, at: Moment, messages: Sequence[Outgoing], request: str) -> dict[str, str]:
        known = self._pushes.get(request)
        if known:
            return known[1]
        for message in messages:
            if message.member is not None:
                raise misplaced(message.id, message.member)
        conflicts = self._push(at, messages)
        self._pushes[request] = (at.now, conflicts)
        return conflicts

    def push_guarded(self, at: Moment, messages: Sequence[Outgoing], request: str, guard: Guard) -> dict[str, str] | None:
        if request not in self._pushes and not self.documents.holds(guard, at.now):
            return None
        return self.push(at, messages, request)

    def push_part(self, at: Moment, part: Part, messages: Sequence[Outgoing], request: str) -> dict[str, str]:
        if request in self._pushes:
            return self._pushes[request][1]
        self._now = at.now
        conflicts = self.members.push_part(at, part, messages)
        self._pushes[request] = (at.now, conflicts)
        self.changed.notify_all()
        return conflicts

    def _push(self, at: Moment, messages: Iterable[Outgoing], by: Job | None = None) -> dict[str, str]:
        """Add messages; those that are members of a flow are added `by` a member that ends."""
        self._now = at.now
        conflicts: dict[str, str] = {}
        added: set[str] = set()  # chosen ids of this push
        for message in messages:
            if message.id in self.jobs or (message.chosen and self.find(at.now, message.id)):
                if message.chosen and message.id not in added:
                    conflicts[message.id] = message.id
                continue
            if by is not None and message.member is not None:
                self.members.join(at, message, by)
                continue
            delay = message.delay
            if message.unique:
                holder = self.take_key(at, message)
                if holder:
                    conflicts[message.id] = holder
                    continue
                delay = self._within_limit(at.now, message.unique, delay)
            if message.chosen:
                added.add(message.id)
            job = self.jobs[message.id] = Job(next(self._sequence), message, at.now)
            self.place(job, at.now, delay)
        self.changed.notify_all()
        return conflicts

    def conflicts(self, at: Moment, messages: Iterable[Outgoing]) -> dict[str, str]:
        """Return, for each message that a push would not add, its id and the id that is in its way."""
        conflicts: dict[str, str] = {}
        keys: dict[str, str] = {}
        for message in messages:
            known = message.id in self.jobs or bool(message.chosen and self.find(at.now, message.id))
            in_the_way = message.id if known else ""
            if message.unique and not known:
                first = keys.setdefault(message.unique.key, message.id)
                in_the_way = self._holder(at.now, message.unique) if first == message.id else first
            if in_the_way:
                conflicts[message.id] = in_the_way
        return conflicts

    def _holder(self, now: float, unique: UniqueKey) -> str:
        """Return the id of the job that holds a key and is not to be replaced."""
        holder, until = self._unique.get(unique.key, ("", None))
        if not holder or (until is not None and until <= now):
            return ""
        job = self.jobs.get(holder)
        if unique.conflict != "replace" or job is None or job.state not in (_READY, _SCHEDULED) or job.node is not None:
            return holder
        return ""

    def take_key(self, at: Moment, message: Outgoing) -> str | None:
        """Give the message its unique key, if it has one, or return the id of the job that holds it."""
        unique = message.unique
        if unique is None:
            return None
        if refused := self._holder(at.now, unique):
            return refused
        bound = unique.bound if isinstance(unique.scope, str) else unique.scope
        ends = None if bound is None else at.now + bound
        holder, until = self._unique.get(unique.key, ("", None))
        if holder and (until is None or until > at.now):
            job = self.jobs[holder]
            if ends is not None and until is not None and unique.scope == "queued" and job.unique and job.unique.bound:
                ends = min(ends, until)
            self.end(at, job, State.CANCELLED, at.options.cancelled_ttl)
        self._unique[unique.key] = (message.id, ends)
        return None

    def _within_limit(self, now: float, unique: UniqueKey, delay: float) -> float:
        """Return the delay of a job that holds its key, shortened to the limit of the key."""
        ends = None if unique.bound is None else self._unique[unique.key][1]
        return delay if ends is None else min(delay, ends - now)

    def _free_key(self, job: Job) -> None:
        if job.unique and isinstance(job.unique.scope, str) and self._unique.get(job.unique.key, ("",))[0] == job.id:
            del self._unique[job.unique.key]

    # -- members of flows -------------------------------------------------------------------------

    def add_member(self, at: Moment, message: Outgoing, node: Node | None) -> Job:
        """Store a member, which waits."""
        job = self.jobs[message.id] = Job(next(self._sequence), message, at.now)
        job.state, job.delay, job.node = _WAITING, message.delay, node
        self._ready.setdefault(job.topic, [])
        if node is not None:
            node.topic = job.topic
        return job

    def start_member(self, at: Moment, job: Job) -> None:
        """Make a member ready, or due after its delay, because all that it waited for has ended."""
        self.place(job, at.now, self._within_limit(at.now, job.unique, job.delay) if job.unique else job.delay)
        self.changed.notify_all()

    def release_letter(self, job: Job) -> None:
        """Let a dead letter be dropped like those of jobs in no flow."""
        if self.needed[job.topic].pop(job.id, None):
            self.dead[job.topic][job.id] = job

    # -- ready jobs -----------------------------------------------------------------------------

    def place(self, job: Job, now: float, after: float) -> None:
        """Make a job ready now, or schedule it `after` seconds from now."""
        job.since = now
        if after > 0:
            job.state, job.due = _SCHEDULED, now + after
            self._ready.setdefault(job.topic, [])
            heapq.heappush(self._scheduled, (job.due, job.seq, job))
        else:
            job.ready_at = now
            self._make_ready(job)

    def _make_ready(self, job: Job, *, first: bool = False) -> None:
        """Put a job into its line; `first` for one that returns unstarted: its key is the next in turn."""
        job.state = _READY
        if not job.plain or job.topic in self._lines:
            self._line_up(job, first=first)
            return
        heapq.heappush(self._ready[job.topic], (job.rank, job.ready_at, job.seq, job))
        self._ready_count[job.topic] += 1

    def _line_up(self, job: Job, *, first: bool) -> None:
        """Put a job into the line in which it belongs, perhaps the plain one of a topic that has others."""
        if job.limits or job.topic in self._lines:
            lines = self._lines_of(job.topic)
            if job.limits or (job.key and lines.rules.fair):
                lines.add(job, self._now, first=first)
                return
            if first and lines.rules.fair:
                lines.to_front(job.rank, "")
        heapq.heappush(self._ready[job.topic], (job.rank, job.ready_at, job.seq, job))
        self._ready_count[job.topic] += 1

    def _ready_due(self, now: float, limit: int) -> int:
        """Make due jobs ready, in the same order as if each had been made ready when it was due."""
        readied = 0
        while self._scheduled and self._scheduled[0][0] <= now and readied < limit:
            due, _, job = heapq.heappop(self._scheduled)
            if job.state is _SCHEDULED and job.due == due:
                job.since = job.ready_at = due
                self._make_ready(job)
                readied += 1
        return readied

    def known_topics(self) -> list[str]:
        """Return every topic that has ever had a job, sorted; unlike `Backend.topics`, this looks at no job."""
        return sorted(self._ready)

    def has_ready(self, topic: str) -> bool:
        """Return whether a worker could reserve a job of this topic."""
        if topic in self._lines:
            return topic not in self.paused and self._lines[topic].may_have_work(self._now, self._ready_count[topic])
        return self._ready_count[topic] > 0 and topic not in self.paused

    def moment(self, now: float) -> None:
        """Set the time of an operator's call."""
        self._now = now

    def _lines_of(self, topic: str) -> TopicLines:
        lines = self._lines.get(topic)
        if lines is None:
            lines = self._lines[topic] = TopicLines(topic, self.limits, self._ready[topic])
        return lines

    def _opens(self, topic: str, limit: str) -> None:
        if topic in self._lines:
            self._lines[topic].opens(limit)

    def _leave(self, job: Job) -> None:
        """Take a ready job out of its line."""
        if job.line is None:
            self._ready_count[job.topic] -= 1
        else:
            lines = self._lines[job.topic]
            lines.remove(job)
            if lines.forgettable:
                del self._lines[job.topic]

    def _free(self, job: Job, *, back: bool) -> None:
        """Free the slots of a reservation that has ended; give its tokens `back` if it was not started."""
        if job.slots:
            self.limits.free(job.slots, job.tokens if back else (), self._now)
            job.slots = job.tokens = ()

    def define(self, at: Moment, limits: Mapping[str, Limit], topics: Mapping[str, Lines]) -> None:
        self._now = at.now
        changed = self.limits.define(limits, topics)
        for topic, rules in topics.items():
            if rules.fair or topic in self._lines:
                lines = self._lines_of(topic)
                changed = changed or lines.rules_next != rules
                lines.rules_next = rules
        if changed:
            self._place_lines()

    def override(self, at: Moment, limit: str, definition: Limit | None) -> None:
        self._now = at.now
        self.limits.override(limit, definition, at.now)
        self._place_lines()

    def _place_lines(self) -> None:
        for lines in self._lines.values():
            lines.place_all(lines.rules_next, self._now)
        for topic in [topic for topic, lines in self._lines.items() if lines.forgettable]:
            del self._lines[topic]
        self.changed.notify_all()

    def waiting_for(self, limit: str) -> int:
        """Return the number of jobs in lines that are filed under a limit."""
        value = self.limits.values.get(limit)
        filed = [self._lines[topic].filed[limit].members for topic in value.topics] if value else []
        return sum(len(line.jobs.members) for lines in filed for line in lines)

    def next_due(self) -> float | None:
        """Return when the next scheduled job of any topic is due."""
        opens = self.limits.next_due()
        due = self._scheduled[0][0] if self._scheduled else opens
        return None if (first := min(due, opens)) == float("inf") else first

    # -- reserve --------------------------------------------------------------------------------

    def reserve(
        self, at: Moment, owner_id: str, topics: Sequence[str], limit: int, request: str, startable: int | None = None
    ) -> list[Delivery]:
        owner = self._owner(owner_id)
        owner.lease_until = at.now + at.options.lease
        self.passed_over = False
        if request == owner.reserve_request:
            taken = sorted((job for job in owner.held.values() if job.request == request), key=lambda job: job.token)
        else:
            owner.reserve_request = request
            self._now = at.now
            self._ready_due(at.now, len(self._scheduled))
            self.limits.open_due(at.now)
            if self.members.work:
                self.members.proceed(at, SLICE)
            taken = []
            for topic in topics:
                if topic in self._lines:
                    startable = self._take_lines(at, taken, topic, limit - len(taken), startable)
                else:
                    taken += self._pop_ready(at, topic, limit - len(taken))
            for job in taken:
                self._reserve(job, owner_id, owner, request, at.now)
        return self._deliveries(taken, at)

    def claim(self, at: Moment, owner_id: str, job_ids: Sequence[str], request: str) -> list[Delivery]:
        owner = self._owner(owner_id)
        owner.lease_until = at.now + at.options.lease
        if request == owner.reserve_request:
            taken = [job for job in owner.held.values() if job.request == request]
        else:
            owner.reserve_request = request
            jobs = [self.jobs.get(job_id) for job_id in job_ids]
            taken = [job for job in jobs if job is not None and job.state not in (_DEAD, _WAITING) and not job.barred]
            for job in taken:
                if job.state is _READY:
                    self._leave(job)
                elif job.state is _RESERVED:
                    self.owners[job.owner].held.pop(job.id, None)
                    self._free(job, back=False)
                self._reserve(job, owner_id, owner, request, at.now)
        return self._deliveries(taken, at)

    def _pop_ready(self, at: Moment, topic: str, limit: int) -> list[Job]:
        taken: list[Job] = []
        barred: list[Job] = []
        if topic in self.paused or limit <= 0:
            return taken
        heap = self._ready[topic]
        while heap and len(taken) < limit:
            _, ready_at, _, job = heapq.heappop(heap)
            if job.plain:
                if job.state is _READY and job.ready_at == ready_at:  # `is_plain`, without the call
                    job.state = _RESERVED
                    taken.append(job)
            elif job.is_plain(ready_at):
                job.state = _RESERVED
                (barred if job.barred else taken).append(job)
                if len(barred) >= SLICE:
                    break
        self._ready_count[topic] -= len(taken) + len(barred)
        if barred:
            self._end_barred(at, barred)
        return taken

    def _end_barred(self, at: Moment, jobs: list[Job]) -> None:
        """Cancel members of cancelled flows that were about to be reserved."""
        for job in jobs:
            self.end(at, job, State.CANCELLED, at.options.cancelled_ttl, reason=CANCELLED)
        self.members.proceed(at)

    def _take_lines(self, at: Moment, taken: list[Job], topic: str, limit: int, startable: int | None) -> int | None:
        """Add jobs of a topic with lines to `taken`; return how many more jobs with a concurrency may be."""
        if topic in self.paused or limit <= 0:
            return startable
        lines = self._lines[topic]
        if lines.unseen:
            lines.place_some(self._now)
        jobs, passed_over, startable = lines.take(limit, startable, self._now)
        self.passed_over = self.passed_over or passed_over
        for job in jobs:
            job.state = _RESERVED
        self._ready_count[topic] -= lines.plain_taken
        if lines.forgettable:
            del self._lines[topic]
        if lines.barred:
            barred, lines.barred = lines.barred, []
            self._end_barred(at, barred)
        taken += jobs
        return startable

    def _deliveries(self, jobs: Iterable[Job], at: Moment) -> list[Delivery]:
        now = at.now
        return [
            Delivery(j.id, j.topic, j.payload, j.token, j.attempt, j.redeliveries, j.crashes, j.deferrals, j.pushed_at, now)
            if j.plain
            else self._with_extras(j, at)
            for j in jobs
        ]

    def _with_extras(self, j: Job, at: Moment) -> Delivery:
        """Return the delivery of a job that is not plain; a keyword argument in every call would cost 60 ns a job."""
        counts = j.attempt, j.redeliveries, j.crashes, j.deferrals
        flow = j.member.flow if j.member is not None else ""
        inputs = self.members.inputs(j.node, at.options.max_message) if j.node is not None else ()
        facts = j.id, j.topic, j.payload, j.token
        return Delivery(*facts, *counts, j.pushed_at, at.now, j.key, j.limits, j.cursor, flow, inputs)

    def _reserve(self, job: Job, owner_id: str, owner: Owner, request: str, now: float) -> None:
        job.state, job.owner, job.request, job.token, job.since = _RESERVED, owner_id, request, next(self._tokens), now
        owner.held[job.id] = job
        if job.unique and job.unique.scope == "queued":
            self._free_key(job)

    # -- settle ----------------------------------------------------------------------------------

    def settle(self, at: Moment, owner_id: str, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        owner = self.owners.get(owner_id)
        if owner is None:
            return [Answer.STALE] * len(settlements)
        if request == owner.settle_request:
            return [Answer.ALREADY if old is Answer.SETTLED else old for old in owner.settle_answers]
        self._now, self.members.budget = at.now, SLICE
        answers = [self._settle(at, owner, settlement) for settlement in settlements]
        if self.members.work:
            self.members.proceed(at)
        owner.settle_request, owner.settle_answers = request, answers
        self.changed.notify_all()
        return answers

    def _settle(self, at: Moment, owner: Owner, settlement: Settlement) -> Answer:
        job = owner.held.get(settlement.id)
        if job is None or job.token != settlement.token:
            return Answer.STALE
        del owner.held[job.id]
        outcome = settlement.outcome
        if not job.plain:
            self._leave_limits_and_flow(job, settlement)
        if settlement.close_limits:
            for limit, seconds in settlement.close_limits:
                self.limits.close(limit, at.now + seconds, at.now)
        if settlement.cursor is not None:
            job.cursor, job.plain = settlement.cursor, False
        if outcome is Outcome.DONE:
            if settlement.result_ttl:
                self._end_kept(at, job, settlement)
            else:
                self.end(at, job, State.DONE, 0.0)
        elif outcome is Outcome.CANCELLED:
            self.end(at, job, State.CANCELLED, settlement.result_ttl)
        elif outcome in (Outcome.DEAD, Outcome.EXPIRED):
            job.attempt += settlement.counts and outcome is Outcome.DEAD
            job.note(settlement.error)
            job.tell(settlement.notes, settlement.timeline)
            self.make_dead(at, job, settlement.reason or outcome.value, settlement.fingerprint)
        elif job.cancel:
            self.end(at, job, State.CANCELLED, at.options.cancelled_ttl)
        else:
            self._queue_again(at.now, job, settlement)
        if settlement.followups and outcome in ENDS:
            self._push(at, settlement.followups, job)
        if not job.plain and job.node is not None:
            self.members.proceed(at)
        return Answer.SETTLED

    def _leave_limits_and_flow(self, job: Job, settlement: Settlement) -> None:
        """Free what a job that is not plain holds besides its reservation, and keep its result for its flow."""
        self._free(job, back=not settlement.ran)
        job.cancel = job.cancel or job.barred
        if job.node is not None:
            job.node.result = settlement.result if settlement.outcome is Outcome.DONE else None

    def checkpoint(self, owner_id: str, checkpoints: Iterable[Checkpoint]) -> None:
        owner = self.owners.get(owner_id)
        for checkpoint in checkpoints if owner else ():
            job = owner.held.get(checkpoint.id) if owner else None
            if job is not None and job.token == checkpoint.token:
                job.cursor, job.plain = checkpoint.cursor, False

    def tell(self, owner_id: str, notes: Iterable[Note]) -> None:
        owner = self.owners.get(owner_id)
        for note in notes if owner else ():
            job = owner.held.get(note.id) if owner else None
            if job is not None and job.token == note.token:
                job.tell(note)

    def _queue_again(self, now: float, job: Job, settlement: Settlement) -> None:
        """Queue a job again after a release, a retry or a deferral."""
        job.tell(settlement.notes, settlement.timeline)
        if settlement.limits is not None:
            job.limits, job.plain = settlement.limits, False
        if settlement.outcome is Outcome.RELEASE:
            self._make_ready(job, first=True)
            return
        if settlement.outcome is Outcome.RETRY:
            job.attempt += 1
            job.note(settlement.error)
        else:
            job.deferrals += 1
        self.place(job, now, settlement.after)

    def _end_kept(self, at: Moment, job: Job, settlement: Settlement) -> None:
        """End a job that is done, and keep its result; with a timeline, the job itself, too."""
        if not settlement.timeline:
            self.end(at, job, State.DONE, settlement.result_ttl, settlement.result)
            return
        job.tell(settlement.notes, settlement.timeline)
        self.end(at, job, State.DONE, settlement.result_ttl, settlement.result, kept=True)
        done = self.done[job.topic]
        done.pop(job.id, None)
        done[job.id] = None
        for _ in range(len(done) - at.options.retention(job.topic).done_max):
            oldest = next(iter(done))
            del done[oldest]
            self._strip(oldest)

    def _strip(self, job_id: str) -> None:
        """Keep of a done job only that it ended, and its result."""
        until, record = self._ended[job_id]
        self._ended[job_id] = until, msgspec.structs.replace(record, payload=b"", cursor=b"", notes=NONE, timeline=())

    def purge_done(self, now: float, topic: str, limit: int, older: float) -> int:
        """Delete some done jobs of a topic, the oldest first, with their results; return how many. Their ids stay known."""
        found = (record for record in self.done_jobs(now, topic)[::-1] if (record.since or 0.0) <= now - older)
        gone = list(islice(found, limit))
        for record in gone:
            self._strip(record.id)
            until, stripped = self._ended[record.id]
            self._ended[record.id] = until, msgspec.structs.replace(stripped, result=None)
            self._forget_done(record)
        return len(gone)

    def end(
        self,
        at: Moment,
        job: Job,
        state: State,
        ttl: float,
        result: bytes | None = None,
        reason: str = "",
        *,
        kept: bool = False,
    ) -> None:
        """Remove a job from the store, and keep the record of its end for `ttl` seconds if it is worth keeping."""
        if job.state is _READY:
            self._leave(job)
        elif job.state is _DEAD:
            self.leave_letters(job)
        del self.jobs[job.id]
        self._free_key(job)
        job.state, job.since = state, at.now
        if job.cancel:
            job.cancel = job.force = False
        if ttl > 0 and (result is not None or state is State.CANCELLED or kept):
            record = job.record(at.now, ended=not kept, result=result, reason=reason)
            self._ended[job.id] = (at.now + ttl, record)
            heapq.heappush(self._ended_due, (at.now + ttl, job.id))
        if not job.plain and job.node is not None:
            self.members.note(job.node, state, reason)
        self.changed.notify_all()

    def make_dead(self, at: Moment, job: Job, reason: str, of: Fingerprint | None = None) -> None:
        """Move a job to the dead letters; drop the oldest ones beyond the limit."""
        if job.state is _READY:
            self._leave(job)
        self._free_key(job)
        job.state, job.reason, job.since = _DEAD, reason, at.now
        if job.cancel:
            job.cancel = job.force = False
        if job.node is not None:
            self.members.note(job.node, _DEAD, reason)
        self.groups.add(job, of)
        dead = self.dead[job.topic]
        if job.node is not None and not job.node.flow.cancelled:
            dead = self.needed[job.topic]
        dead[job.id] = job
        if dead is not self.needed[job.topic]:
            for _ in range(len(dead) - at.options.retention(job.topic).dead_max):
                self._forget_letter(dead.pop(next(iter(dead))))
        self.changed.notify_all()

    def leave_letters(self, job: Job) -> None:
        """Take a job out of the dead letters."""
        self.groups.remove(job)
        if self.dead[job.topic].pop(job.id, None) is None:
            del self.needed[job.topic][job.id]

    def move_letter(self, job: Job, topic: str) -> None:
        """Move a dead letter, which is in no flow, to the dead letters of another topic."""
        of = job.fingerprint
        self.leave_letters(job)
        job.topic = topic
        self.groups.add(job, of)
        self.dead[topic][job.id] = job

    def _forget_letter(self, job: Job) -> None:
        """Delete a dead letter that was taken out of its topic's."""
        self.groups.remove(job)
        del self.jobs[job.id]

    def letters(self, topic: str) -> list[Job]:
        """Return the dead letters of a topic, newest first."""
        jobs = [*self.dead[topic].values(), *self.needed[topic].values()]
        return sorted(jobs, key=lambda job: job.since)[::-1]

    def done_jobs(self, now: float, topic: str) -> list[JobRecord]:
        """Return the done jobs of a topic that are kept, newest first."""
        found = (self.find(now, job_id) for job_id in reversed(self.done.get(topic, ())))
        return [record for record in found if record is not None]

    def ids(self) -> list[str]:
        """Return the ids of all jobs in the store, and of ended jobs whose record is kept."""
        return [*self.jobs, *self._ended]

    def find(self, now: float, job_id: str) -> JobRecord | None:
        """Return the record of a job in the store, or of an ended job whose record is kept."""
        job = self.jobs.get(job_id)
        if job:
            return job.record(now)
        until, record = self._ended.get(job_id, (0.0, None))
        return msgspec.structs.replace(record, broker_now=now) if record and until > now else None

    # -- owners ----------------------------------------------------------------------------------

    def open_owner(self, at: Moment, owner_id: str) -> None:
        self.owners[owner_id] = Owner(at.now + at.options.lease)

    def _owner(self, owner_id: str) -> Owner:
        owner = self.owners.get(owner_id)
        if owner is None:
            raise OwnerLost.of(owner_id)
        return owner

    def heartbeat(self, at: Moment, owner_id: str) -> Heartbeat:
        owner = self._owner(owner_id)
        owner.lease_until = at.now + at.options.lease
        owner.called = False
        cancelled = [job for job in owner.held.values() if job.cancel or (not job.plain and job.barred)]
        return Heartbeat(cancelled=tuple(job.id for job in cancelled), forced=tuple(job.id for job in cancelled if job.force))

    def call_owner_of(self, job: Job) -> None:
        """Ask the owner of a reserved job for a heartbeat."""
        owner = self.owners.get(job.owner or "")
        if owner is not None:
            owner.called = True
            self.changed.notify_all()

    def call_owners(self) -> None:
        """Ask all owners for a heartbeat."""
        for owner in self.owners.values():
            owner.called = True
        self.changed.notify_all()

    def is_called(self, owner_id: str) -> bool:
        """Return whether an owner has to send a heartbeat."""
        owner = self.owners.get(owner_id)
        return owner is not None and owner.called

    def release_owner(
        self,
        at: Moment,
        owner_id: str,
        started: Collection[str],
        report: bytes,
        *,
        crash: bool,
        ran: Collection[str] = (),
    ) -> int:
        owner = self.owners.pop(owner_id, None)
        if owner is None:
            return 0
        self._now = at.now
        for job in owner.held.values():
            self._free(job, back=job.id not in started and job.id not in ran)
            if job.id in started:
                job.redeliveries += 1
                job.crashes += crash
                job.note(report)
            if job.cancel or job.barred:
                self.end(at, job, State.CANCELLED, at.options.cancelled_ttl)
            else:
                self._make_ready(job, first=job.id not in started)
        self.members.proceed(at, SLICE)
        self.changed.notify_all()
        return len(owner.held)

    # -- housekeeping ----------------------------------------------------------------------------

    def housekeep(self, at: Moment, limit: int) -> Housekept:
        self._now = at.now
        self.limits.open_due(at.now)
        self.limits.forget_idle(at.now)
        readied = self._ready_due(at.now, limit)
        for lines in self._lines.values():
            if lines.unseen:
                lines.place_some(at.now)
        released = self._release_expired(at, limit)
        dropped = self._drop_old(at, limit)
        more = self.members.housekeep(at) or any(lines.unseen for lines in self._lines.values())
        more = self.statistics.housekeep(at.now, limit) or more
        if readied:
            self.changed.notify_all()
        return Housekept(readied, released, dropped, more=more or limit in (readied, released, dropped))

    def _release_expired(self, at: Moment, limit: int) -> int:
        lease, last = at.options.lease, self._last_housekeep
        self._last_housekeep = at.now
        for owner in self.owners.values():
            if last is None or at.now - last > at.options.outage_after:
                owner.lease_until = max(owner.lease_until, at.now + lease)
            # A clock that was set back must not keep a dead owner forever.
            owner.lease_until = min(owner.lease_until, at.now + 2 * lease)
        expired = [owner_id for owner_id, owner in self.owners.items() if owner.lease_until <= at.now][:limit]
        for owner_id in expired:
            held = list(self.owners[owner_id].held)
            self.release_owner(at, owner_id, held, b"", crash=len(held) == 1)
        return len(expired)

    def _drop_old(self, at: Moment, limit: int) -> int:
        forgotten = at.now - at.options.dedup_window
        self.documents.housekeep(at.now, forgotten, limit)
        for request in list(islice(self._pushes, 10 * limit)):
            if self._pushes[request][0] > forgotten:
                break
            del self._pushes[request]
        _drop(self._unique, lambda holder: holder[1] is not None and holder[1] <= at.now, limit)
        dropped = 0
        while self._ended_due and self._ended_due[0][0] <= at.now and dropped < limit:
            until, job_id = heapq.heappop(self._ended_due)
            if self._ended.get(job_id, (None,))[0] == until:
                _, record = self._ended.pop(job_id)
                if record.topic in self.done:
                    self._forget_done(record)
                dropped += 1
        for topic, letters in self.dead.items():
            oldest = at.now - at.options.retention(topic).dead_keep
            for job in list(islice(letters.values(), limit)):  # oldest first
                if job.since > oldest:
                    break
                self._forget_letter(letters.pop(job.id))
                dropped += 1
        for job_id in self.members.old_letters(at, limit):
            self.end(at, self.jobs[job_id], State.UNKNOWN, 0)
            dropped += 1
        return dropped

    def _forget_done(self, record: JobRecord) -> None:
        done = self.done[record.topic]
        done.pop(record.id, None)
        if not done:
            del self.done[record.topic]

    # -- waiting ---------------------------------------------------------------------------------

    def wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition holds, releasing the lock meanwhile; code that changes the condition notifies `changed`."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.changed.wait(left)
        return True


def _drop(entries: dict[str, E], old: Callable[[E], bool], limit: int) -> int:
    """Delete up to `limit` old entries; return how many were deleted."""
    chosen = [key for key, entry in entries.items() if old(entry)][:limit]
    for key in chosen:
        del entries[key]
    return len(chosen)
