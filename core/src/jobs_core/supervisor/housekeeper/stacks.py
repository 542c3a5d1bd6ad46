"""Send the stacks that a command has asked for to the backend, so that they can be read on other machines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from ...backends.base import Backend
from ...backends.documents import LARGEST
from ...ids import new_token
from ...machines import STACKS, STACKS_KEPT, StacksReport, WorkerStacks
from ...scoreboard.reader import WorkerFile
from ...scoreboard.state import STACKS as SUFFIX
from ...scoreboard.state import worker_files
from ...worker.stacks import END

PATIENCE: Final = 1.0
"""Seconds that the main threads of workers have to answer."""

LEAST: Final = 2000
"""Bytes of the stacks of one worker that are kept at least, if there are many workers."""

ROOM: Final = LARGEST * 7 // 8
"""Bytes of the stacks of all workers; the rest is for what else a report says."""

MOST_ASKED: Final = 20
"""Commands that are under way at once."""

MOST_NAMED: Final = 3
"""Running jobs that are named of each worker."""


class _Asked(Struct):
    """A command to take stacks."""

    before: dict[Path, int]  # sizes of the files to which workers append them
    pool: str
    due: float = float("inf")  # monotonic time at which the files are read


class TakenStacks:
    """The stacks that this machine has been asked for. One thread uses it: the housekeeper's."""

    def __init__(self, machine: str, run_dir: Path) -> None:
        self._machine = machine
        self._run_dir = run_dir
        self._asked: dict[str, _Asked] = {}

    @property
    def is_due(self) -> bool:
        """Return whether there are stacks to be sent."""
        now = time.monotonic()
        return any(now >= asked.due for asked in self._asked.values())

    def begin(self, command: str, pool: str) -> None:
        """Note what the files of workers contain before a command is carried out."""
        while len(self._asked) >= MOST_ASKED:  # a supervisor that did not answer
            del self._asked[next(iter(self._asked))]
        self._asked[command] = _Asked({file: _size(file) for file in map(_stacks_file, worker_files(self._run_dir))}, pool)

    def ended(self, command: str, error: str) -> None:
        """Note that the supervisor has carried out a command, or why it has not."""
        if error:
            self._asked.pop(command, None)
        elif command in self._asked:
            self._asked[command].due = time.monotonic() + PATIENCE

    def send(self, backend: Backend) -> None:
        """Send the stacks that are due. Raises BackendError."""
        now = time.monotonic()
        for command in [name for name, asked in self._asked.items() if now >= asked.due]:
            data = self._report(command, self._asked.pop(command))
            backend.put_document(STACKS, self._machine, data, new_token(), ttl=STACKS_KEPT)

    def _report(self, command: str, asked: _Asked) -> bytes:
        found = sorted(self._workers(asked), key=lambda worker: (not worker.running, worker.pid))
        room = max(LEAST, ROOM // max(1, len(found)))
        kept = [msgspec.structs.replace(worker, text=_shortened(worker.text, room)) for worker in found]
        while True:
            report = StacksReport(command, time.time(), kept, len(found) - len(kept))
            data = msgspec.json.encode(report)
            if len(data) <= LARGEST or not kept:
                return data
            kept = kept[: len(kept) * LARGEST // len(data)] if len(kept) > 1 else []

    def _workers(self, asked: _Asked) -> Iterator[WorkerStacks]:
        for path in worker_files(self._run_dir):
            try:
                file = WorkerFile(path)
            except (OSError, ValueError):  # it has ended meanwhile
                continue
            header, entries = file.header(), sorted(file.entries(), key=lambda entry: entry.started)
            file.close()
            if asked.pool in ("", header.pool):
                stacks = _stacks_file(path)
                text, complete = _written(stacks, asked.before.get(stacks, 0))
                running = [f"{entry.job} {entry.id}" for entry in entries[:MOST_NAMED]]
                yield WorkerStacks(header.pid, header.pool, text, complete, running)


def _stacks_file(worker: Path) -> Path:
    return worker.with_name(worker.name + SUFFIX)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _written(file: Path, before: int) -> tuple[str, bool]:
    """Return what a worker has appended to its file, and whether it is complete."""
    try:
        with file.open("rb") as opened:
            opened.seek(before)
            written = opened.read(LARGEST)
    except OSError:
        return "", False
    end = f"\n{END}\n".encode()
    return written.partition(end)[0].decode(errors="replace"), end in written


def _shortened(text: str, most: int) -> str:
    """Return the beginning of a text, in whole lines, that has up to `most` bytes as JSON."""
    size = len(msgspec.json.encode(text))
    if size <= most:
        return text
    while size > most - 10:
        text = text[: len(text) * (most - 10) // size]
        size = len(msgspec.json.encode(text))
    return text.rpartition("\n")[0] + "\n…"
