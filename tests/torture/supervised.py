"""The stage of rows that run as a user runs jobs: `jobsctl start` on two machines, while processes are killed.

A machine is a directory of its own with a supervisor; both use one backend. The acts below kill workers, housekeepers,
templates, supervisors and the broker with SIGKILL, and stop and reload in between. `deaths` says of each killed worker until
when it has run at most, so that a check knows when a run without an end was over.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jobs_core.backends.base import Backend
from jobs_core.errors import BackendUnavailable
from jobs_core.ids import new_token

from ..support.ledger import Ledger, Producing, Record, Tally
from ..support.project import Project, until
from ..support.supervised import Supervised, gone, kill
from .stage import Stage

MACHINES = 2
EXIT = 10.0
"""Seconds within which the workers of a killed supervisor have exited, on a busy machine; 2 s on others."""

LOOK = 0.2
"""Seconds between two looks at what other processes write."""


SHORT_LEASE = 'lease = "5s"'
"""The lease of rows that may not wait for the default one, which a killed worker holds."""


class Machine:
    """A directory with a supervisor."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.supervised: Supervised

    def start(self, failpoints: str = "") -> None:
        """Start its supervisor, in whose processes these fail points are set."""
        self.supervised = Supervised(self.project, **({"JOBS_FAILPOINT": failpoints} if failpoints else {}))


class Supervision(Stage, abc.ABC):
    """Machines, and the broker that they share, if `kill_broker` is set. Subclasses say what is sent, and check what ran."""

    tasks = ""
    """The module of their jobs, which write to `runs` in the directory above their own."""

    job_limits = ""
    """A part of the configuration."""

    def __init__(self, directory: Path, url: str, *, toml: str = "", kill_broker: Callable[[], None] | None = None) -> None:
        directory.mkdir(parents=True)
        self.machines = []
        for number in range(MACHINES):
            project = Project(directory / f"machine-{number}", self.tasks)
            project.configure(f"{toml}\npools.default.workers = 2\n{self.job_limits}", backend=f'backend = "{url}"')
            self.machines.append(Machine(project))
        self.project = self.machines[0].project
        self.app = self.project.app()
        self.ledger = Ledger(directory)
        self.workers = []  # a stage of lone workers has some
        self.deaths: dict[int, float] = {}
        self.broker_deaths: list[tuple[float, float]] = []  # between which times it died: the kill itself takes a while
        self.recovered = 0.0
        self.kill_broker = kill_broker
        self._turn = itertools.cycle(self.machines)

    def __enter__(self) -> Supervision:
        for machine in self.machines:
            machine.start()
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines:
            machine.project.close()
        self.ledger.close()

    @abc.abstractmethod
    def producing(self, count: int, batch: int) -> contextlib.AbstractContextManager[Producing]:
        """Return what sends `count` jobs."""

    @abc.abstractmethod
    def check(self) -> None:
        """Fail if a run broke a promise; the machines have stopped."""

    def run(self, trouble: Callable[[Stage], None], count: int, *, batch: int = 10, patience: float = 120.0) -> Tally:
        """Send `count` jobs, cause the trouble meanwhile, wait until the queue is empty, stop, check, and count."""
        with self.producing(count, batch) as self.producer:
            trouble(self)
            begin = time.monotonic()
            self.progress()
            self.recovered = time.monotonic() - begin
            self.producer.join(patience)
        self.drain(patience)
        for machine in self.machines:
            assert machine.supervised.stop() == 0
        self.check()
        return self.ledger.tally(self.dead())

    def next_machine(self) -> Machine:
        """Return the machine whose turn it is to suffer."""
        return next(self._turn)

    def killed(self, pid: int) -> None:
        """Kill a worker, and note when."""
        self.deaths[pid] = time.monotonic()
        kill(pid)

    def under_load(self, share: float = 0.25) -> None:
        """Wait until a share of the jobs has run, or all that were sent."""
        self.patiently(lambda: self.ledger.runs() >= share * self.producer.count or self.is_over())

    def progress(self, jobs: int = 1) -> None:
        before = self.ledger.runs()
        self.patiently(lambda: self.ledger.runs() >= before + jobs or self.is_over())

    def drain(self, patience: float) -> None:
        """Wait until no job is left in the queue."""
        self.patiently(lambda: self.app.operate(_nothing_is_left), patience)

    def is_over(self) -> bool:
        """Return whether all jobs have been sent, and none is left."""
        return self.producer.sent >= self.producer.count and self.app.operate(_nothing_is_left)

    def tend(self) -> None:
        """Do what an operator does meanwhile."""

    def patiently(self, condition: Callable[[], bool], patience: float = 120.0) -> None:
        """Wait until a condition holds; fail once no run has ended for `patience` seconds."""
        last, since = self.ledger.runs(), time.monotonic()
        while True:
            self.tend()
            with contextlib.suppress(BackendUnavailable):  # the broker may be on its way up
                if condition():
                    return
            if (now := self.ledger.runs()) != last:
                last, since = now, time.monotonic()
            if time.monotonic() > since + patience:
                counts = self.app.operate(lambda backend: backend.counts(["default"]))
                raise AssertionError(f"no run has ended for {patience:g} s, after {last:,} runs: {counts}")
            time.sleep(LOOK)

    def runs(self) -> list[Run]:
        """Return all runs, in the order of their starts."""
        return runs_of(self.ledger.records(), self.deaths)

    @contextlib.contextmanager
    def backend(self) -> Iterator[Backend]:
        """Yield a bare connection with an owner of its own."""
        backend = self.app.new_backend()
        backend.open(new_token())
        try:
            yield backend
        finally:
            backend.close()


def _nothing_is_left(backend: Backend) -> bool:
    counts = backend.counts(["default"])["default"]
    return not (counts.ready or counts.limited or counts.waiting or counts.scheduled or counts.reserved)


# -- runs ------------------------------------------------------------------------------------------


class Run:
    """One run of a job, as its ledger tells it: `start ID TOKEN PID SECONDS FACT…` and `end ID TOKEN PID SECONDS FACT…`."""

    __slots__ = ("end", "ended", "facts", "id", "pid", "start")

    def __init__(self, start: Record, end: Record | None, deaths: dict[int, float]) -> None:
        _, self.id, _, pid, at, *self.facts = start
        self.pid, self.start, self.ended = int(pid), float(at), end is not None
        self.end = float(end[4]) if end is not None else max(self.start, deaths.get(self.pid, 0.0))
        """When it ended, or when its worker was killed; if a fail point did that, no later than it started."""


def runs_of(records: Sequence[Record], deaths: dict[int, float]) -> list[Run]:
    """Return the runs of a ledger, in the order of their starts."""
    ends = {tuple(record[1:3]): record for record in records if record[0] == "end"}
    runs = [Run(record, ends.get(tuple(record[1:3])), deaths) for record in records if record[0] == "start"]
    return sorted(runs, key=lambda run: run.start)


UNDONE = 1.0
"""Seconds before the death of a broker whose reservations it may forget: PostgreSQL's reach the disk within 0.6 s."""


def unexplained(runs: Sequence[Run], broker_deaths: Sequence[tuple[float, float]]) -> Iterator[str]:
    """Say which jobs ran again although no worker had died that ran them, nor a broker that had just reserved them."""
    last: dict[int, float] = {}
    for run in runs:
        last[run.pid] = max(last.get(run.pid, 0.0), run.start)
    ran: dict[str, Run] = {}
    for run in runs:
        earlier = ran.get(run.id)
        ran[run.id] = run
        if earlier is None or (last[earlier.pid] <= run.start and earlier.pid != run.pid):
            continue
        if not any(earlier.start - UNDONE <= after and before <= run.start for before, after in broker_deaths):
            yield f"{run.id} ran again {run.start - earlier.start:.3f} s later, and worker {earlier.pid} was alive"


# -- acts ------------------------------------------------------------------------------------------

Act = Callable[[Supervision], None]


def kill_worker(stage: Supervision) -> None:
    supervised = stage.next_machine().supervised
    stage.killed(min(until(supervised.pids)))


def kill_housekeeper(stage: Supervision) -> None:
    _kill_helper(stage, "housekeeper_pid")


def kill_template(stage: Supervision) -> None:
    _kill_helper(stage, "template_pid")


def _kill_helper(stage: Supervision, name: str) -> None:
    supervised = stage.next_machine().supervised

    def pid() -> int:
        state = supervised.board().supervisor
        found: int = getattr(state, name) or 0
        return found if found in supervised.children() else 0

    kill(until(pid))


def kill_supervisor(stage: Supervision, *, with_workers: bool = False) -> None:
    """Kill a supervisor, whose workers then exit, and start the next, as systemd would."""
    machine = stage.next_machine()
    workers = {view.header.pid: view.header.start_ticks for view in machine.supervised.workers()}
    machine.supervised.kill()
    for pid in workers if with_workers else ():
        with contextlib.suppress(ProcessLookupError):
            stage.killed(pid)
    deadline = time.monotonic() + EXIT
    while workers:
        now = time.monotonic()
        assert now < deadline, f"workers {[*workers]} have outlived their supervisor by {EXIT:g} s"
        workers = {pid: ticks for pid, ticks in workers.items() if not gone(pid, ticks)}
        if not with_workers:
            stage.deaths |= dict.fromkeys(workers, now)
        time.sleep(0.005)  # between looks at processes that end
    machine.start()


def kill_machine(stage: Supervision) -> None:
    """Kill a supervisor and its workers at once: their lease has to expire."""
    kill_supervisor(stage, with_workers=True)


def restart(stage: Supervision) -> None:
    """Stop a supervisor, which finishes its running jobs, and start it again."""
    _restart(stage.next_machine())


def _restart(machine: Machine, failpoints: str = "") -> None:
    assert machine.supervised.stop() == 0, machine.supervised.process.output
    machine.start(failpoints)


def with_failpoints(points: str) -> Act:
    """Return the act of running a supervisor each of whose workers dies at these fail points, until two have died."""

    def act(stage: Supervision) -> None:
        machine = stage.next_machine()
        _restart(machine, points)
        stage.patiently(lambda: machine.supervised.process.output.count(" died ") >= 2 or stage.is_over())
        _restart(machine)

    return act


def reload(stage: Supervision) -> None:
    answer = stage.next_machine().project.run("reload")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def kill_broker(stage: Supervision) -> None:
    """Kill the broker and start it again; without a broker, kill another worker."""
    if stage.kill_broker is None:
        kill_worker(stage)
    else:
        began = time.monotonic()
        stage.kill_broker()
        stage.broker_deaths.append((began, time.monotonic()))


ROUND: tuple[Act, ...] = (
    kill_worker, kill_broker, kill_housekeeper, kill_worker, reload, kill_supervisor, kill_worker, kill_broker, restart,
    kill_template,
)  # fmt: skip
"""One of each, and the frequent ones more often."""

SetUpSupervision = Callable[["type[Supervision]", Path, str], contextlib.AbstractContextManager[Supervision]]
"""What sets a stage of this class up in a directory, on a backend of its own, with a part of the configuration."""
