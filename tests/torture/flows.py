"""The row "100,000 jobs in 10,000 flows": no dependent is lost or starts early, and no flow ends early or never.

Each flow has ten members::

    first ─┬─ one of stage s ──────────┐
           ├─ another of stage s ──────┼─ join (takes the result of first) ─┬─ last ── after all: finale
           ├─ adds two to stage s ─────┘                                     │
           └─ shaky: in each tenth flow, a dead letter until it is retried ──┘

If any job has started for which a member is counted done, no run of that member may start any more: it was settled.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jobs_core.backends.base import Backend
from jobs_core.backends.flows import FlowStatus
from jobs_core.errors import BackendUnavailable

from ..support.ledger import Tally
from ..support.project import Process
from .limits import FAIL_POINTS
from .stage import Row, Stage
from .supervised import ROUND, SHORT_LEASE, Act, Run, SetUpSupervision, Supervision, with_failpoints
from .troubles import in_turn

TASKS = '''
"""Members of flows that keep a ledger: when they ran, and which members they added."""
import os, time
from contextlib import contextmanager
from pathlib import Path
from jobs_core import current_job, job

ABOVE = Path(__file__).resolve().parents[1]
RUNS = os.open(ABOVE / "runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@contextmanager
def recorded():
    delivery = current_job()._run.delivery
    who = f"{delivery.id} {'|'.join(str(delivery.token).split())} {os.getpid()}"
    os.write(RUNS, f"start {who} {time.monotonic():.6f} {delivery.broker_now:.6f}\\n".encode())
    yield who
    os.write(RUNS, f"end {who} {time.monotonic():.6f}\\n".encode())

@job(store_result=True)
def first(number: int) -> int:
    with recorded():
        return number

@job
def work():
    with recorded():
        time.sleep(0.001)

@job
def add():
    with recorded() as who:
        more = [current_job().flow.add(work.call()).id for _ in range(2)]
        os.write(RUNS, f"added {who} {' '.join(more)}\\n".encode())

@job(retries=0)
def shaky(fails: bool):
    with recorded():
        if fails:
            try:
                os.close(os.open(ABOVE / f"failed-{current_job().id}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
            raise ValueError("retry me")

@job(retries=0)
def join(value: int, number: int):
    with recorded():
        if value != number:
            raise ValueError(f"got {value} in place of {number}")
'''

SENDER = '''
"""Send flows, and keep a ledger of them: `python sender.py COUNT`."""
import os, sys
from pathlib import Path
from jobs_core import Flow, JobsError
from tasks import add, first, join, shaky, work

FLOWS = os.open(Path(__file__).resolve().parents[1] / "flows", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def send(number):
    with Flow(f"flow-{number}") as flow:
        begin = flow.add(first.call(number))
        ones = [flow.add(one.call(), after=begin, stage="s") for one in (work, work, add)]
        shakes = flow.add(shaky.call(number % 10 == 0), after=begin)
        joins = flow.add(join.call(begin.result, number), after="s")
        last = flow.add(work.call(), after=[joins, shakes])
        finale = flow.add(work.call(), after=flow.all)
        ids = " ".join(member.id for member in (begin, *ones, shakes, joins, last, finale))
        os.write(FLOWS, f"attempt {flow.id} {ids}\\n".encode())
    os.write(FLOWS, f"ack {flow.id}\\n".encode())

for number in range(int(sys.argv[1])):
    try:
        send(number)
    except JobsError as error:
        print(error, file=sys.stderr)
'''

MEMBERS = 10
RETRY = 1.0
"""Seconds between two looks for flows that have failed."""

ACTS: tuple[Act, ...] = (*ROUND, *map(with_failpoints, FAIL_POINTS))


class Sending:
    """A process that sends flows, with the part of `Producing` that a stage needs."""

    def __init__(self, stage: FlowStage, count: int) -> None:
        self.count = count
        self.errors: list[Exception] = []
        self._stage = stage
        self._process: Process

    def __enter__(self) -> Sending:
        project = self._stage.project
        (project.root / "sender.py").write_text(SENDER)
        self._process = project.start_python("sender.py", str(self.count // MEMBERS))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()

    @property
    def sent(self) -> int:
        return MEMBERS * self._stage.flows_text().count("attempt ")

    def join(self, timeout: float = 120.0) -> None:
        """Wait until everything has been sent, as long as anything is."""
        last, since = self.sent, time.monotonic()
        while self._process.alive():
            self._stage.tend()
            if (now := self.sent) != last:
                last, since = now, time.monotonic()
            assert time.monotonic() < since + timeout, f"the sender hangs after {last} jobs: {self._process.output}"
            time.sleep(0.2)  # between looks at another process
        assert self._process.wait() == 0, self._process.output


class FlowStage(Supervision):
    """Flows of ten members, whose dead letters are retried as soon as a look finds them."""

    tasks = TASKS
    next_retry = 0.0
    producer: Sending  # type: ignore[assignment]  # what a stage needs of it

    def producing(self, count: int, batch: int) -> Sending:  # type: ignore[override]
        return Sending(self, count)

    def flows_text(self) -> str:
        path = self.project.root.parent / "flows"
        return path.read_text() if path.exists() else ""

    def tend(self) -> None:
        """Retry the dead members of flows, as an operator would."""
        now = time.monotonic()
        if now >= self.next_retry:
            self.next_retry = now + RETRY
            with contextlib.suppress(BackendUnavailable):
                self.app.operate(_retry_failed)

    def check(self) -> None:
        told = [line.split(" ") for line in self.flows_text().splitlines()]
        acknowledged = {words[1] for words in told if words[0] == "ack"}
        added = {record[1]: record[4:] for record in self.ledger.records() if record[0] == "added"}
        runs: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs():
            runs[run.id].append(run)
        problems: list[str] = []
        self.tallied = _Counts()
        for _, flow, *members in (words for words in told if words[0] == "attempt"):
            status = self.app.operate(lambda backend, flow=flow: backend.flow(flow))
            known = flow in acknowledged or status is not None
            if known:
                problems += [f"flow {flow}: {what}" for what in _problems(members, added, runs, status)]
            self.tallied.add(members, added, runs, acknowledged=flow in acknowledged)
        assert not problems, f"{len(problems)} problems: {problems[:5]}"

    def run(self, trouble: Callable[[Stage], None], count: int, *, batch: int = 10, patience: float = 120.0) -> Tally:
        super().run(trouble, count, batch=batch, patience=patience)
        return self.tallied.tally(self.runs())


def _retry_failed(backend: Backend) -> None:
    for flow in backend.flows(100):
        if flow.state != "failed":  # they come first
            return
        backend.retry_flow(flow.id)


# -- what the ledger shows -------------------------------------------------------------------------

Runs = dict[str, list[Run]]
TOLERANCE = 0.001
"""Seconds by which a time in the ledger is rounded."""


def _children(members: list[str], added: dict[str, list[str]], runs: Runs) -> list[str]:
    """Return the members that the adder's settled run added: the others were never in the flow."""
    adder = members[3]
    return [job_id for job_id in added.get(adder, ()) if job_id in runs]


def _problems(members: list[str], added: dict[str, list[str]], runs: Runs, status: FlowStatus | None) -> Iterator[str]:
    """Say what a flow did that it must not do."""
    first, one, another, adder, shaky, join, last, finale = members
    children = _children(members, added, runs)
    everything = [*members, *children]
    if len(children) != 2:
        yield f"{len(children)} of 2 added members ran"
    if lost := [job_id for job_id in everything if not any(run.ended for run in runs.get(job_id, ()))]:
        yield f"{lost} never ran to the end: {status}"
        return
    stage = [one, another, adder, *children]
    waits = {job_id: [first] for job_id in (one, another, adder, shaky)} | {child: [adder] for child in children}
    waits |= {join: stage, last: [join, shaky], finale: [job_id for job_id in everything if job_id != finale]}
    for job_id, targets in waits.items():
        begin = min(run.start for run in runs[job_id])
        for target in targets:
            if begin + TOLERANCE < min(run.end for run in runs[target] if run.ended):
                yield f"{job_id} started before {target}, which it waits for, had ended"
            if max(run.start for run in runs[target]) > begin + TOLERANCE:
                yield f"{target} started again after {job_id}, which waits for it"
    if status is None or status.state != "done" or (status.total, status.done) != (MEMBERS, MEMBERS):
        yield f"its status is {status}"
    elif (status.ended_at or 0.0) + TOLERANCE < min(float(run.facts[0]) for run in runs[finale] if run.ended):
        yield "it ended before its finale was reserved"


class _Counts:
    """The counts of a tally, over flows."""

    def __init__(self) -> None:
        self.attempted: set[str] = set()
        self.acknowledged: set[str] = set()

    def add(self, members: list[str], added: dict[str, list[str]], runs: Runs, *, acknowledged: bool) -> None:
        children = _children(members, added, runs) or [f"{members[3]}/{n}" for n in range(2)]
        self.attempted |= {*members, *children}
        if acknowledged:
            self.acknowledged |= {*members, *children}

    def tally(self, runs: list[Run]) -> Tally:
        ended = {run.id for run in runs if run.ended}
        ours = [run.id for run in runs if run.id in self.attempted]
        return Tally(
            attempted=len(self.attempted),
            acknowledged=len(self.acknowledged),
            ok=len(ended & self.attempted),
            lost=len(self.acknowledged - ended),
            duplicated=len(ours) - len(set(ours)),
            recovered=len((ended & self.attempted) - self.acknowledged),
            unexpected=len(runs) - len(ours),
        )


# -- rows ------------------------------------------------------------------------------------------


def row(set_up: SetUpSupervision) -> Row:
    """Return the row with 100,000 jobs and the defaults of the configuration: an act every 2,000 jobs."""

    @contextlib.contextmanager
    def flows_row(directory: Path, count: int) -> Iterator[tuple[Stage, Callable[[Any], None]]]:
        with set_up(FlowStage, directory, "") as stage:
            yield stage, in_turn(*itertools.islice(itertools.cycle(ACTS), max(len(ACTS), count // 2000)))

    return flows_row


def short_row(set_up: SetUpSupervision) -> Row:
    """Return the row of `make test`: each act once."""

    @contextlib.contextmanager
    def flows_row(directory: Path, count: int) -> Iterator[tuple[Stage, Callable[[Any], None]]]:
        with set_up(FlowStage, directory, SHORT_LEASE) as stage:
            yield stage, in_turn(*ACTS)

    return flows_row
