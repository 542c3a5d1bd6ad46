"""The record of enqueues and runs, kept in files outside the broker, and counted as Jepsen counts a queue.

Producers write `attempt ID` before and `ack ID` after an enqueue; jobs write `start ID` and `end ID`. Every record is
one `write` to a file opened for appending, so that a kill at any moment leaves whole lines. `Ledger.tally` says:

    attempted      enqueues that were tried
    acknowledged   of these, the ones that returned
    ok             attempted jobs that ran to their end
    lost           acknowledged jobs that never did, and are not dead letters: must be 0
    duplicated     runs beyond the first of a job, ended or not
    recovered      jobs that ran although their enqueue was never acknowledged
    unexpected     runs of jobs that no producer attempted to enqueue
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from jobs_core.errors import BackendError

if TYPE_CHECKING:
    from jobs_core import App
    from jobs_core.message import Message

Record: TypeAlias = "list[str]"
"""The words of one line: what, id, and what else the job has to tell."""

TASKS = '''
"""Jobs that keep a ledger; `topic` and everything else is as the producer says."""
import asyncio, os, time
from pathlib import Path
from jobs_core import current_job, job

RUNS = os.open(Path(__file__).parent / "runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def record(what):
    os.write(RUNS, f"{what} {current_job().id}\\n".encode())

@job
def work(seconds: float = 0.0):
    record("start")
    if seconds:
        time.sleep(seconds)
    record("end")

@job
async def awork(seconds: float = 0.0):
    record("start")
    await asyncio.sleep(seconds)
    record("end")
'''
"""The module `tasks` of a project whose jobs are counted: `Project(path, TASKS)`."""


@dataclass(frozen=True)
class Tally:
    """The seven counts; see the module."""

    attempted: int
    acknowledged: int
    ok: int
    lost: int
    duplicated: int
    recovered: int
    unexpected: int

    def __str__(self) -> str:
        return "  ".join(f"{name} {count:,}" for name, count in asdict(self).items())


class Ledger:
    """Both files of one run, in the directory of the `tasks` module."""

    def __init__(self, directory: Path) -> None:
        self._enqueues, self._runs = directory / "enqueues", directory / "runs"
        self._file = os.open(self._enqueues, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._read, self._counted = 0, 0  # bytes of the runs that `runs` has counted, and the ends in them

    def close(self) -> None:
        os.close(self._file)

    def attempted(self, ids: Iterable[str]) -> None:
        """Record ids that are about to be enqueued."""
        os.write(self._file, "".join(f"attempt {job_id}\n" for job_id in ids).encode())

    def acknowledged(self, ids: Iterable[str]) -> None:
        """Record ids whose enqueue has returned."""
        os.write(self._file, "".join(f"ack {job_id}\n" for job_id in ids).encode())

    def ended(self) -> set[str]:
        """Return the ids of jobs that ran to their end."""
        return {job_id for what, job_id, *_ in _records(self._runs) if what == "end"}

    def records(self) -> list[Record]:
        """Return all records of runs."""
        return list(_records(self._runs))

    def runs(self) -> int:
        """Return the number of runs that have ended; cheap enough to be called often."""
        if self._runs.exists():
            with self._runs.open("rb") as runs:
                runs.seek(self._read)
                new = runs.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read += len(whole)
            self._counted += whole.count(b"\nend ") + whole.startswith(b"end ")
        return self._counted

    def running(self) -> int:
        """Return the number of runs that have begun and not ended, including those that a kill ended."""
        text = self._runs.read_bytes() if self._runs.exists() else b""
        return text.count(b"start ") - text.count(b"end ")

    def missing(self, dead: Collection[str] = ()) -> set[str]:
        """Return acknowledged jobs that have not yet run to their end and are not dead letters."""
        acknowledged = {job_id for what, job_id, *_ in _records(self._enqueues) if what == "ack"}
        return acknowledged - self.ended() - set(dead)

    def tally(self, dead: Collection[str] = ()) -> Tally:
        """Return the counts; `dead` are the ids of the dead letters."""
        enqueues = list(_records(self._enqueues))
        attempted = {job_id for what, job_id, *_ in enqueues if what == "attempt"}
        acknowledged = {job_id for what, job_id, *_ in enqueues if what == "ack"}
        starts = Counter(job_id for what, job_id, *_ in _records(self._runs) if what == "start")
        ended = self.ended()
        return Tally(
            attempted=len(attempted),
            acknowledged=len(acknowledged),
            ok=len(ended & attempted),
            lost=len(acknowledged - ended - set(dead)),
            duplicated=sum(times - 1 for job_id, times in starts.items() if job_id in attempted),
            recovered=len((ended & attempted) - acknowledged),
            unexpected=sum(times for job_id, times in starts.items() if job_id not in attempted),
        )


def _records(path: Path) -> Iterable[Record]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield line.split(" ")


class Producing:
    """A thread that enqueues jobs and keeps the ledger, whatever the broker does meanwhile.

    An enqueue that fails is not tried again: it stays attempted and unacknowledged.
    """

    def __init__(
        self,
        app: App,
        ledger: Ledger,
        count: int,
        *,
        batch: int = 10,
        pause: float = 0.0,
        job: str = "work",
        seconds: float = 0.0,
        make: Callable[[int], Message] | None = None,
    ) -> None:
        self.count = count
        self.sent = 0  # attempts so far
        self.errors: list[Exception] = []
        self._app, self._ledger, self._batch, self._pause = app, ledger, batch, pause
        self._job, self._args = f"tasks.{job}", [seconds] if seconds else []
        self._make = make or self._made  # returns the message of a number from 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="producer")

    def __enter__(self) -> Producing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _made(self, number: int) -> Message:
        from jobs_core.message import new_message

        return new_message(self._job, "default", self._args, {})

    def _run(self) -> None:
        while self.sent < self.count and not self._stop.is_set():
            number = min(self._batch, self.count - self.sent)
            messages = [self._make(self.sent + n) for n in range(number)]
            ids = [message.id for message in messages]
            self._ledger.attempted(ids)
            self.sent += number
            try:
                outgoing = [self._app.outgoing(message) for message in messages]
                self._app._producer.push(outgoing, float(self._app.config.enqueue_timeout))
            except BackendError as error:
                self.errors.append(error)
            else:
                self._ledger.acknowledged(ids)
            if self._pause:
                self._stop.wait(self._pause)

    def join(self, timeout: float = 120.0) -> None:
        """Wait until everything has been sent."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"the producer hangs after {self.sent} jobs"

    def stop(self) -> None:
        """Stop enqueuing."""
        self._stop.set()
        with contextlib.suppress(RuntimeError):  # it never started
            self._thread.join()


def until_done(ledger: Ledger, dead: Collection[str] = (), patience: float = 60.0) -> None:
    """Wait until every acknowledged job has run to its end or is dead; give up quietly, so that the tally tells."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and ledger.missing(dead):
        time.sleep(0.05)  # between looks at what other processes write
