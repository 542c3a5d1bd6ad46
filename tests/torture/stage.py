"""The stage of a row: a project whose jobs keep a ledger, workers that serve it, a producer, and a fault."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from jobs_core import App
from jobs_core.backends.base import JobRecord, State
from jobs_core.errors import BackendUnavailable
from jobs_core.message import Message

from ..support.ledger import TASKS, Ledger, Producing, Tally, until_done
from ..support.project import Process, Project, until
from ..support.proxy import Proxy

WORKERS = 2
LEASE = 1.5
SHORTEST = 2.0
"""Seconds over which the jobs of even the shortest run are enqueued, so that the fault finds some under way."""


class Stage:
    """One run. A fault is a function of the stage; it waits for `under_load` and does its worst."""

    proxy: Proxy
    """The proxy to the broker, in rows that have one."""

    make: Callable[[int], Message] | None = None
    """Returns the message of a number, in rows whose jobs are not all alike."""

    _reader: App | None = None

    def __init__(
        self,
        directory: Path,
        url: str,
        *,
        toml: str = "",
        workers: int = WORKERS,
        options: Sequence[str] = (),
        job: str = "work",
        seconds: float = 0.0,
    ) -> None:
        self.project = Project(directory, TASKS)
        self.project.configure(f'lease = "{LEASE:g}s"\nenqueue_timeout = "30s"\n{toml}', backend=f'backend = "{url}"')
        self.ledger = Ledger(directory)
        self._count, self._options = workers, options  # of `jobsctl worker`
        self._job, self._seconds = job, seconds
        self.workers: list[Process] = []
        self.producer: Producing
        self.recovered = 0.0
        """Seconds from the end of the fault to the next finished job."""

    def __enter__(self) -> Stage:
        self.workers = [self.project.worker(*self._options) for _ in range(self._count)]
        return self

    def __exit__(self, *_: object) -> None:
        self.project.close()
        self.ledger.close()

    def run(self, trouble: Callable[[Stage], None], count: int, *, batch: int = 10, patience: float = 120.0) -> Tally:
        """Enqueue `count` jobs over two seconds at least, cause the fault meanwhile, wait until all is done, and count."""
        pause = SHORTEST / (count / batch)
        kind = {"job": self._job, "seconds": self._seconds, "make": self.make}
        with Producing(self.project.app(), self.ledger, count, batch=batch, pause=pause, **kind) as self.producer:  # type: ignore[arg-type]
            trouble(self)
            before, begin = self.ledger.runs(), time.monotonic()
            if self.ledger.missing() or self.producer.sent < count:
                until(lambda: self.ledger.runs() > before or not self.ledger.missing(), patience)
            self.recovered = time.monotonic() - begin
            self.producer.join(patience)
        until_done(self.ledger, self.dead(), patience)
        for worker in self.workers:
            worker.stop()
        return self.ledger.tally(self.dead())

    def under_load(self, share: float = 0.25) -> None:
        """Wait until a share of the jobs has been sent, and some have run."""
        wanted = share * self.producer.count
        self._while_it_moves(lambda: self.producer.sent >= wanted and self.ledger.runs() > 0, 120.0)

    def until_running(self, jobs: int) -> None:
        """Wait until this many jobs run at once, or all have run."""
        until(lambda: self.ledger.running() >= jobs or self.finished(), 120.0)

    def told(self) -> list[int]:
        """Return how many lines each worker has printed, for `until_told`: call it before the event begins."""
        return [len(worker.lines) for worker in self.workers]

    def until_told(self, text: str, told: Sequence[int]) -> None:
        """Wait until a worker prints something that it had not printed when `told` was called, or all jobs are done."""
        try:
            until(
                lambda: (
                    any(text in line for n, worker in enumerate(self.workers) for line in worker.lines[told[n] :])
                    or self.finished()
                )
            )
        except AssertionError as error:
            said = "\n".join(line for worker in self.workers for line in worker.lines[-8:])
            raise AssertionError(f"no worker said {text!r}; what each said last:\n{said}") from error

    def until_reached(self) -> None:
        """Wait until every worker that has lost the backend has reported that it is reachable again."""

        def reached(worker: Process) -> bool:
            said = [line for line in worker.lines if "retrying until it answers" in line or "answers again after" in line]
            return not said or "answers again after" in said[-1]

        until(lambda: all(map(reached, self.workers)), 60.0)

    def progress(self, jobs: int = 1) -> None:
        """Wait until this many more jobs have run, or none is left to run."""
        before = self.ledger.runs()
        self._while_it_moves(lambda: self.ledger.runs() >= before + jobs or self.finished(), 60.0)

    def _while_it_moves(self, condition: Callable[[], bool], patience: float) -> None:
        """Wait until a condition holds; fail once nothing has been sent and no run has ended for `patience` seconds."""
        while True:
            before = self.producer.sent, self.ledger.runs()
            try:
                until(condition, patience)
                return
            except AssertionError:
                if (self.producer.sent, self.ledger.runs()) == before:
                    raise

    def finished(self) -> bool:
        return self.producer.sent >= self.producer.count and not self.ledger.missing()

    def dead(self) -> set[str]:
        app = self._reader = self._reader or self.project.app()  # each keeps a connection, and rows ask many times a second

        def browse() -> list[JobRecord] | None:
            try:
                return app.operate(lambda backend: backend.browse("default", State.DEAD, 100_000))
            except BackendUnavailable:  # the fault may take a while to pass
                return None

        until(lambda: browse() is not None)
        return {record.id for record in browse() or ()}

    def replace(self, worker: Process) -> None:
        """Start a new worker in place of one that died."""
        self.workers.remove(worker)
        self.workers.append(self.project.worker(*self._options))


SetUp = AbstractContextManager[tuple[Any, Callable[[Any], None]]]
"""A stage, and the fault that suits this kind of stage."""

Row = Callable[[Path, int], SetUp]
"""A row: set up in a directory, for a number of jobs."""


def endure(row: Row, directory: Path, count: int, *, patience: float = 120.0) -> tuple[Any, Tally]:
    """Run the row, for tests: nothing may be lost, and no job run that was not sent. Return the stage and its tally."""
    with row(directory, count) as (stage, trouble):
        tally = stage.run(trouble, count, patience=patience)
        print(tally, *(worker.output for worker in stage.workers), sep="\n")  # for readers of the failure
        assert tally.attempted == count
        assert (tally.lost, tally.unexpected) == (0, 0), str(tally)
        return stage, tally
