"""Notes and history: the progress and log lines of running jobs, and done jobs that are kept for a time.

*Notes* are the progress of a job and its log lines. A worker sends them in batches while the job runs (`Backend.note`), and the
last ones with the settlement (`Settlement.notes`). Notes whose token is stale are dropped. A job keeps its newest MOST_LINES
lines, of at most MOST_BYTES together, over all its runs. Its progress is that of its latest run that reported any. Notes are
deleted with the job.

*A repeated batch* adds no line twice: `Note.first` is the number of lines that this run had sent before those of the note, and
a backend skips lines that it has already stored under the same token. So a worker whose call got no answer can send these lines
again, together with newer ones.

*The timeline* of a job has entries for its newest MOST_RUNS runs. A worker sends the entry of a run with the settlement
(`Settlement.timeline`).

*History.* A job that is settled as done with a timeline entry is kept for `Settlement.result_ttl` seconds, in state DONE, with
its payload, notes and timeline. Its result, if it has one, is kept as long. A topic keeps up to `Retention.done_max` such jobs.
While a job is kept, a push of its id adds nothing, as while a result is stored.

Progress, lines and entries are opaque bytes for a backend; docs/backend-authors.md says what the core writes there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

MOST_LINES: Final = 200
"""Most log lines of one job."""

MOST_BYTES: Final = 65_536
"""Most bytes of the log lines of one job."""

MOST_RUNS: Final = 20
"""Most entries of one job's timeline."""


class Note(Struct, frozen=True):
    """The progress and log lines of one reserved job since its last note."""

    id: str
    token: int | str
    progress: bytes | None = None  # None leaves the stored one as it is
    lines: tuple[bytes, ...] = ()  # oldest first
    first: int = 0  # number of lines that this run had sent before these


class Notes(Struct, frozen=True):
    """The progress and log lines of one job, as a backend keeps them."""

    progress: bytes = b""
    lines: tuple[bytes, ...] = ()  # oldest first


NONE: Final = Notes()


def new_lines(note: Note, seen: int) -> tuple[bytes, ...]:
    """Return the lines of a note that are not stored yet, if `seen` lines of the run have been stored."""
    return note.lines[max(0, seen - note.first) :]


def with_note(kept: Notes, note: Note, seen: int) -> Notes:
    """Return the notes of a job after one more note; `seen` is the number of lines of this run that have been stored."""
    lines = _newest((*kept.lines, *new_lines(note, seen)))
    return Notes(kept.progress if note.progress is None else note.progress, lines)


def seen_after(note: Note, seen: int) -> int:
    """Return the number of lines of the run that have been stored, after a note of it."""
    return max(seen, note.first + len(note.lines))


def _newest(lines: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the newest lines that a job may keep."""
    size = kept = 0
    for line in reversed(lines[-MOST_LINES:]):
        size += len(line)
        if size > MOST_BYTES:
            break
        kept += 1
    return tuple(lines[len(lines) - kept :])
