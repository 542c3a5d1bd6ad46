"""What running jobs tell about themselves, on its way to the backend: `current_job().progress()` and `.log()`.

A run that tells nothing has nothing here. The notes of a run that does are `RunNotes`, which any of its threads may add to; the
worker's `Notebook` knows all of them, and the courier takes what is new twice a second at most. Progress and lines are JSON
documents: `{"at": …, "done": 3, "total": 10, "text": "…"}` and `{"at": …, "level": "info", "text": "…"}`. They are encrypted if
the arguments of the job are.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from .. import boundary
from ..backends.notes import MOST_LINES, Note
from ..units import shown
from .outcome import broker_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .run import Ending, Run

INTERVAL: Final = 0.5
"""Shortest time between two calls that store notes, in seconds."""

LONGEST_TEXT: Final = 2000
"""Most characters of a line and of the text of a progress; what is longer loses its end."""

NEVER: Final = float("inf")

_EXACT = 2**53  # the largest int up to which floats have all

logger = logging.getLogger("jobs.worker")


class RunNotes:
    """What one run has told. Any thread of the job may tell something; the courier alone takes it."""

    __slots__ = ("_lines", "_pack", "_progress", "_sent", "_taken", "run")

    def __init__(self, run: Run, pack: Callable[[str, bytes], bytes] | None) -> None:
        self.run: Run = run
        self._pack = pack
        self._progress: bytes | None = None
        self._lines: deque[bytes] = deque(maxlen=MOST_LINES)  # older ones would not be kept anyway
        self._taken: Note | None = None  # not answered yet
        self._sent = 0  # lines that the backend has stored

    def tell_progress(self, done: float | None, total: float | None, text: str) -> None:
        facts = {"at": broker_time(self.run), "done": done, "total": total, "text": boundary.storable(text, LONGEST_TEXT)}
        self._progress = self._packed({key: value for key, value in facts.items() if value not in (None, "")})

    def tell_line(self, level: str, text: str) -> None:
        line = {"at": broker_time(self.run), "level": level, "text": boundary.storable(text, LONGEST_TEXT)}
        self._lines.append(self._packed(line))

    def _packed(self, facts: Mapping[str, object]) -> bytes:
        document = msgspec.json.encode(facts)
        return document if self._pack is None else self._pack(self.run.delivery.id, document)

    def take(self) -> Note | None:
        """Return what is not stored yet; None if there is nothing. A note without an answer is part of the next one."""
        progress, self._progress = self._progress, None
        lines = [] if self._taken is None else [*self._taken.lines]
        while self._lines:
            lines.append(self._lines.popleft())
        if progress is None and self._taken is not None:
            progress = self._taken.progress
        if progress is None and not lines:
            return None
        first = self._sent + max(0, len(lines) - MOST_LINES)
        delivery = self.run.delivery
        self._sent = first
        self._taken = Note(delivery.id, delivery.token, progress, tuple(lines[-MOST_LINES:]), first)
        return self._taken

    def stored(self) -> None:
        """Note that the backend has stored what `take` returned."""
        if self._taken is not None:
            self._sent += len(self._taken.lines)
            self._taken = None


class Notebook:
    """The notes of one worker's runs. `of` and `told` are called by jobs, all else by the courier.

    `due` is the monotonic time at which the courier has to look for new notes; `wake` wakes the courier.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.due: float = NEVER
        self.runs: dict[str, RunNotes] = {}  # by job id
        self.fails = False  # whether the backend refused the last ones
        self._wake = wake
        self._next = 0.0
        self._taken: list[RunNotes] = []

    def of(self, run: Run) -> RunNotes:
        """Return the notes of a run. Called by jobs, which then call `told`."""
        notes = self.runs.get(run.delivery.id)
        if notes is None or notes.run is not run:
            notes = self.runs[run.delivery.id] = RunNotes(run, run.policy.pack_note)
        return notes

    def told(self) -> None:
        """Have the courier look at the notes. Called by jobs that have told something."""
        if self.due == NEVER:
            self.due = self._next
            self._wake()

    def take(self, now: float) -> list[Note]:
        """Return what is new, and forget runs that have ended: their settlements have brought the rest."""
        self.due, self._next = NEVER, now + INTERVAL  # first: what is told from here on sets it again
        self._taken, found = [], []
        for job_id, notes in self.runs.copy().items():
            ended = notes.run.ended
            note = notes.take()
            if note is not None:
                found.append(note)
                self._taken.append(notes)
            if ended:
                self.runs.pop(job_id, None)
        return found

    def stored(self) -> None:
        """Note that the backend has stored what `take` returned."""
        for notes in self._taken:
            notes.stored()
        self._taken = []

    def failed(self, now: float) -> None:
        """Try again later: the call that `take` was for has failed."""
        self.due = self._next = now + INTERVAL

    def forget(self, run: Run) -> None:
        """Forget a run whose reservation is lost: its notes would be dropped."""
        notes = self.runs.get(run.delivery.id)
        if notes is not None and notes.run is run:
            del self.runs[run.delivery.id]

    def with_notes(self, endings: Sequence[Ending]) -> list[Ending]:
        """Return settlements with the last notes of their runs."""
        return [self._with_notes(ending) for ending in endings]

    def _with_notes(self, ending: Ending) -> Ending:
        settlement, run = ending
        notes = self.runs.get(settlement.id)
        if notes is None or notes.run is not run or not run.ended:
            return ending
        del self.runs[settlement.id]
        note = notes.take()
        return ending if note is None else (replace(settlement, notes=note), run)


_told_lost = False


def notebook_of(run: Run) -> Notebook | None:
    """Return where a run tells about itself; None, with a warning once a process, if nothing can keep it."""
    notebook = None if run.stop_flag is None else run.stop_flag.notebook
    if notebook is not None and run.policy.acks != "early":
        return notebook
    global _told_lost
    if not _told_lost and run.stop_flag is not None:
        _told_lost = True
        reason = 'a job with acks="early" has left the backend before it runs' if notebook else "the backend keeps none"
        text = "%s tells its progress or log lines, which are not kept: %s"
        boundary.log(logger, logging.WARNING, text, run.job.name, reason)
    return None


def tell_progress(run: Run, done: float, total: float | None, text: str) -> None:
    """Note the progress of a run; see `JobContext.progress`."""
    for name, value in (("done", done), ("total", total)):
        if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= sys.float_info.max):
            raise ValueError(f"progress: {name}: expected a number from 0, got {shown(value)}")
    _require_running(run)
    notebook = notebook_of(run)
    if notebook is not None:
        notebook.of(run).tell_progress(_plain(done), _plain(total), str(text))
        notebook.told()


def _plain(value: float | None) -> float | None:
    """Return a number that every reader of JSON can read: neither True, nor that of a library, nor an int of 300 digits."""
    if value is None:
        return None
    return int(value) if isinstance(value, int) and value <= _EXACT else float(value)


def tell_line(run: Run, level: str, text: str) -> None:
    """Keep a log line with a running job; see `JobContext.log`."""
    _require_running(run)
    notebook = notebook_of(run)
    if notebook is not None:
        notebook.of(run).tell_line(level, str(text))
        notebook.told()


def _require_running(run: Run) -> None:
    if run.ended:
        raise RuntimeError(
            f"{run.job.name} {run.delivery.id} has ended: its last notes are sent with its acknowledgement, which has already "
            "happened. Wait for your threads before the job ends"
        )
