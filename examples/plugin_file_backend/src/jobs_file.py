"""A directory of files as the queue of `jobs`: `backend = "file:///var/lib/shop/queue"`. Read this file from the top.

`state` is the whole queue. Each change replaces it: the new one is written beside it, synced, and renamed, so that a change
is stored completely or not at all. One process at a time holds `lock` meanwhile. The `*.wake` files are pipes to the
processes that may be waiting.
"""

import fcntl
import os
import select
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter

import msgspec
from msgspec.structs import replace

from jobs_core import hookimpl
from jobs_core.backend_kit import failpoint
from jobs_core.backends import base
from jobs_core.backends.base import Answer, Delivery, Heartbeat, Housekept, JobRecord, Outcome, Outgoing, Settlement, State
from jobs_core.errors import BackendUnavailable, OwnerLost

FACTS = attrgetter("id", "topic", "payload", "token", "attempt", "redeliveries", "crashes", "deferrals", "pushed_at")
SETTLED = {Outcome.RELEASE: State.READY, Outcome.RETRY: State.SCHEDULED, Outcome.DEFER: State.SCHEDULED}


class Job(JobRecord, frozen=True, omit_defaults=True):
    seq: int = 0  # in order of push
    token: int = 0  # of its last reservation
    request: str = ""  # the reserve that made it

    def waits(self, now: float) -> float | None:
        if self.state is State.SCHEDULED:
            return max(0.0, (self.due or 0.0) - now)
        return 0.0 if self.state is State.READY else None


class Owner(msgspec.Struct, frozen=True, omit_defaults=True):
    until: float  # its lease
    request: str = ""  # the last to settle, and for each job whether it did
    answers: tuple[bool, ...] = ()


class Queue(msgspec.Struct):
    count: int = 0  # numbers jobs and reservations
    kept: float = 0.0  # time of the last housekeeping
    jobs: dict[str, Job] = {}
    owners: dict[str, Owner] = {}
    pushes: dict[str, float] = {}  # requests of the last minute


class FileBackend(base.Backend):
    name = "file"
    features = base.FEATURES - {
        "unique",
        "debounce",
        "results",
        "cancel",
        "browse",
        "pause",
        "atomic_followups",
        "claim",
        "prefix",
        "known_ids",
    }

    def __init__(self, url: str, options: base.BackendOptions) -> None:
        self._directory, self._options, self._lock = options.base_dir / url.removeprefix("file://"), options, -1
        self._state, self._wake_up, self._interrupted = self._directory / "state", -1, False

    def open(self, owner: str | None) -> None:
        self._owner = owner or ""
        with self._changing("open") as queue:
            self._pipe = self._directory / f"{os.getpid()}-{id(self)}.wake"
            os.mkfifo(new := self._pipe.with_suffix(".opening"), 0o600)
            self._wake_up = os.open(new, os.O_RDWR | os.O_NONBLOCK)
            new.rename(self._pipe)  # a pipe that no process reads belonged to a dead one
            if owner:
                queue.owners[owner] = Owner(self._until)

    def close(self) -> None:
        if self._lock >= 0:
            with suppress(BackendUnavailable):
                self.release_owner(self._owner, (), b"")
            if self._wake_up >= 0:
                self._pipe.unlink(missing_ok=True)
                os.close(self._wake_up)
            os.close(self._lock)
            self._lock = self._wake_up = -1

    @contextmanager
    def _looking(self) -> Iterator[Queue]:
        try:
            if self._lock < 0:
                self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            yield msgspec.json.decode(self._state.read_bytes(), type=Queue) if self._state.exists() else Queue()
        except OSError as error:
            raise BackendUnavailable(f"file backend: {error}") from error
        finally:
            if self._lock >= 0:
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    @contextmanager
    def _changing(self, operation: str) -> Iterator[Queue]:  # on disk afterwards; unchanged if something raises
        with self._looking() as queue:
            yield queue
            with self._state.with_suffix(".new").open("wb") as new:
                new.write(msgspec.json.encode(queue))
                new.flush()
                os.fsync(new.fileno())
            failpoint(f"{operation}.before_commit")
            os.rename(new.name, self._state)
            os.fsync(directory := os.open(self._directory, os.O_RDONLY))
            os.close(directory)
            failpoint(f"{operation}.after_commit")
            if operation not in ("reserve", "heartbeat"):
                self._wake()

    def _wake(self) -> None:
        for pipe in self._directory.glob("*.wake"):
            try:
                with open(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0) as file:
                    file.write(b".")  # unless it is full of wake-ups already
            except OSError:
                pipe.unlink(missing_ok=True)

    @property
    def _until(self) -> float:
        return self._options.now() + self._options.lease

    def _beat(self, queue: Queue) -> None:
        if self._owner not in queue.owners:
            raise OwnerLost(f"{self._owner} was released")
        queue.owners[self._owner] = replace(queue.owners[self._owner], until=self._until)

    def push(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        if any(it.unique for it in messages):
            raise self._lacks("unique")
        with self._changing("push") as queue:
            now = self._options.now()
            for it in messages if request not in queue.pushes else ():
                queue.count += 1
                state = State.SCHEDULED if it.delay else State.READY
                job = Job(it.id, it.topic, state, it.payload, it.priority, pushed_at=now, due=now + it.delay, seq=queue.count)
                queue.jobs.setdefault(it.id, job)
            queue.pushes[request] = now
        return {}

    def reserve(self, topics: Sequence[str], limit: int, request: str) -> list[Delivery]:
        with self._changing("reserve") as queue:
            self._beat(queue)
            now = self._options.now()
            taken = [job for job in queue.jobs.values() if job.owner == self._owner and job.request == request]
            if not taken:
                ready = [job for job in queue.jobs.values() if job.topic in topics and job.waits(now) == 0.0]
                ready.sort(key=lambda job: (topics.index(job.topic), -job.priority, job.due, job.seq))
                for job in ready[:limit]:  # `due` stays what it was: a released job is the first again
                    queue.count += 1
                    job = replace(job, state=State.RESERVED, owner=self._owner, request=request, since=now)
                    taken.append(replace(job, token=queue.count))
            queue.jobs.update({job.id: job for job in taken})
        return [Delivery(*FACTS(job), now) for job in sorted(taken, key=attrgetter("token"))]

    def settle(self, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        with self._changing("settle") as queue:
            me = queue.owners.get(self._owner)
            if me is not None and me.request == request:
                return [Answer.ALREADY if done else Answer.STALE for done in me.answers]
            answers = tuple(self._settle(queue, settlement) for settlement in settlements)
            if me is not None:
                queue.owners[self._owner] = Owner(self._until, request, answers)
        return [Answer.SETTLED if done else Answer.STALE for done in answers]

    def _settle(self, queue: Queue, it: Settlement) -> bool:
        job = queue.jobs.get(it.id)
        if job is None or job.owner != self._owner or job.token != it.token:
            return False
        del queue.jobs[it.id]
        if it.outcome not in (Outcome.DONE, Outcome.CANCELLED):
            now, state = self._options.now(), SETTLED.get(it.outcome, State.DEAD)
            ran = it.outcome is Outcome.RETRY or (it.outcome is Outcome.DEAD and it.counts)
            job = replace(job, state=state, owner=None, request="", since=now, attempt=job.attempt + ran)
            job = replace(job, errors=(*job.errors, *filter(None, [it.error]))[-base.KEPT_ERRORS :])
            if state is State.SCHEDULED:
                job = replace(job, due=now + it.after, deferrals=job.deferrals + (it.outcome is Outcome.DEFER))
            queue.jobs[it.id] = replace(job, reason=it.reason or it.outcome.value) if state is State.DEAD else job
        return True

    def heartbeat(self) -> Heartbeat:
        with self._changing("heartbeat") as queue:
            self._beat(queue)
        return Heartbeat()

    def _release(self, queue: Queue, owner: str, started: Collection[str], report: bytes) -> int:
        held = [job for job in queue.jobs.values() if job.owner == owner] if queue.owners.pop(owner, None) else []
        for job in held:
            job = queue.jobs[job.id] = replace(job, state=State.READY, owner=None, request="")
            if job.id in started:
                job = replace(job, redeliveries=job.redeliveries + 1, crashes=job.crashes + (len(started) == 1))
                queue.jobs[job.id] = replace(job, errors=(*job.errors, *filter(None, [report]))[-base.KEPT_ERRORS :])
        return len(held)

    def release_owner(self, owner: str, started: Collection[str], report: bytes) -> int:
        with self._changing("release") as queue:
            return self._release(queue, owner, started, report)

    def housekeep(self, limit: int) -> Housekept:
        with self._changing("housekeep") as queue:
            expired = self._expire(queue, limit)
            now, options = self._options.now(), self._options
            due = [job for job in queue.jobs.values() if job.state is State.SCHEDULED and job.waits(now) == 0.0]
            queue.jobs.update({job.id: replace(job, state=State.READY) for job in due[:limit]})
            queue.pushes = {request: at for request, at in queue.pushes.items() if at > now - options.dedup_window}
            dead = [job for job in queue.jobs.values() if job.state is State.DEAD]
            old = {job.id for job in dead if (job.since or now) < now - options.retention(job.topic).dead_keep}
            queue.jobs = {job_id: job for job_id, job in queue.jobs.items() if job_id not in old}
        return Housekept(len(due[:limit]), expired, len(old), more=len(due) > limit)

    def _expire(self, queue: Queue, limit: int) -> int:
        """Release the jobs of owners whose leases have expired; return the number of these owners."""
        now = self._options.now()
        if not 0 <= now - queue.kept <= self._options.outage_after:  # nothing could renew leases, or a clock was set
            queue.owners = {name: replace(owner, until=self._until) for name, owner in queue.owners.items()}
        queue.kept = now
        expired = [name for name, owner in queue.owners.items() if owner.until < now][:limit]
        for name in expired:
            self._release(queue, name, [job.id for job in queue.jobs.values() if job.owner == name], b"")
        return len(expired)

    def counts(self, topics: Sequence[str]) -> dict[str, base.Counts]:
        with self._looking() as queue:
            now, found = self._options.now(), {}
            for topic in topics:
                jobs = [job for job in queue.jobs.values() if job.topic == topic]
                since = [job.due or now for job in jobs if job.waits(now) == 0.0]
                states = [State.READY if job.waits(now) == 0.0 else job.state for job in jobs]
                four = [states.count(state) for state in (State.READY, State.SCHEDULED, State.RESERVED, State.DEAD)]
                found[topic] = base.Counts(*four, max(0.0, now - min(since)) if since else None)
        return found

    def get(self, job_id: str) -> JobRecord | None:
        with self._looking() as queue:
            return (job := queue.jobs.get(job_id)) and replace(job, broker_now=self._options.now())

    def wait(self, topics: Sequence[str], timeout: float) -> bool:
        end = time.monotonic() + timeout
        while True:
            with self._looking() as queue:
                now, jobs = self._options.now(), (job for job in queue.jobs.values() if job.topic in topics)
                waits = [wait for job in jobs if (wait := job.waits(now)) is not None]
            left = end - time.monotonic()
            if 0.0 in waits or left <= 0 or self._interrupted:
                self._interrupted = False
                return 0.0 in waits
            if select.select([self._wake_up], [], [], min([left, *waits]))[0]:
                os.read(self._wake_up, 65536)

    def interrupt(self) -> None:
        self._interrupted = True
        with suppress(OSError):
            os.write(self._wake_up, b".")


@hookimpl
def jobs_queue_backends() -> Mapping[str, base.BackendFactory]:
    return {"file": FileBackend}
