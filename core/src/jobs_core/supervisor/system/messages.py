"""The messages between the supervisor and its children: tagged Structs, which a channel carries as JSON.

Both ends run the same code, since children are forked from the supervisor or its templates: a release may change any
message. Commands to the supervisor come from other programs; see control.py.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import Struct


class Message(Struct, frozen=True, tag=True):
    """A message; its tag is the name of its class."""


# -- from children ----------------------------------------------------------------------------------


class Ready(Message, frozen=True):
    """The child serves, or a worker stands by."""


class TemplateReady(Message, frozen=True):
    """A template has imported the application."""

    preloaded: bool  # False: no pool wants its workers forked from it
    fit: bool  # whether it may be forked
    threads: list[str]  # why it may not
    brokers: list[list[str]]  # the command lines of the brokers that plugins want run


class Importing(Message, frozen=True):
    """The child is importing a module, which may hang or end it."""

    module: str


class Failed(Message, frozen=True):
    """The child cannot start, and ends."""

    error: str


class Forked(Message, frozen=True):
    """A template has started a child."""

    owner: str
    pid: int


class FailedToStart(Message, frozen=True):
    """A template could not start a child."""

    owner: str
    error: str


class Due(Message, frozen=True):
    """A worker is to be replaced."""

    reason: str


class Exiting(Message, frozen=True):
    """A worker has run its last job: only its exit functions are left."""


class Repaired(Message, frozen=True):
    """The housekeeper has released the jobs of a dead worker."""

    file: str


class Counted(Message, frozen=True):
    """The housekeeper has counted the jobs of each topic."""

    topics: dict[str, tuple[int, float | None]]  # ready jobs, and the age of the oldest; paused topics are left out
    leases: bool  # whether the backend gives a silent worker's jobs to others


FromChild: TypeAlias = Ready | TemplateReady | Importing | Failed | Forked | FailedToStart | Due | Exiting | Repaired | Counted

# -- to children ------------------------------------------------------------------------------------


class WorkerSpec(Message, frozen=True):
    """The specification of a new worker, to a template."""

    owner: str
    pool: str
    generation: int
    max_jobs: int = 0  # with its jitter applied; 0: no limit
    standby: bool = False  # reserve no jobs until told to serve


class Stop(Message, frozen=True):
    """Finish running jobs within `timeout` seconds, and exit."""

    timeout: float = 0.0


class Quiet(Message, frozen=True):
    """Reserve no new jobs."""


class Serve(Message, frozen=True):
    """Reserve jobs, as before `Quiet` or for the first time."""


class Repair(Message, frozen=True):
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


class CallHook(Message, frozen=True):
    """Call a hook of the application's plugins."""

    hook: str
    facts: dict[str, Any]


ToWorker: TypeAlias = Stop | Quiet | Serve
ToHousekeeper: TypeAlias = Stop | Repair | CallHook
ToChild: TypeAlias = WorkerSpec | ToWorker | ToHousekeeper
