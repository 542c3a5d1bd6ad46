"""Write a worker's own scoreboard: memory writes, without a system call per job.

A worker without a supervisor has none, and uses `NOWHERE` instead.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import time
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from . import layout
from .layout import (
    BUCKETS,
    ENDED,
    ENTRIES,
    ENTRY,
    ENTRY_SIZE,
    EXEMPLAR,
    FREE,
    LONGEST,
    MOST_SECONDS,
    NAMED,
    OP_BUCKETS,
    OPS,
    OUTCOMES,
    ROW_FIGURES,
    ROW_NAMES,
    ROW_SIZE,
    ROWS,
    RUNNING,
    UNRUN,
    Phase,
)

if TYPE_CHECKING:
    from ..runs.run import Run

_COUNTERS = struct.Struct("<QQQ")
_BEAT = struct.Struct("<d")
_TOO_FAST = len(OUTCOMES) + 2 + 2 * (len(BUCKETS) + 1)
_FIGURES = _TOO_FAST + 1
EXAMPLE_LASTS = 60.0
"""Seconds after which a faster run with a trace replaces a slower one as the example of its job."""
_RUN_SUM, _WAIT_SUM = len(OUTCOMES), len(OUTCOMES) + 1
_RUN_BUCKETS = len(OUTCOMES) + 2
_WAIT_BUCKETS = _RUN_BUCKETS + len(BUCKETS) + 1


_Row: TypeAlias = "tuple[int, list[float], list[float]]"
"""Number, figures, and longest run and wait of this minute, with a 1 behind them if these are to be shown."""


class Scoreboard:
    """The state that a worker publishes.

    Executors call `begin` and `end`, on any thread; the courier calls all other methods.
    """

    def begin(self, run: Run) -> None:
        """Record that a run starts; `run.started` is set."""

    def end(self, run: Run) -> None:
        """Record that a run has ended. Until it is settled it counts as started: it is charged if the worker dies."""

    def settled(self, endings: Iterable[tuple[object, Run | None]]) -> None:
        """Record that the runs of these settlements are settled, or are no longer ours."""

    def beat(self, done: int, failed: int, in_flight: int) -> None:
        """Record that the courier has completed a turn."""

    def note(self, run: Run, outcome: str) -> None:
        """Count a run that ended, by outcome; shown with the next `publish`."""

    def note_too_fast(self, run: Run) -> None:
        """Count a run, noted before, that was faster than its job's `min_time`."""

    def note_unrun(self, topic: str, outcome: str) -> None:
        """Count a job that ended without a run (unreadable, expired, or many workers died with it); shown like `note`."""

    def note_call(self, op: str, seconds: float) -> None:
        """Count a call to the backend, one of OPS. Its own thread may call it for "push"; shown with the next `beat`."""

    def publish(self) -> None:
        """Make the counts since the last call visible to readers."""

    def phase(self, phase: Phase) -> None:
        """Record that the worker enters another phase of its life."""

    def reach(self, reached: bool) -> None:
        """Record whether the backend answers."""

    def owner(self, owner: str) -> None:
        """Record that the worker continues under another owner id."""

    def close(self) -> None:
        """Unmap the file, which the housekeeper later reads and removes."""


NOWHERE = Scoreboard()
"""For a worker without a supervisor."""


class FileScoreboard(Scoreboard):
    """A scoreboard in a file. Raises OSError if the disk has no room for it."""

    def __init__(self, path: Path, *, owner: str, pool: str, generation: int, mode: str, slots: int) -> None:
        size = layout.size(slots)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError as error:
                os.unlink(path)
                raise OSError(error.errno or errno.ENOSPC, f"no room for the scoreboard ({size:,} bytes)", str(path)) from None
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._shared = layout.entries(slots) - 1
        self._free = list(range(self._shared - 1, -1, -1))  # a stack: few pages are touched if few jobs run
        self._rows: dict[tuple[str, str], _Row] = {}
        self._changed: set[tuple[str, str]] = set()
        self._calls: dict[str, list[float]] = {op: [0] * _FIGURES for op in OPS}
        self._called: set[str] = set()
        self._example_until: dict[tuple[str, str], tuple[float, float]] = {}  # when and what a faster run may replace
        self._longest_at = 0  # where in a row the longest run of this minute is
        self._minute_ends = 0.0
        self._begin_minute(time.monotonic())
        layout.HEADER.pack_into(
            self._map, 0, layout.MAGIC, os.getpid(), generation, slots, Phase.STARTING, layout.MODES.index(mode), 1,
            time.time(), time.monotonic(), 0, 0, 0, start_ticks(os.getpid()), 0,
            layout.clipped(pool, 48), layout.clipped(owner, 96),
        )  # fmt: skip

    def begin(self, run: Run) -> None:
        try:
            slot = self._free.pop()
        except IndexError:
            slot = self._shared
        run.slot = slot
        offset = ENTRIES + slot * ENTRY_SIZE
        started = run.started
        ENTRY.pack_into(
            self._map,
            offset + 1,
            run.delivery.redeliveries,
            started,
            started + run.timeout if run.timeout else 0.0,
            run.delivery.id.encode()[:128],
            run.job.name.encode()[:64],
            run.delivery.topic.encode()[:64],
        )
        self._map[offset] = RUNNING

    def end(self, run: Run) -> None:
        slot = run.slot
        if slot >= 0:  # else it was freed meanwhile: this process is about to end
            self._map[ENTRIES + slot * ENTRY_SIZE] = ENDED

    def settled(self, endings: Iterable[tuple[object, Run | None]]) -> None:
        board, free, shared = self._map, self._free, self._shared
        for _, run in endings:
            if run is not None and run.slot >= 0:
                slot, run.slot = run.slot, -1
                board[ENTRIES + slot * ENTRY_SIZE] = FREE
                if slot != shared:
                    free.append(slot)

    def beat(self, done: int, failed: int, in_flight: int) -> None:
        now = time.monotonic()
        if now >= self._minute_ends:
            self._begin_minute(now)
        _BEAT.pack_into(self._map, layout.BEAT, now)
        _COUNTERS.pack_into(self._map, layout.COUNTERS, done, failed, in_flight)
        while self._called:
            op = self._called.pop()
            offset = layout.HEADER_SIZE + (NAMED + OPS.index(op)) * ROW_SIZE
            ROW_NAMES.pack_into(self._map, offset, b"", op.encode())
            ROW_FIGURES.pack_into(self._map, offset + ROW_NAMES.size, *self._calls[op])

    def note_call(self, op: str, seconds: float) -> None:
        figures = self._calls[op]
        figures[_RUN_SUM] += seconds
        figures[_RUN_BUCKETS + bisect_left(OP_BUCKETS, seconds)] += 1
        self._called.add(op)

    def note(self, run: Run, outcome: str) -> None:
        _, figures, longest = self._count(run.delivery.topic, run.job.name, outcome)
        if run.started:
            seconds = run.ended - run.started
            figures[_RUN_SUM] += seconds
            figures[_RUN_BUCKETS + bisect_left(BUCKETS, seconds)] += 1
            if seconds > longest[0]:
                longest[0], longest[2] = seconds, 1
            if run.trace:
                self._show_example(run, seconds)
            delivery = run.delivery
            if not delivery.attempt and not delivery.redeliveries and not delivery.deferrals:
                waited = max(0.0, delivery.broker_now - delivery.pushed_at - (run.message.delay or 0.0))
                figures[_WAIT_SUM] += waited
                figures[_WAIT_BUCKETS + bisect_left(BUCKETS, waited)] += 1
                if waited > longest[1]:
                    longest[1], longest[2] = waited, 1

    def _show_example(self, run: Run, seconds: float) -> None:
        """Let the trace of a run stand for its job, if it is the slowest one of the last minute."""
        key, now = (run.delivery.topic, run.job.name), time.monotonic()
        until, slowest = self._example_until.get(key, (0.0, 0.0))
        number = self._rows[key][0]
        if number == ROWS - 1 or (seconds < slowest and now < until):
            return
        self._example_until[key] = now + EXAMPLE_LASTS, seconds
        offset = layout.HEADER_SIZE + number * ROW_SIZE + ROW_NAMES.size + ROW_FIGURES.size
        EXEMPLAR.pack_into(self._map, offset, run.trace, seconds)

    def note_too_fast(self, run: Run) -> None:
        self._rows[run.delivery.topic, run.job.name][1][_TOO_FAST] += 1

    def note_unrun(self, topic: str, outcome: str) -> None:
        self._count(topic, UNRUN, outcome)

    def _count(self, topic: str, job: str, outcome: str) -> _Row:
        """Count one more in the row of a topic and job; return the row."""
        key = (topic, job)
        row = self._rows.get(key)
        if row is None:
            row = self._new_row(key)
        row[1][OUTCOMES.index(outcome)] += 1
        self._changed.add(key)
        return row

    def _new_row(self, key: tuple[str, str]) -> _Row:
        """Return a row for a topic and job; those that do not fit into the table share the last one, without names."""
        number = len(self._rows)
        if number > NAMED:
            self._rows[key] = next(row for row in self._rows.values() if row[0] == ROWS - 1)
            return self._rows[key]
        names = key
        if number == NAMED:
            number, names = ROWS - 1, ("", "")
        offset = layout.HEADER_SIZE + number * ROW_SIZE
        ROW_NAMES.pack_into(self._map, offset, layout.clipped(names[0], 96), layout.clipped(names[1], 200))
        row = self._rows[key] = number, [0] * _FIGURES, [0, 0, 0]
        return row

    def publish(self) -> None:
        for key in self._changed:
            number, figures, longest = self._rows[key]
            offset = layout.HEADER_SIZE + number * ROW_SIZE
            ROW_FIGURES.pack_into(self._map, offset + ROW_NAMES.size, *figures)
            if longest[2]:
                longest[2] = 0
                seconds = min(longest[0], MOST_SECONDS), min(longest[1], MOST_SECONDS)
                LONGEST.pack_into(self._map, offset + self._longest_at, *seconds)
        self._changed.clear()

    def _begin_minute(self, now: float) -> None:
        """Forget the longest runs of the minute before last; those of the last minute stay in the file for its reader."""
        clock = time.time()
        self._minute_ends = now + 60.0 - clock % 60.0
        self._longest_at = ROW_NAMES.size + ROW_FIGURES.size + EXEMPLAR.size + LONGEST.size * (int(clock) // 60 % 2)
        for number, _, longest in self._rows.values():
            longest[:] = 0, 0, 0
            LONGEST.pack_into(self._map, layout.HEADER_SIZE + number * ROW_SIZE + self._longest_at, 0.0, 0.0)

    def phase(self, phase: Phase) -> None:
        self._map[layout.PHASE] = phase

    def reach(self, reached: bool) -> None:
        before, after = (Phase.OFFLINE, Phase.SERVING) if reached else (Phase.SERVING, Phase.OFFLINE)
        if self._map[layout.PHASE] == before:  # else it is about to end, or takes no new jobs
            self._map[layout.PHASE] = after

    def owner(self, owner: str) -> None:
        self._map[layout.OWNER : layout.OWNER + 96] = layout.clipped(owner, 96).ljust(96, b"\0")

    def close(self) -> None:
        self._map.close()


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if it does not exist.

    Together with the process id, this identifies a process even after the id is reused. A process that has ended and only
    waits to be reaped (a zombie) does not count: in a container it may never be reaped.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0
