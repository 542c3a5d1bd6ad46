"""The messages between the supervisor and its children: tagged Structs, which a channel carries as JSON.

Both ends run the same code, since children are forked from the supervisor or its templates: a release may change any
message. Commands to the supervisor come from other programs; see control.py.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import Struct


class ProcessMessage(Struct, frozen=True, tag=True):
    """A message; its tag is the name of its class."""


# -- from children ----------------------------------------------------------------------------------


class Ready(ProcessMessage, frozen=True):
    """The child serves, or, as a worker, stands by."""


class TemplateReady(ProcessMessage, frozen=True):
    """A template has imported the application."""

    preloaded: bool  # False: no pool wants its workers forked from it
    fit: bool  # whether it may be forked
    threads: list[str]  # why it may not
    brokers: list[list[str]]  # the command lines of the brokers that plugins want run


class Importing(ProcessMessage, frozen=True):
    """The child is importing a module, which may hang or end it."""

    module: str


class Failed(ProcessMessage, frozen=True):
    """The child cannot start, and ends."""

    error: str


class Forked(ProcessMessage, frozen=True):
    """A template has started a child."""

    owner: str
    pid: int


class FailedToStart(ProcessMessage, frozen=True):
    """A template could not start a child."""

    owner: str
    error: str


class Due(ProcessMessage, frozen=True):
    """A worker is to be replaced."""

    reason: str


class RanTooFast(ProcessMessage, frozen=True):
    """Runs of a job succeed sooner than they can have done their work. The supervisor forwards it to the housekeeper."""

    job: str
    topic: str
    seconds: float  # of the last run
    min_time: float
    more: int  # other such runs since the previous report


class Exiting(ProcessMessage, frozen=True):
    """A worker ends by its own decision: it has run its last job, or has given up those that still run."""


class Repaired(ProcessMessage, frozen=True):
    """The housekeeper has released the jobs of a dead worker."""

    file: str


class Counted(ProcessMessage, frozen=True):
    """The housekeeper has counted the jobs of each topic."""

    topics: dict[str, tuple[int, float | None]]  # ready jobs, and the age of the oldest; paused topics are left out
    leases: bool  # whether the backend gives a silent worker's jobs to others


class Commanded(ProcessMessage, frozen=True):
    """The housekeeper has received a command for this machine from the backend, or the size of a pool."""

    id: str  # empty: nobody waits for the answer
    do: str  # quiet | resume | scale | reload | stacks
    pool: str  # empty: all
    workers: int | None  # scale


FromChild: TypeAlias = (
    Ready
    | TemplateReady
    | Importing
    | Failed
    | Forked
    | FailedToStart
    | Due
    | RanTooFast
    | Exiting
    | Repaired
    | Counted
    | Commanded
)

# -- to children ------------------------------------------------------------------------------------


class WorkerSpec(ProcessMessage, frozen=True):
    """The specification of a new worker, to a template."""

    owner: str
    pool: str
    generation: int
    max_jobs: int = 0  # with its jitter applied; 0: no limit
    standby: bool = False  # reserve no jobs until told to serve


class Stop(ProcessMessage, frozen=True):
    """Finish running jobs within `timeout` seconds, and exit."""

    timeout: float = 0.0


class StopReserving(ProcessMessage, frozen=True):
    """Reserve no new jobs."""


class Serve(ProcessMessage, frozen=True):
    """Reserve jobs, as before `StopReserving` or for the first time."""


class Repair(ProcessMessage, frozen=True):
    """Release the jobs of a dead worker."""

    file: str  # its name in run_dir/workers
    at: float  # unix seconds of its death
    reason: str  # a sentence
    crash: bool = False  # whether neither it nor the supervisor decided on its end
    culprit: str = ""  # the job that it was killed for; no other job is charged then
    signal: str = ""
    exit_code: int | None = None
    peak_memory: int = 0
    log: list[str] = []  # its last lines
    charge: bool = True  # whether its own jobs may have caused its death


class CallHook(ProcessMessage, frozen=True):
    """Call a hook of the application's plugins."""

    hook: str
    facts: dict[str, Any]


class CommandDone(ProcessMessage, frozen=True):
    """The supervisor has carried out a command that the housekeeper received, or has refused to."""

    id: str
    error: str  # empty: it was carried out


ToWorker: TypeAlias = Stop | StopReserving | Serve
ToHousekeeper: TypeAlias = Stop | Repair | CallHook | RanTooFast | CommandDone
ToChild: TypeAlias = WorkerSpec | ToWorker | ToHousekeeper
