"""Events, as data, each with its level and its sentence. `emit` hands an event to the log; logs.py makes the line."""

from __future__ import annotations

import logging
import time
from typing import ClassVar

from msgspec import Struct

from . import boundary
from .units import are, count, format_duration

logger = logging.getLogger("jobs")


class Event(Struct, frozen=True):
    """An event worth an operator's attention. Its text is a sentence: cause, consequence, what happens next."""

    level: ClassVar[int] = logging.INFO


class JobEvent(Event, frozen=True):
    """An event about one job."""

    job_id: str
    job: str
    topic: str

    @property
    def subject(self) -> str:
        return f"{self.job} {self.job_id} in topic {self.topic}"


class WorkerEvent(Event, frozen=True):
    """An event about one worker process, as its supervisor sees it."""

    owner: str
    pid: int
    pool: str

    @property
    def subject(self) -> str:
        return f"worker {self.owner} ({self.pid}) of pool {self.pool}"


# -- a worker --------------------------------------------------------------------------------------


class WorkerStarted(Event, frozen=True):
    """A worker takes jobs."""

    owner: str
    pool: str
    topics: tuple[str, ...]
    mode: str
    concurrency: int

    def __str__(self) -> str:
        jobs = count(self.concurrency, "job")
        return f"worker {self.owner} of pool {self.pool} serves {', '.join(self.topics)}, {jobs} at a time ({self.mode})"


class WorkerStopping(Event, frozen=True):
    """A worker takes no new jobs and finishes the running ones."""

    owner: str
    running: int

    def __str__(self) -> str:
        return (
            f"worker {self.owner} takes no new jobs; {self.running} still running"
            if self.running
            else f"worker {self.owner} is stopping"
        )


class WorkerStopped(Event, frozen=True):
    """A worker has settled everything."""

    owner: str
    done: int
    failed: int

    def __str__(self) -> str:
        return f"worker {self.owner} stopped: {count(self.done, 'job')} done, {count(self.failed, 'failed attempt')}"


class BackendLost(Event, frozen=True):
    """The backend cannot be reached; the worker keeps retrying."""

    level: ClassVar[int] = logging.ERROR

    error: str

    def __str__(self) -> str:
        return f"the backend cannot be reached; retrying until it answers: {self.error}"


class BackendBack(Event, frozen=True):
    """The backend answers again."""

    seconds: float

    def __str__(self) -> str:
        return f"the backend answers again after {format_duration(round(self.seconds, 1))}"


class BackendRisk(Event, frozen=True):
    """The backend works, but its setup may lose jobs or let any client in; logged once per start."""

    level: ClassVar[int] = logging.WARNING

    advice: str

    def __str__(self) -> str:
        return f"the backend works, but {self.advice}"


class OwnerReplaced(Event, frozen=True):
    """The worker's lease had expired: its jobs went to other workers, and it continues under a new owner id."""

    level: ClassVar[int] = logging.ERROR

    old: str
    new: str
    running: int

    def __str__(self) -> str:
        here = f"{self.running} still running here"
        return f"the lease of {self.old} expired and its jobs went to other workers ({here}); continuing as {self.new}"


class SettledStale(JobEvent, frozen=True):
    """A job finished here after its lease had expired: another worker runs it, or has run it, as well."""

    level: ClassVar[int] = logging.WARNING

    attempt: int

    def __str__(self) -> str:
        return (
            f"{self.subject}, attempt {self.attempt}, finished after its lease had expired: another worker is "
            "running it, or has run it, as well"
        )


# -- a run -----------------------------------------------------------------------------------------


class JobTaken(JobEvent, frozen=True):
    """A worker has reserved a job and is about to run it."""

    level: ClassVar[int] = logging.DEBUG

    attempt: int

    def __str__(self) -> str:
        return f"{self.subject} was reserved, attempt {self.attempt}"


class JobDone(JobEvent, frozen=True):
    """A run has succeeded after `seconds`; logged if `logs.done` is set."""

    attempt: int
    seconds: float

    def __str__(self) -> str:
        again = f", attempt {self.attempt}" if self.attempt > 1 else ""
        return f"{self.subject} finished in {format_duration(_rounded(self.seconds))}{again}"


class JobSettled(Event, frozen=True):
    """The backend has answered a settlement; `job` is empty if the message could not be decoded."""

    level: ClassVar[int] = logging.DEBUG

    job_id: str
    job: str
    outcome: str
    answer: str

    def __str__(self) -> str:
        return f"{self.job or 'job'} {self.job_id} was settled as {self.outcome}" + (
            "" if self.answer == "settled" else f" ({self.answer})"
        )


class JobFailed(JobEvent, frozen=True):
    """An attempt failed and another follows."""

    level: ClassVar[int] = logging.WARNING

    attempt: int
    retry_after: float
    error: str
    traceback: str

    def __str__(self) -> str:
        pause = format_duration(round(self.retry_after, 2))
        return f"{self.subject} failed, attempt {self.attempt}; retrying in {pause}: {self.error}"


class JobDied(JobEvent, frozen=True):
    """A job went to the dead letters."""

    level: ClassVar[int] = logging.ERROR

    attempt: int
    reason: str
    error: str
    traceback: str

    def __str__(self) -> str:
        return f"{self.subject} is dead after {count(self.attempt, 'attempt')} ({self.reason}): {self.error}"


class JobOverdue(JobEvent, frozen=True):
    """A job has exceeded its timeout and is interrupted."""

    level: ClassVar[int] = logging.WARNING

    attempt: int
    timeout: float

    def __str__(self) -> str:
        limit = format_duration(self.timeout)
        return f"{self.subject} exceeded its timeout of {limit} and was interrupted, attempt {self.attempt}"


class LeftBehind(JobEvent, frozen=True):
    """A run ended and left tasks, timers or the like in its thread's event loop: they were ended."""

    level: ClassVar[int] = logging.WARNING

    what: list[str]
    closed: bool
    """True if the loop was closed as well, so that the next run gets a new one."""

    def __str__(self) -> str:
        names = ", ".join(self.what[:5]) + (", …" if len(self.what) > 5 else "")
        ended = "ended now, and the loop was closed" if self.closed else "ended now"
        return (
            f"{self.subject} left in its event loop: {names} ({ended}); "
            "await or cancel these in the job, or make each a job of its own"
        )


class PutOffTooOften(JobEvent, frozen=True):
    """A job is deferred again and again without a pause: from now on each deferral takes a while."""

    level: ClassVar[int] = logging.WARNING

    pause: float

    def __str__(self) -> str:
        wait = format_duration(self.pause)
        return (
            f"{self.subject} was deferred a hundred times within a second: from now on it waits at least "
            f"{wait} each time; raise Snooze with a longer delay"
        )


# -- the schedule ----------------------------------------------------------------------------------


class TicksMissed(Event, frozen=True):
    """Runs of a schedule entry were missed, from `first` to `last`; `runs` if the last is enqueued now."""

    level: ClassVar[int] = logging.WARNING

    entry: str
    job: str
    first: float
    last: float
    runs: bool

    def __str__(self) -> str:
        missed = f"the run of {_when(self.last)} is enqueued now" if self.runs else 'they are skipped (missed = "skip")'
        return f"schedule {self.entry} has missed its runs of {self.job} since {_when(self.first)}: {missed}"


class TickRefused(Event, frozen=True):
    """A scheduled job cannot be enqueued, now or later."""

    level: ClassVar[int] = logging.ERROR

    entry: str
    job: str
    error: str

    def __str__(self) -> str:
        return f"schedule {self.entry} cannot enqueue {self.job}; this run is lost: {self.error}"


class TickWaits(Event, frozen=True):
    """A scheduled job finds no room in the queue: enqueueing is retried until there is."""

    level: ClassVar[int] = logging.ERROR

    entry: str
    job: str
    error: str

    def __str__(self) -> str:
        return f"schedule {self.entry} cannot enqueue {self.job} yet; retrying until it can: {self.error}"


class ClockSetBack(Event, frozen=True):
    """This machine's clock was ahead by days: an entry continues from the current time."""

    level: ClassVar[int] = logging.WARNING

    entry: str
    seconds: float

    def __str__(self) -> str:
        ahead = format_duration(round(self.seconds))
        return f"the clock of this machine was {ahead} ahead: schedule {self.entry} continues from the current time"


class ScheduleForgotten(Event, frozen=True):
    """The file of handled ticks cannot be read: missed runs cannot be detected."""

    level: ClassVar[int] = logging.WARNING

    path: str
    error: str

    def __str__(self) -> str:
        return f"{self.path} cannot be read, so missed runs cannot be detected; the schedule continues from now: {self.error}"


class ScheduleNotSaved(Event, frozen=True):
    """The file of handled ticks cannot be written."""

    level: ClassVar[int] = logging.ERROR

    path: str
    error: str

    def __str__(self) -> str:
        return (
            f"{self.path} cannot be written; after a restart, the latest scheduled jobs may be treated as missed: {self.error}"
        )


# -- the supervisor --------------------------------------------------------------------------------


class SupervisorStarting(Event, frozen=True):
    """A supervisor is starting."""

    pid: int
    run_dir: str

    def __str__(self) -> str:
        return f"supervisor {self.pid} is starting in {self.run_dir}"


class SupervisorServes(Event, frozen=True):
    """Every pool has its workers for the first time."""

    workers: int
    pools: int

    def __str__(self) -> str:
        return f"ready: {count(self.workers, 'worker')} in {count(self.pools, 'pool')}"


class SupervisorStopping(Event, frozen=True):
    """The supervisor was asked to stop: gracefully ("stop"), or at once ("exit")."""

    how: str

    def __str__(self) -> str:
        if self.how == "exit":
            return "stopping immediately: workers are killed, and the jobs they are running go back to their topics"
        return "stopping: no new jobs are taken; waiting for running jobs to finish"


class SupervisorStopped(Event, frozen=True):
    """The supervisor has stopped; the jobs of `unrepaired` dead workers are not back in their topics yet."""

    unrepaired: int

    def __str__(self) -> str:
        if self.unrepaired:
            return f"stopped; the jobs of {count(self.unrepaired, 'dead worker')} go back to their topics at the next start"
        return "stopped"


class CannotServe(Event, frozen=True):
    """The application cannot be imported at the first start: the supervisor ends."""

    level: ClassVar[int] = logging.ERROR

    error: str

    def __str__(self) -> str:
        return f"the application cannot be loaded, so nothing was started: {self.error}"


class CannotPreload(Event, frozen=True):
    """Threads run in the template after the import: workers import the application themselves."""

    level: ClassVar[int] = logging.WARNING

    threads: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"threads are running after the import ({', '.join(self.threads)}), so every worker imports the application itself "
            "and starts more slowly; start threads in the job or in after_fork, or set preload = false"
        )


class StillImporting(Event, frozen=True):
    """The import of the application takes long; `module` of `modules` is being imported, if known."""

    generation: int
    module: str
    seconds: int

    def __str__(self) -> str:
        return f"generation {self.generation} is still importing {self.module or 'the application'} ({self.seconds} s so far)"


class TemplateTrouble(Event, frozen=True):
    """The template could not be restarted; this is retried."""

    level: ClassVar[int] = logging.ERROR

    error: str

    def __str__(self) -> str:
        return f"the template cannot be restarted; retrying. Existing workers continue, new ones have to wait: {self.error}"


class HelperDied(Event, frozen=True):
    """A template, housekeeper, HTTP child or broker died; a replacement is started."""

    level: ClassVar[int] = logging.ERROR

    name: str
    pid: int
    reason: str
    restart_in: float

    def __str__(self) -> str:
        return f"{self.name} {self.pid} died ({self.reason}); a replacement starts {_soon(self.restart_in)}"


class WorkerDied(WorkerEvent, frozen=True):
    """A worker crashed, or could not boot; a replacement is started."""

    level: ClassVar[int] = logging.ERROR

    reason: str
    running: int
    restart_in: float

    def __str__(self) -> str:
        held = f" while running {count(self.running, 'job')}" if self.running else ""
        return f"{self.subject} died{held}: {self.reason}; a replacement starts {_soon(self.restart_in)}"


class CannotStart(Event, frozen=True):
    """A worker could not be forked; this is retried."""

    level: ClassVar[int] = logging.ERROR

    pool: str
    error: str
    restart_in: float

    def __str__(self) -> str:
        return f"pool {self.pool} is short of a worker, retrying {_soon(self.restart_in)}: {self.error}"


class KillingWorker(WorkerEvent, frozen=True):
    """A worker hangs and is killed, its stacks written first."""

    level: ClassVar[int] = logging.ERROR

    reason: str

    def __str__(self) -> str:
        return f"{self.subject} is being killed, after its stacks were written: {self.reason}"


class WorkerSpared(WorkerEvent, frozen=True):
    """A worker that was about to be killed is working again: it is not killed."""

    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return f"{self.subject} is working again and was not killed: the request for its stacks woke it"


class JobsHandedBack(Event, frozen=True):
    """A dead worker's jobs are in their topics again."""

    level: ClassVar[int] = logging.WARNING

    owner: str
    released: int
    charged: int

    def __str__(self) -> str:
        return (
            f"{count(self.released, 'job')} of dead worker {self.owner} went back to their topics; {self.charged} had started"
        )


class PoolGrows(Event, frozen=True):
    """A pool grows, because it cannot clear its backlog in time."""

    pool: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"pool {self.pool} is growing from {self.before} to {count(self.after, 'worker')} to clear its backlog in time"


class PoolShrinks(Event, frozen=True):
    """A pool shrinks, because workers were idle."""

    pool: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"pool {self.pool} is shrinking from {self.before} to {count(self.after, 'worker')}: some were idle"


class Reloading(Event, frozen=True):
    """New code is being imported, while the old code serves."""

    generation: int

    def __str__(self) -> str:
        return f"reload: importing generation {self.generation}"


class Reloaded(Event, frozen=True):
    """New code serves in place of the old."""

    generation: int

    def __str__(self) -> str:
        return f"reload: generation {self.generation} is serving"


class ReloadRefused(Event, frozen=True):
    """New code cannot be loaded; the old code keeps running."""

    level: ClassVar[int] = logging.ERROR

    error: str

    def __str__(self) -> str:
        return f"reload refused, the old code keeps running: {self.error}"


class Quiet(Event, frozen=True):
    """Workers take no new jobs, or take jobs again."""

    on: bool

    def __str__(self) -> str:
        return "quiet: workers take no new jobs" if self.on else "workers take jobs again"


class StacksWritten(Event, frozen=True):
    """Every worker was asked for its stacks."""

    directory: str

    def __str__(self) -> str:
        return f"the stacks of every worker are being appended to its .stacks file in {self.directory}"


class RunDirGone(Event, frozen=True):
    """The run directory was removed or replaced: the supervisor stops, since no command could find it any more."""

    level: ClassVar[int] = logging.ERROR

    run_dir: str

    def __str__(self) -> str:
        return f"{self.run_dir} was removed or replaced: stopping, because no command could find this supervisor any more"


class RunDirTrouble(Event, frozen=True):
    """A file of the run directory cannot be written; jobs continue, but status and metrics are out of date."""

    level: ClassVar[int] = logging.ERROR

    file: str
    error: str

    def __str__(self) -> str:
        return f"{self.file} cannot be written; status and metrics are out of date until it can be: {self.error}"


# -- topics ----------------------------------------------------------------------------------------


class TopicUnserved(Event, frozen=True):
    """Jobs wait in a topic that no pool serves, or `senders` would enqueue some to it; logged once per start or reload."""

    level: ClassVar[int] = logging.WARNING

    topic: str
    waiting: int
    senders: list[str]

    def __str__(self) -> str:
        waits = [f"{are(self.waiting, 'job')} waiting there"] if self.waiting else []
        more = f" and {len(self.senders) - 3} more" if len(self.senders) > 3 else ""
        goes = (
            [f"{', '.join(self.senders[:3])}{more} enqueue{'s' if len(self.senders) == 1 else ''} to it"]
            if self.senders
            else []
        )
        return (
            f"no pool serves topic {self.topic} ({'; '.join(waits + goes)}): add it to the topics of a pool, "
            f"or set serve = false in [topics.{self.topic}] if workers elsewhere serve it"
        )


# -- alerts ----------------------------------------------------------------------------------------


class TopicBacklog(Event, frozen=True):
    """A topic has been over its limit for `seconds`."""

    level: ClassVar[int] = logging.WARNING

    topic: str
    ready: int
    oldest_age: float | None
    seconds: float

    def __str__(self) -> str:
        age = "" if self.oldest_age is None else f", the oldest for {format_duration(round(self.oldest_age))}"
        behind = format_duration(round(self.seconds))
        return f"topic {self.topic} has been behind for {behind}: {are(self.ready, 'job')} ready{age}"


class TopicCaughtUp(Event, frozen=True):
    """A topic with an open alert is within its limits again."""

    topic: str
    ready: int
    seconds: float

    def __str__(self) -> str:
        return f"topic {self.topic} has caught up after {format_duration(round(self.seconds))}: {are(self.ready, 'job')} ready"


class AlertNotSent(Event, frozen=True):
    """An alert channel does not work; logged once until it works again."""

    level: ClassVar[int] = logging.ERROR

    channel: str
    error: str

    def __str__(self) -> str:
        return f"alert channel {self.channel} does not work; until it does, alerts appear only in this log: {self.error}"


class AlertsSentAgain(Event, frozen=True):
    """An alert channel works again."""

    channel: str

    def __str__(self) -> str:
        return f"alert channel {self.channel} works again"


def _rounded(seconds: float) -> float:
    """To three digits below a second, to the millisecond above."""
    return float(f"{seconds:.3g}") if seconds < 1 else round(seconds, 3)


def _soon(seconds: float) -> str:
    return f"in {format_duration(round(seconds, 1))}" if seconds > 0 else "immediately"


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def tells_all() -> bool:
    """Return whether level debug is on: asked once per batch, before any debug event is made."""
    return logger.isEnabledFor(logging.DEBUG)


def emit(event: Event) -> None:
    """Pass an event to the log. Any thread may call."""
    if logger.isEnabledFor(event.level):
        boundary.log(logger, event.level, "%s", event, event=event)
