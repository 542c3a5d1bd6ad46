"""The small JSON files beside the workers' scoreboard files, and one reader of all, for status, top, probes and metrics.

=================  ==============================  =====================================================
file               written by                      content
=================  ==============================  =====================================================
``state.json``     the supervisor, on a change     itself, its pools, its children, recent crashes
``backlog.json``   the housekeeper, every second   each topic's counts, and whether the backend answers
``totals.json``    the housekeeper                 figures of workers that are gone
=================  ==============================  =====================================================

Each is replaced as a whole: a reader sees the old one or the new one. Times are unix seconds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct, field

from ..backends.outbox import OutboxState
from .reader import JobFigures, OpFigures, RunEntry, WorkerFile, WorkerHeader, add_ops

MOST_REFUSED = 100
"""Most documents of a kind of which it is told why they are not obeyed: anyone who can write to the backend can make many."""

STATE, BACKLOG, TOTALS = "state.json", "backlog.json", "totals.json"
WORKERS = "workers"
STACKS = ".stacks"

T = TypeVar("T")


class ChildState(Struct):
    """One worker as the supervisor sees it."""

    owner: str
    pid: int
    pool: str
    generation: int
    state: str  # starting | standby | serving | quiet | retiring | stopping | releasing (dead, its jobs not yet released)
    since: float
    reason: str = ""  # why it is to end: max_jobs, max_age, max_memory, reload, scale, shrink, stop
    memory: int = 0  # resident bytes, as last read


class PoolState(Struct):
    """One pool as the supervisor sees it."""

    name: str
    topics: list[str]
    mode: str
    concurrency: int
    min: int
    max: int
    wanted: int
    scaled: bool = False  # an operator set its size by hand
    quiet: bool = False  # its workers take no new jobs
    restarts: dict[str, int] = {}  # why workers were replaced, and how often
    failures: int = 0  # consecutive rounds of quick deaths
    next_start: float = 0.0  # back-off: no worker is started before this time
    cannot_boot: bool = False  # its last worker never started to serve
    last_error: str = ""


class Crash(Struct):
    """The crash of a worker: neither the worker nor the supervisor had decided to end it."""

    at: float
    owner: str
    pid: int
    pool: str
    reason: str  # a sentence: killed by SIGSEGV, exit code 3, cannot boot: …
    signal: str = ""
    exit_code: int | None = None
    peak_memory: int = 0
    jobs: list[str] = []  # "name id" of jobs that had started


class SupervisorState(Struct):
    """The supervisor's own file."""

    pid: int
    host: str
    version: str
    started_at: float
    generation: int
    state: str  # starting | serving | quiet | reloading | stopping
    written_at: float = 0.0
    config_file: str = ""
    base_dir: str = ""
    lease: float = 30.0
    backend: str = ""  # without secrets
    log: str = ""  # the file; empty for standard error
    start_ticks: int = 0
    served: bool = False  # whether all pools have served once
    quiet: bool = False
    template_pid: int = 0
    housekeeper_pid: int = 0
    http_pid: int = 0
    dashboard_pid: int = 0
    helper_errors: dict[str, str] = {}  # helper → why it is not serving
    brokers: list[int] = []
    pools: list[PoolState] = []
    workers: list[ChildState] = []
    crashes: list[Crash] = []
    crashed: int = 0  # in all
    reloads: dict[str, int] = {}  # done, refused
    last_refusal: str = ""  # why the last reload was refused; empty after an accepted one


class TopicState(Struct):
    """The number of jobs of a topic by state."""

    ready: int = 0
    scheduled: int = 0
    reserved: int = 0
    dead: int = 0
    oldest_age: float | None = None
    paused: bool = False
    limited: int = 0
    members: int = 0  # of flows, waiting for others: neither pools nor alerts count them
    pushed: int | None = None  # as the backend counts; None if it does not
    refused: int | None = None

    @property
    def waiting(self) -> int:
        """Return how many jobs have not run yet."""
        return self.ready + self.limited + self.scheduled


class LimitFigures(Struct):
    """The use of one limit, or of one value of it."""

    limit: str
    used: int
    waiting: int
    concurrency: int | None = None


class Backlog(Struct):
    """The housekeeper's file."""

    at: float
    pid: int
    answers: bool = False  # whether the last round trip succeeded
    answered_at: float = 0.0  # the time of the last successful one
    round_trip: float = 0.0  # its duration in seconds
    error: str = ""
    topics: dict[str, TopicState] = {}
    unserved: dict[str, list[str]] = {}  # topic that no pool serves → jobs enqueued to it by this application
    alerts: list[str] = []  # topics with an active alert
    generation: int = 0  # of the housekeeper's code
    limits: list[LimitFigures] = []  # every limit that is defined, and the fullest values
    full: dict[str, float] = {}  # name of a limit with an active alert → for how many seconds it has been full
    has_lines: bool = False  # whether the backend counts limited jobs
    flows: dict[str, int] | None = None  # state → members of flows that have not ended; None without flows
    ops: dict[str, OpFigures] = {}  # durations of the housekeepers' calls to the backend
    outbox: OutboxState | None = None
    refused_entries: dict[
        str, str
    ] = {}  # schedule entry → why its document in the backend is not obeyed; the first MOST_REFUSED
    refused_sizes: dict[str, str] = {}  # TARGET/POOL → the same of the size of a pool


class Totals(Struct):
    """Figures of workers that are gone."""

    rows: list[JobFigures] = []
    folded: list[str] = []  # files whose figures are in `rows`, though some may not have been removed yet
    released: int = 0  # jobs released for dead workers
    since: float = 0.0
    ops: dict[str, OpFigures] = {}


class WorkerView(Struct):
    """A worker, as its scoreboard file and the supervisor's record describe it."""

    file: str  # its name in run_dir/workers, the owner id with which it began
    header: WorkerHeader
    running: list[RunEntry]
    running_count: int
    figures: list[JobFigures]
    child: ChildState | None = None
    ops: dict[str, OpFigures] = {}


class Board(Struct):
    """The content of all files of an installation. A missing file leaves its part None or empty."""

    supervisor: SupervisorState | None = None
    backlog: Backlog | None = None
    totals: Totals = field(default_factory=Totals)
    workers: list[WorkerView] = []

    def figures(self) -> list[JobFigures]:
        """Return the figures of all jobs, from current and former workers."""
        return [*self.totals.rows, *(row for worker in self._living() for row in worker.figures)]

    def ops(self) -> dict[str, OpFigures]:
        """Return the durations of calls to the backend by kind, of current and former workers and housekeepers."""
        found: dict[str, OpFigures] = {}
        for each in (self.totals.ops, self.backlog.ops if self.backlog else {}, *(worker.ops for worker in self._living())):
            add_ops(found, each)
        return found

    def _living(self) -> list[WorkerView]:
        folded = set(self.totals.folded)
        return [worker for worker in self.workers if worker.file not in folded]


def write(path: Path, document: Struct) -> None:
    """Replace a file as a whole; raise OSError. The file is not synced: after a power cut, no process needs it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, msgspec.json.encode(document))
    finally:
        os.close(descriptor)
    temporary.replace(path)


def read(path: Path, kind: type[T]) -> T | None:
    """Return a file's document; None if it is missing, or of another release."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def read_board(run_dir: Path, *, most_entries: int = 20) -> Board:
    """Read all files; of each worker's running jobs, keep the `most_entries` that have run longest."""
    board = Board(read(run_dir / STATE, SupervisorState), read(run_dir / BACKLOG, Backlog))
    children = {child.owner: child for child in board.supervisor.workers} if board.supervisor else {}
    for path in worker_files(run_dir):
        try:
            file = WorkerFile(path)
        except (OSError, ValueError):  # gone, or not yet written
            continue
        try:
            running = sorted(file.entries(), key=lambda entry: entry.started)
            header, figures, ops = file.header(), list(file.figures()), file.ops()
        except ValueError:
            continue
        finally:
            file.close()
        child = children.get(path.name)
        board.workers.append(WorkerView(path.name, header, running[:most_entries], len(running), figures, child, ops))
    # Last: if a worker ends meanwhile, it is in the totals before its file is removed, and `folded` keeps it from being
    # counted twice.
    board.totals = read(run_dir / TOTALS, Totals) or board.totals
    return board


def worker_files(run_dir: Path) -> list[Path]:
    """Return the scoreboard files of workers, including dead ones that are not yet repaired."""
    try:
        return sorted(path for path in (run_dir / WORKERS).iterdir() if path.suffix != STACKS)
    except OSError:
        return []
