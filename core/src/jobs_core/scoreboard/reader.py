"""Read scoreboard files: the running jobs of each worker, and its figures so far."""

from __future__ import annotations

import mmap
import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct, field

from . import layout
from .layout import (
    BUCKETS,
    ENDED,
    ENTRIES,
    ENTRY,
    ENTRY_SIZE,
    EXEMPLAR,
    LONGEST,
    NAMED,
    OP_BUCKETS,
    OPS,
    OUTCOMES,
    ROW_FIGURES,
    ROW_NAMES,
    ROW_SIZE,
    ROWS,
    RUNNING,
    Phase,
)
from .writer import start_ticks


class RunEntry(Struct, frozen=True):
    """One running job. Times are this machine's monotonic seconds; `deadline` is 0 for none."""

    slot: int
    id: str
    job: str
    topic: str
    started: float
    deadline: float
    redeliveries: int = 0  # earlier deaths of a worker that ran it

    def seconds(self, now: float | None = None) -> float:
        """Return how long it has been running."""
        return (time.monotonic() if now is None else now) - self.started


class JobFigures(Struct):
    """Figures of one job in one topic: runs by outcome, seconds run and waited, and a histogram of both (not cumulative)."""

    topic: str
    job: str
    outcomes: dict[str, int]
    run_seconds: float
    wait_seconds: float
    run_buckets: list[int]
    wait_buckets: list[int]
    too_fast: int = 0  # runs that succeeded sooner than their `min_time`
    examples: dict[str, float] = {}  # trace ids of slow runs of living workers, with their seconds
    longest: tuple[tuple[float, float], ...] = ()  # of living workers: longest run and wait, of the last even and odd minute

    def add(self, other: JobFigures) -> None:
        """Add another worker's figures of the same job."""
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + count
        self.too_fast += other.too_fast
        self.examples |= other.examples
        self.longest = _longest(self.longest, other.longest)
        self.run_seconds += other.run_seconds
        self.wait_seconds += other.wait_seconds
        self.run_buckets = [mine + its for mine, its in zip(self.run_buckets, other.run_buckets, strict=True)]
        self.wait_buckets = [mine + its for mine, its in zip(self.wait_buckets, other.wait_buckets, strict=True)]


class OpFigures(Struct):
    """The durations of one kind of call to the backend: their sum in seconds, and a histogram of OP_BUCKETS, not cumulative."""

    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))

    def note(self, seconds: float) -> None:
        """Count a call."""
        self.seconds += seconds
        self.buckets[bisect_left(OP_BUCKETS, seconds)] += 1

    def add(self, other: OpFigures) -> None:
        """Add the calls of another process."""
        self.seconds += other.seconds
        self.buckets = [mine + its for mine, its in zip(self.buckets, other.buckets, strict=True)]


class WorkerHeader(Struct, frozen=True):
    """A worker's identity and progress."""

    pid: int
    generation: int
    slots: int
    phase: Phase
    mode: str
    charge: bool
    started_at: float
    beat: float
    done: int
    failed: int
    in_flight: int
    start_ticks: int
    pool: str
    owner: str


class WorkerFile:
    """One worker's file, mapped; reading costs no system call. Raises OSError, and ValueError if it is not a scoreboard."""

    def __init__(self, path: Path) -> None:
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_size < ENTRIES:
                raise ValueError(f"{path} is not a scoreboard, or not yet one")
            self._map = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        if self._map[: len(layout.MAGIC)] != layout.MAGIC:
            self._map.close()
            raise ValueError(f"{path} is not a scoreboard, or of another version")

    def header(self) -> WorkerHeader:
        fields = layout.HEADER.unpack_from(self._map)
        _, pid, generation, slots, phase, mode, charge, started_at, beat, done, failed, in_flight, ticks, _, pool, owner = (
            fields
        )
        return WorkerHeader(
            pid, generation, slots, Phase(phase), layout.MODES[mode], bool(charge), started_at, beat, done, failed, in_flight,
            ticks, _text(pool), _text(owner),
        )  # fmt: skip

    def running(self) -> int:
        """Count the running jobs."""
        return self._map[ENTRIES::ENTRY_SIZE].count(RUNNING)

    def entries(self) -> Iterator[RunEntry]:
        """Yield the running jobs."""
        return self._in_state(RUNNING)

    def unsettled(self) -> Iterator[RunEntry]:
        """Yield the jobs that have started and are not settled: running ones, then ended ones."""
        yield from self._in_state(RUNNING)
        yield from self._in_state(ENDED)

    def _in_state(self, state: int) -> Iterator[RunEntry]:
        states = self._map[ENTRIES::ENTRY_SIZE]
        slot = states.find(state)
        while slot >= 0:
            redeliveries, started, deadline, job_id, job, topic = ENTRY.unpack_from(self._map, ENTRIES + slot * ENTRY_SIZE + 1)
            yield RunEntry(slot, _text(job_id), _text(job), _text(topic), started, deadline, redeliveries)
            slot = states.find(state, slot + 1)

    def figures(self) -> Iterator[JobFigures]:
        """Yield the figures of all runs in this worker so far."""
        count = len(BUCKETS) + 1
        for number in range(ROWS):
            offset = layout.HEADER_SIZE + number * ROW_SIZE
            topic, job = ROW_NAMES.unpack_from(self._map, offset)
            values = ROW_FIGURES.unpack_from(self._map, offset + ROW_NAMES.size)
            outcomes = dict(zip(OUTCOMES, values, strict=False))
            if not any(outcomes.values()):
                continue
            rest = values[len(OUTCOMES) :]
            buckets = list(rest[2:-1])
            trace, seconds = EXEMPLAR.unpack_from(self._map, offset + ROW_NAMES.size + ROW_FIGURES.size)
            examples = {trace.hex(): seconds} if any(trace) else {}
            longest_at = offset + ROW_NAMES.size + ROW_FIGURES.size + EXEMPLAR.size
            longest = tuple(LONGEST.unpack_from(self._map, longest_at + LONGEST.size * minute) for minute in (0, 1))
            yield JobFigures(
                _text(topic),
                _text(job),
                outcomes,
                rest[0],
                rest[1],
                buckets[:count],
                buckets[count:],
                rest[-1],
                examples,
                longest,
            )

    def ops(self) -> dict[str, OpFigures]:
        """Return the durations of calls to the backend by kind; empty if the worker runs older code."""
        found = {}
        for number, name in enumerate(OPS, NAMED):
            offset = layout.HEADER_SIZE + number * ROW_SIZE
            values = ROW_FIGURES.unpack_from(self._map, offset + ROW_NAMES.size)
            buckets = list(values[len(OUTCOMES) + 2 : len(OUTCOMES) + 3 + len(BUCKETS)])
            if any(buckets) and not any(values[: len(OUTCOMES)]):  # else it is the row of a job, of older code
                found[name] = OpFigures(values[len(OUTCOMES)], buckets)
        return found

    def spare(self) -> None:
        """Mark the worker as killed by us: the jobs that it ran are not charged for its death."""
        self._map[layout.CHARGE] = 0

    def close(self) -> None:
        self._map.close()


def total(rows: Iterable[JobFigures]) -> dict[tuple[str, str], JobFigures]:
    """Sum up figures by topic and job. The given objects are not changed."""
    summed: dict[tuple[str, str], JobFigures] = {}
    for row in rows:
        key = (row.topic, row.job)
        if key not in summed:
            summed[key] = JobFigures(row.topic, row.job, {}, 0.0, 0.0, [0] * (len(BUCKETS) + 1), [0] * (len(BUCKETS) + 1))
        summed[key].add(row)
    return summed


def _longest(mine: tuple[tuple[float, float], ...], others: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    if not (mine and others):
        return mine or others
    return tuple((max(a[0], b[0]), max(a[1], b[1])) for a, b in zip(mine, others, strict=True))


def add_ops(into: dict[str, OpFigures], more: Mapping[str, OpFigures]) -> None:
    """Add durations of calls, by kind; those in `more` are not changed."""
    for op, figures in more.items():
        into.setdefault(op, OpFigures()).add(figures)


def alive(header: WorkerHeader) -> bool:
    """Return whether the process that wrote the file still exists (and not another process with the same id)."""
    return header.start_ticks != 0 and start_ticks(header.pid) == header.start_ticks


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
