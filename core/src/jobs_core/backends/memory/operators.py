"""Operator calls on a memory store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from ..base import Backend, BackendOptions, Counts, JobRecord, State
from ..documents import Document, check
from ..flows import SLICE, FlowStatus, MemberStatus
from ..letters import DeadGroup, not_movable
from ..limits import Limit, LimitState, Lines
from ..notes import Notes
from ..statistics import StatisticsRow
from .records import Job, Moment
from .store import MemoryStore


class MemoryOperatorCalls(Backend):
    """The calls of operators, a base class of `MemoryBackend`."""

    def __init__(self, store: MemoryStore, options: BackendOptions) -> None:
        self.store = store
        self._options = options

    def _moment(self) -> Moment:
        return Moment(self._options)

    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        with self.store.lock:
            now = self._options.now()
            return {topic: _count([job for job in self.store.jobs.values() if job.topic == topic], now) for topic in topics}

    def get(self, job_id: str) -> JobRecord | None:
        with self.store.lock:
            return self.store.find(self._options.now(), job_id)

    def browse(self, topic: str, state: State, limit: int, offset: int = 0) -> list[JobRecord]:
        with self.store.lock:
            now = self._options.now()
            if state is State.DONE:
                return [_without_lines(record) for record in self.store.done_jobs(now, topic)[offset : offset + limit]]
            jobs = [job for job in self.store.jobs.values() if job.topic == topic and job.seen_state is state]
            if state is State.SCHEDULED:
                jobs.sort(key=lambda job: (job.due, job.seq))
            elif state is State.DEAD:
                jobs = self.store.letters(topic)
            elif state is State.LIMITED:
                jobs.sort(key=lambda job: (job.ready_at, job.seq))
            else:
                jobs.sort(key=lambda job: (job.rank, job.ready_at, job.seq))
            return [_without_lines(job.record(now)) for job in jobs[offset : offset + limit]]

    def find_ids(self, prefix: str, limit: int) -> list[str]:
        with self.store.lock:
            now = self._options.now()
            return [each for each in self.store.ids() if each.startswith(prefix) and self.store.find(now, each)][:limit]

    def topics(self) -> list[str]:
        with self.store.lock:
            return sorted({job.topic for job in self.store.jobs.values()} | self.store.paused)

    def requeue(self, job_ids: Sequence[str]) -> int:
        with self.store.lock:
            at, count = self._moment(), 0
            self.store.moment(at.now)
            for job in self._found(job_ids):
                if job.state is State.DEAD:
                    if job.node is not None and (job.node.refused or job.node.flow.cancelled):
                        continue
                    self.store.leave_letters(job)
                    job.attempt = job.redeliveries = job.crashes = job.deferrals = 0
                    if job.node is not None:
                        self.store.members.retry(at, job)
                        count += 1
                        continue
                elif job.state is not State.SCHEDULED or job.is_due(at.now):
                    continue
                self.store.place(job, at.now, 0)
                count += 1
            self.store.members.proceed(at, SLICE)
            self.store.changed.notify_all()
            return count

    def dead_groups(self, topics: Sequence[str], most: int) -> list[DeadGroup]:
        with self.store.lock:
            return [group for topic in topics for group in self.store.groups.of(topic, most)]

    def dead_in_group(self, topic: str, group: str, limit: int, offset: int = 0) -> list[JobRecord]:
        with self.store.lock:
            letters, now = self.store.groups.letters(topic, group), self._options.now()
            return [_without_lines(job.record(now)) for job in letters[offset : offset + limit]]

    def amend(self, job_id: str, was: bytes, payload: bytes, topic: str = "") -> bool:
        with self.store.lock:
            job = self.store.jobs.get(job_id)
            if job is None or job.state is not State.DEAD or job.payload != was:
                return False
            if topic and topic != job.topic:
                if job.node is not None:
                    raise not_movable(job_id)
                self.store.move_letter(job, topic)
            job.payload = payload
            return True

    def discard(self, job_ids: Sequence[str], reason: str) -> int:
        with self.store.lock:
            at = self._moment()
            waiting = [job for job in self._found(job_ids) if job.state in (State.READY, State.SCHEDULED, State.WAITING)]
            for job in waiting:
                self.store.make_dead(at, job, reason)
            self.store.members.proceed(at, SLICE)
            return len(waiting)

    def purge(self, topic: str, state: State) -> int:
        with self.store.lock:
            return self._remove(job for job in self.store.jobs.values() if job.topic == topic and job.state is state)

    def purge_done(self, topic: str, limit: int, older: float = 0.0) -> int:
        with self.store.lock:
            return self.store.purge_done(self._options.now(), topic, limit, older)

    def drop(self, job_ids: Sequence[str]) -> int:
        with self.store.lock:
            return self._remove(job for job in self._found(job_ids) if job.state is State.DEAD)

    def _found(self, job_ids: Sequence[str]) -> list[Job]:
        return [job for job in map(self.store.jobs.get, job_ids) if job]

    def _remove(self, jobs: Iterable[Job]) -> int:
        chosen, at = list(jobs), self._moment()
        for job in chosen:
            self.store.end(at, job, State.UNKNOWN, 0)
        self.store.members.proceed(at, SLICE)
        return len(chosen)

    def pause(self, topic: str) -> None:
        with self.store.lock:
            self.store.paused.add(topic)

    def resume(self, topic: str) -> None:
        with self.store.lock:
            self.store.paused.discard(topic)
            self.store.changed.notify_all()

    def paused(self) -> frozenset[str]:
        with self.store.lock:
            return frozenset(self.store.paused)

    def define_limits(self, limits: Mapping[str, Limit], topics: Mapping[str, Lines]) -> None:
        with self.store.lock:
            self.store.define(self._moment(), limits, topics)

    def override_limit(self, limit: str, definition: Limit | None) -> None:
        with self.store.lock:
            self.store.override(self._moment(), limit, definition)

    def limits(self, most: int, names: Sequence[str] = ()) -> list[LimitState]:
        with self.store.lock:
            states = self.store.limits.states(names, self.store.waiting_for, self._options.now())
            return sorted(states, key=lambda state: (-state.waiting, -state.used, state.limit))[:most]

    def lines(self, topic: str, most: int) -> list[tuple[str, int]]:
        with self.store.lock:
            now = self._options.now()
            waiting = (job for job in self.store.jobs.values() if job.state is State.READY or job.is_due(now))
            return Counter(job.key for job in waiting if job.topic == topic).most_common(most)

    def cancel(self, job_id: str, *, force: bool = False) -> State:
        with self.store.lock:
            job = self.store.jobs.get(job_id)
            if job is None:
                record = self.get(job_id)
                return record.state if record else State.UNKNOWN
            if job.state is State.RESERVED:
                job.cancel, job.force = True, job.force or force
                self.store.call_owner_of(job)
            elif job.state is not State.DEAD:
                at = self._moment()
                self.store.end(at, job, State.CANCELLED, self._options.cancelled_ttl)
                self.store.members.proceed(at, SLICE)
            return job.state

    def fetch_result(self, job_id: str, timeout: float) -> JobRecord | None:
        ended = (None, State.DONE, State.DEAD, State.CANCELLED)

        def has_ended() -> bool:
            record = self.get(job_id)
            return (record and record.state) in ended

        with self.store.lock:
            if not self.store.wait_until(has_ended, timeout):
                return None
            return self.get(job_id) or JobRecord(job_id, "", State.UNKNOWN)

    def documents(self, kind: str, most: int, after: str = "") -> list[Document]:
        with self.store.lock:
            return self.store.documents.listed(kind, most, after, self._options.now())

    def document(self, kind: str, name: str) -> Document | None:
        with self.store.lock:
            return self.store.documents.get(kind, name, self._options.now())

    def document_versions(self, kinds: Sequence[str]) -> dict[str, int]:
        with self.store.lock:
            return {kind: self.store.documents.version(kind) for kind in kinds}

    def put_document(
        self, kind: str, name: str, data: bytes, request: str, *, expected: int | None = None, ttl: float | None = None
    ) -> int | None:
        check(kind, name, data, ttl)
        with self.store.lock:
            return self.store.documents.put(kind, name, data, request, expected, ttl, self._options.now())

    def delete_document(self, kind: str, name: str, request: str, *, expected: int | None = None) -> bool:
        with self.store.lock:
            return self.store.documents.delete(kind, name, request, expected, self._options.now())

    def statistics(
        self, span: int, since: float, most: int, *, topic: str | None = None, after: StatisticsRow | None = None
    ) -> list[StatisticsRow]:
        with self.store.lock:
            return self.store.statistics.listed(span, since, most, topic, after)

    def flow(self, flow_id: str) -> FlowStatus | None:
        with self.store.lock:
            return self.store.members.status(flow_id, self._options.now())

    def flows(self, most: int, offset: int = 0) -> list[FlowStatus]:
        with self.store.lock:
            return self.store.members.listed(most, offset, self._options.now())

    def flow_members(self, flow_id: str, most: int, offset: int = 0, *, dead: bool = False) -> list[MemberStatus]:
        with self.store.lock:
            return self.store.members.members(flow_id, most, offset, dead=dead)

    def flow_results(self, flow_id: str, job_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        with self.store.lock:
            return self.store.members.results(flow_id, job_ids, self._options.max_message)

    def cancel_flow(self, flow_id: str, *, finale: bool = False) -> bool:
        with self.store.lock:
            return self.store.members.cancel(self._moment(), flow_id, finale=finale)

    def retry_flow(self, flow_id: str) -> int:
        with self.store.lock:
            return self.requeue(self.store.members.dead_ids(flow_id, SLICE))

    def wait_flow(self, flow_id: str, timeout: float) -> FlowStatus | None:
        flows = self.store.members.flows

        def is_at_rest() -> bool:
            flow = flows.get(flow_id)
            return flow is None or flow.is_at_rest

        with self.store.lock:
            return self.flow(flow_id) if self.store.wait_until(is_at_rest, timeout) else None


def _without_lines(record: JobRecord) -> JobRecord:
    return replace(record, notes=Notes(record.notes.progress)) if record.notes.lines else record


def _count(jobs: list[Job], now: float) -> Counts:
    states = Counter(State.READY if job.is_due(now) else job.seen_state for job in jobs)
    since = [job.due if job.is_due(now) else job.ready_at for job in jobs if job.is_due(now) or job.seen_state is State.READY]
    return Counts(
        states[State.READY],
        states[State.SCHEDULED],
        states[State.RESERVED],
        states[State.DEAD],
        max(0.0, now - min(since)) if since else None,
        states[State.LIMITED],
        states[State.WAITING],
    )
