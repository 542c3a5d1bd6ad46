"""Events, as data. `emit` hands an event to the log; one module (logs.py) turns events into lines."""

from __future__ import annotations

import logging

from msgspec import Struct

from . import boundary

logger = logging.getLogger("jobs")


class Event(Struct, frozen=True):
    """An event worth an operator's attention. Each subclass describes its own in its docstring and level."""


# -- a worker --------------------------------------------------------------------------------------


class WorkerStarted(Event, frozen=True):
    """A worker takes jobs."""

    owner: str
    pool: str
    topics: tuple[str, ...]
    mode: str
    concurrency: int


class WorkerStopping(Event, frozen=True):
    """A worker takes no new jobs and finishes the running ones."""

    owner: str
    running: int


class WorkerStopped(Event, frozen=True):
    """A worker has settled everything."""

    owner: str
    done: int
    failed: int


class BackendLost(Event, frozen=True):
    """The backend cannot be reached; the worker keeps retrying."""

    error: str


class BackendBack(Event, frozen=True):
    """The backend answers again."""

    seconds: float


class BackendRisk(Event, frozen=True):
    """The backend works, but its setup may lose jobs or let any client in; logged once per start."""

    advice: str


class OwnerReplaced(Event, frozen=True):
    """The worker's lease had expired: its jobs went to other workers, and it continues under a new owner id."""

    old: str
    new: str
    running: int


class SettledStale(Event, frozen=True):
    """A job finished here after its lease had expired: another worker runs it, or has run it, as well."""

    job_id: str
    job: str
    topic: str
    attempt: int


# -- a run -----------------------------------------------------------------------------------------


class JobTaken(Event, frozen=True):
    """A worker has reserved a job and is about to run it."""

    job_id: str
    job: str
    topic: str
    attempt: int


class JobDone(Event, frozen=True):
    """A run has succeeded after `seconds`; logged if `logs.done` is set."""

    job_id: str
    job: str
    topic: str
    attempt: int
    seconds: float


class JobSettled(Event, frozen=True):
    """The backend has answered a settlement; `job` is empty if the message could not be decoded."""

    job_id: str
    job: str
    outcome: str
    answer: str


class JobFailed(Event, frozen=True):
    """An attempt failed and another follows."""

    job_id: str
    job: str
    topic: str
    attempt: int
    retry_after: float
    error: str
    traceback: str


class JobDied(Event, frozen=True):
    """A job went to the dead letters."""

    job_id: str
    job: str
    topic: str
    attempt: int
    reason: str
    error: str
    traceback: str


class JobOverdue(Event, frozen=True):
    """A job has exceeded its timeout and is interrupted."""

    job_id: str
    job: str
    topic: str
    attempt: int
    timeout: float


class LeftBehind(Event, frozen=True):
    """A run ended and left tasks, timers or the like in its thread's event loop: they were ended."""

    job_id: str
    job: str
    topic: str
    what: list[str]
    closed: bool
    """Whether the loop was closed as well, so that the next run gets a new one."""


class PutOffTooOften(Event, frozen=True):
    """A job is deferred again and again without a pause: from now on each deferral takes a while."""

    job_id: str
    job: str
    topic: str
    pause: float


# -- the schedule ----------------------------------------------------------------------------------


class TicksMissed(Event, frozen=True):
    """Runs of a schedule entry were missed, from `first` to `last`; `runs` if the last is enqueued now."""

    entry: str
    job: str
    first: float
    last: float
    runs: bool


class TickRefused(Event, frozen=True):
    """A scheduled job cannot be enqueued, now or later."""

    entry: str
    job: str
    error: str


class TickWaits(Event, frozen=True):
    """A scheduled job finds no room in the queue: enqueueing is retried until there is."""

    entry: str
    job: str
    error: str


class ClockSetBack(Event, frozen=True):
    """This machine's clock was ahead by days: an entry continues from the current time."""

    entry: str
    seconds: float


class ScheduleForgotten(Event, frozen=True):
    """The file of handled ticks cannot be read: missed runs cannot be detected."""

    path: str
    error: str


class ScheduleNotSaved(Event, frozen=True):
    """The file of handled ticks cannot be written."""

    path: str
    error: str


# -- the supervisor --------------------------------------------------------------------------------


class SupervisorStarting(Event, frozen=True):
    """A supervisor is starting."""

    pid: int
    run_dir: str


class SupervisorServes(Event, frozen=True):
    """Every pool has its workers for the first time."""

    workers: int
    pools: int


class SupervisorStopping(Event, frozen=True):
    """The supervisor was asked to stop: gracefully ("stop"), or at once ("exit")."""

    how: str


class SupervisorStopped(Event, frozen=True):
    """The supervisor has stopped; the jobs of `unrepaired` dead workers are not back in their topics yet."""

    unrepaired: int


class CannotServe(Event, frozen=True):
    """The application cannot be imported at the first start: the supervisor ends."""

    error: str


class CannotPreload(Event, frozen=True):
    """Threads run in the template after the import: workers import the application themselves."""

    threads: tuple[str, ...]


class StillImporting(Event, frozen=True):
    """The import of the application takes long; `module` of `modules` is being imported, if known."""

    generation: int
    module: str
    seconds: int


class TemplateTrouble(Event, frozen=True):
    """The template could not be restarted; this is retried."""

    error: str


class HelperDied(Event, frozen=True):
    """A template, housekeeper, HTTP child or broker died; a replacement is started."""

    name: str
    pid: int
    reason: str
    restart_in: float


class WorkerDied(Event, frozen=True):
    """A worker crashed, or could not boot; a replacement is started."""

    owner: str
    pid: int
    pool: str
    reason: str
    running: int
    restart_in: float


class CannotStart(Event, frozen=True):
    """A worker could not be forked; this is retried."""

    pool: str
    error: str
    restart_in: float


class KillingWorker(Event, frozen=True):
    """A worker hangs and is killed, its stacks written first."""

    owner: str
    pid: int
    pool: str
    reason: str


class WorkerSpared(Event, frozen=True):
    """A worker that was about to be killed is working again: it is not killed."""

    owner: str
    pid: int
    pool: str


class JobsHandedBack(Event, frozen=True):
    """A dead worker's jobs are in their topics again."""

    owner: str
    released: int
    charged: int


class PoolGrows(Event, frozen=True):
    """A pool grows, because it cannot clear its backlog in time."""

    pool: str
    before: int
    after: int


class PoolShrinks(Event, frozen=True):
    """A pool shrinks, because workers were idle."""

    pool: str
    before: int
    after: int


class Reloading(Event, frozen=True):
    """New code is being imported, while the old code serves."""

    generation: int


class Reloaded(Event, frozen=True):
    """New code serves in place of the old."""

    generation: int


class ReloadRefused(Event, frozen=True):
    """New code cannot be loaded; the old code keeps running."""

    error: str


class Quiet(Event, frozen=True):
    """Workers take no new jobs, or take jobs again."""

    on: bool


class StacksWritten(Event, frozen=True):
    """Every worker was asked for its stacks."""

    directory: str


class RunDirGone(Event, frozen=True):
    """The run directory was removed or replaced: the supervisor stops, since no command could find it any more."""

    run_dir: str


class RunDirTrouble(Event, frozen=True):
    """A file of the run directory cannot be written; jobs continue, but status and metrics are out of date."""

    file: str
    error: str


# -- topics ----------------------------------------------------------------------------------------


class TopicUnserved(Event, frozen=True):
    """Jobs wait in a topic that no pool serves, or `senders` would enqueue some to it; logged once per start or reload."""

    topic: str
    waiting: int
    senders: list[str]


# -- alerts ----------------------------------------------------------------------------------------


class TopicBacklog(Event, frozen=True):
    """A topic has been over its limit for `seconds`."""

    topic: str
    ready: int
    oldest_age: float | None
    seconds: float


class TopicCaughtUp(Event, frozen=True):
    """A topic with an open alert is within its limits again."""

    topic: str
    ready: int
    seconds: float


class AlertNotSent(Event, frozen=True):
    """An alert channel does not work; logged once until it works again."""

    channel: str
    error: str


class AlertsSentAgain(Event, frozen=True):
    """An alert channel works again."""

    channel: str


LEVELS: dict[type[Event], int] = {
    WorkerStarted: logging.INFO,
    WorkerStopping: logging.INFO,
    WorkerStopped: logging.INFO,
    BackendLost: logging.ERROR,
    BackendBack: logging.INFO,
    BackendRisk: logging.WARNING,
    OwnerReplaced: logging.ERROR,
    SettledStale: logging.WARNING,
    JobTaken: logging.DEBUG,
    JobDone: logging.INFO,
    JobSettled: logging.DEBUG,
    JobFailed: logging.WARNING,
    JobDied: logging.ERROR,
    JobOverdue: logging.WARNING,
    LeftBehind: logging.WARNING,
    PutOffTooOften: logging.WARNING,
    SupervisorStarting: logging.INFO,
    SupervisorServes: logging.INFO,
    SupervisorStopping: logging.INFO,
    SupervisorStopped: logging.INFO,
    CannotServe: logging.ERROR,
    CannotPreload: logging.WARNING,
    StillImporting: logging.INFO,
    TemplateTrouble: logging.ERROR,
    HelperDied: logging.ERROR,
    WorkerDied: logging.ERROR,
    CannotStart: logging.ERROR,
    KillingWorker: logging.ERROR,
    WorkerSpared: logging.WARNING,
    JobsHandedBack: logging.WARNING,
    PoolGrows: logging.INFO,
    PoolShrinks: logging.INFO,
    Reloading: logging.INFO,
    Reloaded: logging.INFO,
    Quiet: logging.INFO,
    StacksWritten: logging.INFO,
    ReloadRefused: logging.ERROR,
    RunDirGone: logging.ERROR,
    RunDirTrouble: logging.ERROR,
    TicksMissed: logging.WARNING,
    TickRefused: logging.ERROR,
    TickWaits: logging.ERROR,
    ClockSetBack: logging.WARNING,
    ScheduleForgotten: logging.WARNING,
    ScheduleNotSaved: logging.ERROR,
    TopicUnserved: logging.WARNING,
    TopicBacklog: logging.WARNING,
    TopicCaughtUp: logging.INFO,
    AlertNotSent: logging.ERROR,
    AlertsSentAgain: logging.INFO,
}


def tells_all() -> bool:
    """Return whether level debug is on: asked once per batch, before any debug event is made."""
    return logger.isEnabledFor(logging.DEBUG)


def emit(event: Event) -> None:
    """Pass an event to the log. Any thread may call."""
    level = LEVELS.get(type(event), logging.INFO)
    if logger.isEnabledFor(level):
        boundary.log(logger, level, "%s", event, event=event)
